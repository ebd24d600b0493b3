//! `check --online`: whether what a configuration names answers, and as it should.
//!
//! Owns the questions and the words for what came back. Each endpoint is asked once, all at the same time, within the
//! configured time limits, by the very clients that `serve` uses; nothing is changed there. No answer is shown, only what
//! became of it.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::{
    Failure,
    terminal::{BAD, GOOD, QUIET, Terminal, styled},
};
use crate::{
    app,
    gate::Tenant,
    keys::{Issuer, count_usable},
    metrics::Metrics,
    names::{Scope, Scopes, TENANT_SCOPE},
    salesforce::{exchange::ExchangeError, transport::TransportError},
    settings::{Settings, Store},
};

/// What became of one question.
struct Finding {
    what: String,
    /// What is there, or why not and which key to look at.
    result: Result<String, String>,
    took: Duration,
}

/// Asks everything, and says what came back.
///
/// # Errors
/// [`Failure::Said`] if anything failed.
pub(super) fn check(settings: &Settings, terminal: &Terminal) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Other(format!("the runtime cannot start: {error}")))?;
    let findings = runtime.block_on(ask(settings))?;
    for Finding { what, result, took } in &findings {
        let took = styled(QUIET, format!("{} ms", took.as_millis()));
        let line = match result {
            Ok(found) => format!("{}      {what}: {found} ({took})\n", styled(GOOD, "ok")),
            Err(reason) => format!("{}  {what}: {reason} ({took})\n", styled(BAD, "failed")),
        };
        terminal.print(&line)?;
    }
    if findings.iter().all(|finding| finding.result.is_ok()) { Ok(()) } else { Err(Failure::Said) }
}

async fn ask(settings: &Settings) -> Result<Vec<Finding>, Failure> {
    let metrics = Metrics::new("", "").map_err(Failure::of)?;
    let tenants = app::services(settings).map_err(Failure::of)?;
    let of_tenants = tenants.iter().enumerate().map(|(index, (tenant, _))| ask_services(index, tenant));
    let (of_tenants, store) = tokio::join!(join_all(of_tenants), ask_store(settings, &metrics));
    Ok(of_tenants.into_iter().flatten().chain(store).collect())
}

async fn ask_services(index: usize, tenant: &Tenant) -> Vec<Finding> {
    let organization = &tenant.settings.organization;
    let slas = timed(format!("{organization}: keys of SLAS at {}", tenant.settings.api), async {
        let document = tenant.slas.jwks().await.map_err(|error| because(&error, &format!("tenants[{index}].api")))?;
        usable(&Issuer::Slas(tenant.slas.clone()), &document)
    });
    let Some((service, own)) = tenant.account_manager.as_ref().zip(tenant.settings.account_manager.as_ref()) else {
        return vec![slas.await];
    };
    let table = format!("tenants[{index}].account_manager");
    let keys = timed(format!("{organization}: keys of Account Manager at {}", own.url), async {
        let document = service.jwks().await.map_err(|error| because(&error, &format!("{table}.url")))?;
        usable(&Issuer::AccountManager(service.clone()), &document)
    });
    let exchange = timed(format!("{organization}: a token for the gateway's own client {}", own.client_id), async {
        let of_tenant =
            format!("{TENANT_SCOPE}{}", tenant.settings.tenant).parse::<Scope>().map_err(|error| error.to_string())?;
        let scopes: Scopes = own.scopes.iter().cloned().chain([of_tenant]).collect();
        let error = match service.client_credentials(&own.client_id, &own.client_secret, &scopes).await {
            Ok(answer) => return Ok(format!("granted for {} s", answer.expires_in)),
            Err(error) => error,
        };
        if let Some(previous) = own.previous_client_secret.as_ref().filter(|_| error.refuses_client())
            && let Ok(answer) = service.client_credentials(&own.client_id, previous, &scopes).await
        {
            return Ok(format!("granted for {} s, by previous_client_secret alone", answer.expires_in));
        }
        Err(because(&error, &key_of_refusal(&table, &error)))
    });
    let (slas, keys, exchange) = tokio::join!(slas, keys, exchange);
    vec![slas, keys, exchange]
}

async fn ask_store(settings: &Settings, metrics: &Metrics) -> Option<Finding> {
    let Store::Redis(redis) = &settings.store else { return None };
    let what = "session store, Redis".to_owned();
    Some(
        timed(what, async {
            let store = app::session_store(settings, metrics).map_err(|error| error.to_string())?;
            // The first command also connects, which may take longer than a command may.
            let deadline = Instant::now() + settings.timeouts.connect;
            loop {
                match store.find(&[0; 32]).await {
                    Ok(_) => return Ok(format!("answers within {} ms", redis.timeout.as_millis())),
                    Err(error) if Instant::now() >= deadline => {
                        return Err(format!("{error}; see store.url, its user and password, store.ca"));
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(300)).await,
                }
            }
        })
        .await,
    )
}

async fn timed(what: String, ask: impl Future<Output = Result<String, String>>) -> Finding {
    let began = Instant::now();
    let result = ask.await;
    Finding { what, result, took: began.elapsed() }
}

fn usable(issuer: &Issuer, document: &[u8]) -> Result<String, String> {
    match count_usable(issuer, document) {
        0 => Err("what came is no key set, or has no key that could be used".to_owned()),
        1 => Ok("1 key".to_owned()),
        keys => Ok(format!("{keys} keys")),
    }
}

fn because(error: &ExchangeError, key: &str) -> String {
    let hint = match error {
        ExchangeError::Transport(TransportError::Unreachable) => " (refused, no such host, or TLS not verified)",
        _ => "",
    };
    format!("{error}{hint}; see {key}")
}

/// The key that a refused exchange is about.
fn key_of_refusal(table: &str, error: &ExchangeError) -> String {
    match error {
        ExchangeError::Rejected { code, .. } if code == "invalid_scope" => format!("{table}.scopes"),
        ExchangeError::Rejected { .. } => format!("{table}.client_id and client_secret"),
        _ => format!("{table}.url"),
    }
}

//! Tests of the session store and the trace collector.

use std::time::{Duration, Instant};

use super::probe::{ProbeResult, run_probe};
use crate::{
    app,
    config::{Settings, Store},
    observability::{metrics::Metrics, otlp},
    store::{KeyCheck, SessionStore, StoreError, UnavailableCause},
};

pub(super) async fn probe_store(settings: &Settings, metrics: &Metrics) -> Option<ProbeResult> {
    let Store::Redis(redis) = &settings.store else { return None };
    let name = "session store, Redis".to_owned();
    Some(
        run_probe(name, async {
            let store = app::build_session_store(settings, metrics).map_err(|error| error.to_string())?;
            wait_until_reachable(store.as_ref(), settings.timeouts.connect).await?;
            store.check_commands().await.map_err(|refused| refused.to_string())?;
            match store.check_key(false).await {
                Ok(other @ KeyCheck::Mismatch { .. }) => Err(other.to_string()),
                Ok(key) => {
                    Ok(format!("responds within {} ms and accepts all commands; {key}", redis.timeout.as_millis()))
                }
                Err(error) => Err(unreachable_reason(store.as_ref(), &error)),
            }
        })
        .await,
    )
}

/// Retries until the store responds. The first command also connects, which may take longer than a command's timeout.
async fn wait_until_reachable(store: &dyn SessionStore, timeout: Duration) -> Result<(), String> {
    let deadline = Instant::now() + timeout;
    loop {
        let Err(error) = store.find(&[0; 32]).await else { return Ok(()) };
        let is_transient = match store.state().outage {
            None => true,
            Some(outage) => matches!(
                outage.cause,
                UnavailableCause::TimedOut | UnavailableCause::ConnectionLost | UnavailableCause::Loading
            ),
        };
        if !is_transient || Instant::now() >= deadline {
            return Err(unreachable_reason(store, &error));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

fn unreachable_reason(store: &dyn SessionStore, error: &StoreError) -> String {
    match store.state().outage {
        Some(outage) => outage.to_string(),
        None => format!("{error}; see store.url"),
    }
}

/// Tests the collector with an empty export, without spans.
pub(super) async fn probe_collector(settings: &Settings) -> Option<ProbeResult> {
    let endpoint = settings.traces.endpoint.as_ref()?;
    let probe = async {
        let accepted = otlp::probe_collector(endpoint).await;
        accepted.map(|()| "accepts spans".to_owned()).map_err(|error| format!("{error}; see traces.endpoint"))
    };
    Some(run_probe(format!("trace collector at {endpoint}"), probe).await)
}

//! Tests the configured SLAS clients of an organization without getting a token.
//!
//! A private client refreshes with an invalid refresh token: SLAS rejects that token only after it has accepted the client's
//! secret. A public client starts a guest login, which tests its client id and redirect URI; the code is not used. The redirect URI
//! of a private client cannot be tested without a shopper's login.

use futures_util::future::join_all;
use secrecy::SecretString;

use super::probe::{ProbeResult, describe_failure, run_probe};
use crate::{
    config::SlasClient,
    gateway::tenant::Tenant,
    salesforce::{error::SalesforceError, guard::Priority, pkce::Pkce, slas::Slas},
    types::SiteId,
};

/// A refresh token that SLAS has certainly not issued.
const INVALID_REFRESH_TOKEN: &str = "no-refresh-token-but-a-check";
/// Maximum calls per client: with its secret, and with the previous one.
const MAX_CALLS_PER_CLIENT: usize = 2;

/// Tests each client with the organization's first site.
pub(super) async fn probe_clients(index: usize, tenant: &Tenant) -> Vec<ProbeResult> {
    let settings = &tenant.settings;
    let clients = &settings.slas_clients;
    // In a running gateway a task refills the permits.
    tenant
        .slas
        .guard()
        .permit_lease()
        .refill(Priority::Login, u32::try_from(clients.len() * MAX_CALLS_PER_CLIENT).unwrap_or(u32::MAX));
    let tried =
        settings.sites.first().into_iter().flat_map(|site| clients.iter().enumerate().map(move |one| (site, one)));
    let results = tried.map(|(site, (position, client))| {
        run_probe(format!("{}: SLAS client {}", settings.organization, client.id), async move {
            let taken = match &client.secret {
                Some(secret) => probe_private_client(&tenant.slas, client, secret, site).await,
                None => probe_public_client(&tenant.slas, client, site).await,
            };
            taken
                .map(str::to_owned)
                .map_err(|error| describe_failure(&error, &config_keys(index, position, client, &error)))
        })
    });
    join_all(results).await
}

async fn probe_public_client(slas: &Slas, client: &SlasClient, site: &SiteId) -> Result<&'static str, SalesforceError> {
    slas.authorize_guest(client, site, &Pkce::generate()?).await?;
    Ok("client id and redirect URI accepted")
}

async fn probe_private_client(
    slas: &Slas,
    client: &SlasClient,
    secret: &SecretString,
    site: &SiteId,
) -> Result<&'static str, SalesforceError> {
    let Err(error) = probe_secret(slas, client, secret, site).await else { return Ok("secret accepted") };
    if let Some(previous) = client.previous_secret.as_ref().filter(|_| error.is_client_rejected())
        && probe_secret(slas, client, previous, site).await.is_ok()
    {
        return Ok("only previous_client_secret accepted");
    }
    Err(error)
}

/// Tests one of a client's secrets.
async fn probe_secret(
    slas: &Slas,
    client: &SlasClient,
    secret: &SecretString,
    site: &SiteId,
) -> Result<(), SalesforceError> {
    let client = SlasClient { secret: Some(secret.clone()), previous_secret: None, ..client.clone() };
    let refreshed =
        slas.refresh(&client, site, &SecretString::from(INVALID_REFRESH_TOKEN), None, Priority::Login).await;
    match refreshed {
        Err(error) if !error.is_refresh_token_rejected() => Err(error),
        _ => Ok(()),
    }
}

/// The keys that may cause a failure, the likeliest first.
fn config_keys(index: usize, position: usize, client: &SlasClient, error: &SalesforceError) -> String {
    let (tenant, is_private) = (format!("tenants[{index}]"), client.secret.is_some());
    let table = format!("{tenant}.slas_clients[{position}]");
    let is_proof = error.is_client_auth_rejected();
    match (error, is_private) {
        (_, true) if is_proof => format!("{table}.client_secret and client_id"),
        (_, false) if is_proof => {
            format!("{table}.client_id, and client_secret if it is a private client")
        }
        (SalesforceError::Rejected { .. }, true) => format!("{table}.client_id and {tenant}.sites"),
        (SalesforceError::Rejected { .. }, false) => format!("{table}.client_id, redirect_uri and {tenant}.sites"),
        (SalesforceError::Malformed(_), false) => format!("{table}.redirect_uri"),
        _ => format!("{tenant}.api"),
    }
}

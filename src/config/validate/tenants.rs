//! Validates `[[tenants]]`.

use url::Url;

use super::{
    origins::{is_web_page, origins},
    storefronts::storefronts,
    table::Table,
};
use crate::{
    config::{
        AccountManager, PartialCaller, PartialSlasClient, PartialTenant, SlasClient, Tenant, file,
        secret_files::Resolver,
    },
    types::{ClientId, OrganizationId, SiteId},
};

/// SLAS's rate limit for a production organization, in requests per minute, as Salesforce documents it.
const PRODUCTION_SLAS_RATE: u32 = 24_000;
/// SLAS's rate limit for other organizations, in requests per minute.
const NON_PRODUCTION_SLAS_RATE: u32 = 500;

pub(super) fn tenants(raw: Vec<file::Tenant>, root: &mut Table<'_>) -> Vec<PartialTenant> {
    if raw.is_empty() {
        root.error("tenants", "missing; expected at least one [[tenants]] with organization_id, api and sites");
    }
    let mut tenants: Vec<PartialTenant> = Vec::new();
    for (position, raw) in raw.into_iter().enumerate() {
        let table = &mut root.table(&format!("tenants[{position}]"));
        let tenant = tenant(raw, table);
        if tenant.organization.is_some()
            && let Some(first) = tenants.iter().position(|other| other.organization == tenant.organization)
        {
            table.error("organization_id", format!("the same as tenants[{first}].organization_id"));
        }
        tenants.push(tenant);
    }
    tenants
}

fn tenant(raw: file::Tenant, table: &mut Table<'_>) -> PartialTenant {
    let has_account_manager = raw.account_manager.is_some();
    let account_manager = raw.account_manager.and_then(|raw| account_manager(raw, &mut table.table("account_manager")));
    let has_api_ca = raw.api_ca.is_some() || table.has_errors("api_ca");
    let api_ca = table.file("api_ca", raw.api_ca, Resolver::trusted_file);
    let mut slas_clients: Vec<PartialSlasClient> = Vec::new();
    for (position, raw) in raw.slas_clients.into_iter().enumerate() {
        let client = slas_client(raw, &slas_clients, &mut table.table(&format!("slas_clients[{position}]")));
        slas_clients.push(client);
    }
    let organization: Option<OrganizationId> =
        table.name("organization_id", raw.organization_id.as_deref().unwrap_or_default());
    let api = table.origin(
        "api",
        raw.api.as_deref().unwrap_or_default(),
        "https://kv7kzm78.api.commercecloud.salesforce.com",
    );
    let sites = raw.sites.unwrap_or_default();
    if sites.is_empty() {
        table.error("sites", "empty; expected at least one site, e.g. [\"RefArch\"]");
    }
    let sites: Vec<SiteId> = table.names("sites", sites);
    let valid_sites = sites.as_slice();
    let valid_sites = if table.has_errors("sites") { &[] } else { valid_sites };
    if raw.origins.is_none() && slas_clients.iter().any(|client| !client.is_private && client.redirects_to_page) {
        table.warn(
            "origins",
            "missing, and the redirect_uri of a public client is a web page: browsers at another origin than the gateway's cannot use the gateway; add [[tenants.origins]], or set origins = [] if browsers reach the gateway at the shop's own origin",
        );
    }
    let origins = origins(raw.origins.unwrap_or_default(), valid_sites, table);
    let storefronts = storefronts(raw.storefronts, valid_sites, &slas_clients, table);
    let private: Vec<&ClientId> = private_ids(&slas_clients).collect();
    let on_behalf_client = match (&raw.on_behalf_client, private.as_slice()) {
        (Some(text), _) => table.name("on_behalf_client", text),
        (None, [only]) => Some((*only).clone()),
        (None, _) => None,
    };
    if let Some(named) = on_behalf_client.as_ref().filter(|named| !private.contains(named))
        && slas_clients.iter().all(|client| client.id.is_some())
    {
        let message = if slas_clients.iter().any(|client| client.id.as_ref() == Some(named)) {
            "a public client; expected a private client: one of slas_clients with a client_secret"
        } else {
            "not one of this tenant's slas_clients"
        };
        table.error("on_behalf_client", message);
    }
    let account_manager_url = account_manager.as_ref().map(|manager| manager.url.clone());
    let complete = || {
        let organization = organization.clone()?;
        let default_rate = if organization.is_production() { PRODUCTION_SLAS_RATE } else { NON_PRODUCTION_SLAS_RATE };
        Some(Tenant {
            tenant: organization.tenant(),
            organization,
            api: api.clone()?,
            api_ca: api_ca.clone(),
            sites: sites.clone(),
            account_manager,
            slas_clients: slas_clients.iter().map(|client| client.complete.clone()).collect::<Option<_>>()?,
            on_behalf_client: on_behalf_client.clone(),
            origins,
            storefronts,
            register_sessions: raw.register_sessions,
            slas_requests_per_minute: raw.slas_requests_per_minute.unwrap_or(default_rate),
        })
    };
    PartialTenant {
        complete: complete().filter(|_| table.is_valid()),
        organization,
        api,
        api_ca,
        has_api_ca,
        account_manager: account_manager_url,
        has_account_manager,
        sites: (!table.has_errors("sites")).then_some(sites),
        slas_clients,
        sets_on_behalf_client: raw.on_behalf_client.is_some(),
        on_behalf_client,
    }
}

fn account_manager(raw: file::AccountManager, table: &mut Table<'_>) -> Option<AccountManager> {
    let client_secret = table.secret("client_secret", raw.client_secret);
    let previous_client_secret = table.secret("previous_client_secret", raw.previous_client_secret);
    let url = table.origin("url", &raw.url, "https://account.demandware.com");
    let client_id = table.name("client_id", raw.client_id.as_deref().unwrap_or_default());
    let scopes = table.scopes("scopes", raw.scopes);
    if scopes.iter().any(|scope| scope.as_str().starts_with("SALESFORCE_COMMERCE_API:")) {
        table.error(
            "scopes",
            "contains SALESFORCE_COMMERCE_API:…; remove it, because the gateway adds the tenant's own",
        );
    }
    Some(AccountManager {
        url: url?,
        client_id: client_id?,
        client_secret: client_secret?,
        previous_client_secret,
        scopes,
    })
}

fn slas_client(raw: file::SlasClient, others: &[PartialSlasClient], table: &mut Table<'_>) -> PartialSlasClient {
    let is_private = raw.client_secret.is_some() || table.has_errors("client_secret");
    let secret = table.secret("client_secret", raw.client_secret);
    let previous_secret = table.secret("previous_client_secret", raw.previous_client_secret);
    let id: Option<ClientId> = table.name("client_id", raw.client_id.as_deref().unwrap_or_default());
    let redirect_uri = raw.redirect_uri.unwrap_or_default();
    check_redirect_uri(&redirect_uri, table);
    let redirects_to_page = is_web_page(&redirect_uri);
    if raw.strict_client_auth && !is_private {
        table.error("strict_client_auth", "a public client has no credential to authenticate with; set client_secret");
    }
    if raw.vouch == Some(true) && !is_private {
        table.error("vouch", "a public client has no credential to add; set client_secret");
    }
    if previous_secret.is_some() && !is_private {
        table.error("previous_client_secret", "a public client has no secret; set client_secret too");
    }
    if id.is_some() && others.iter().any(|other| other.id == id) {
        table.error("client_id", "duplicate client id in this tenant's slas_clients");
    }
    let complete = id.clone().filter(|_| table.is_valid()).map(|id| SlasClient {
        id,
        secret,
        previous_secret,
        redirect_uri,
        strict_client_auth: raw.strict_client_auth,
        // `resolve_on_behalf_clients` changes the default for the client that acts on behalf of shoppers.
        vouch: raw.vouch.unwrap_or(true),
        requests_per_second: raw.requests_per_second,
    });
    PartialSlasClient { id, is_private, redirects_to_page, vouch: raw.vouch, complete }
}

/// The ids of the private clients.
fn private_ids(clients: &[PartialSlasClient]) -> impl Iterator<Item = &ClientId> {
    clients.iter().filter(|client| client.is_private).filter_map(|client| client.id.as_ref())
}

/// Checks the redirect URI. The gateway sends it exactly as in the file, because SLAS compares it byte by byte.
fn check_redirect_uri(text: &str, table: &mut Table<'_>) {
    let odd = |character: char| !character.is_ascii_graphic();
    let message = match Url::parse(text) {
        Err(_) => "not an absolute URI; expected e.g. http://localhost:3000/callback",
        Ok(_) if text.contains(odd) => "spaces, control and non-ASCII characters must be percent-encoded",
        Ok(url) if url.fragment().is_some() => "must not have a fragment (#…)",
        Ok(_) => return,
    };
    table.error("redirect_uri", message);
}

/// Checks that each tenant has one client for acting on behalf of shoppers, if a caller may do that. Resolves the default of
/// this client's `vouch`.
pub(super) fn resolve_on_behalf_clients(
    tenants: &mut [PartialTenant],
    callers: &[PartialCaller],
    root: &mut Table<'_>,
) {
    for (position, tenant) in tenants.iter_mut().enumerate() {
        let Some(organization) = &tenant.organization else { continue };
        let table = &mut root.table(&format!("tenants[{position}]"));
        let may_act = |caller: &PartialCaller| caller.acts_on_behalf && caller.organizations.contains(organization);
        let acting = callers.iter().position(may_act);
        if acting.is_some() || tenant.sets_on_behalf_client {
            resolve_vouch(tenant, table);
        }
        let Some(caller) = acting.filter(|_| !tenant.sets_on_behalf_client) else { continue };
        if tenant.slas_clients.iter().any(|client| client.id.is_none()) {
            continue;
        }
        match private_ids(&tenant.slas_clients).count() {
            0 => table.warn(
                "on_behalf_client",
                format!(
                    "callers[{caller}] may act on behalf of shoppers here, but slas_clients has no private client; add one"
                ),
            ),
            1 => {}
            _ => table.error(
                "on_behalf_client",
                format!(
                    "missing: callers[{caller}] may act on behalf of shoppers, and slas_clients has several private clients; set one"
                ),
            ),
        }
    }
}

/// Resolves the default of `vouch` for the client that acts on behalf of shoppers: false, unless it is the only private client
/// and storefronts may need it.
fn resolve_vouch(tenant: &mut PartialTenant, table: &mut Table<'_>) {
    let is_only_private = private_ids(&tenant.slas_clients).count() == 1;
    let clients = tenant.complete.iter_mut().flat_map(|tenant| &mut tenant.slas_clients);
    let mut clients = clients.zip(&tenant.slas_clients).enumerate();
    let acting = clients.find(|(_, (client, _))| Some(&client.id) == tenant.on_behalf_client.as_ref());
    let Some((position, (client, in_file))) = acting else { return };
    let table = &mut table.table(&format!("slas_clients[{position}]"));
    match in_file.vouch {
        None if is_only_private => table.warn(
            "vouch",
            "missing: the only private client acts on behalf of shoppers, and the gateway adds its credential to every request on the SLAS paths that names it; set true if a storefront needs this, otherwise false",
        ),
        None => client.vouch = false,
        Some(true) => table.warn(
            "vouch",
            "true for the client that acts on behalf of shoppers: a request on the SLAS paths can use it with the client id alone; use another client for storefronts",
        ),
        Some(false) => {}
    }
}

//! Validates `[[tenants]]`.
//!
//! Each tenant leaves a [`ParsedTenant`], also an invalid one, so that keys that refer to it are checked in the same run.

use secrecy::SecretString;
use url::Url;

use super::table::TableValidator;
use crate::{
    config::{
        AccountManager, PartialCaller, PartialTenant, SlasClient, Tenant, diagnostics::Diagnostics, file,
        secret_files::Resolver,
    },
    types::{ClientId, OrganizationId, SiteId},
};

/// SLAS's rate limit for a production organization, in requests per minute, as Salesforce documents it.
const PRODUCTION_SLAS_RATE: u32 = 24_000;
/// SLAS's rate limit for other organizations, in requests per minute.
const NON_PRODUCTION_SLAS_RATE: u32 = 500;

/// The valid part of a tenant.
pub(super) struct ParsedTenant {
    pub(super) organization: Option<OrganizationId>,
    /// Its sites; `None` if one of them is invalid.
    pub(super) sites: Option<Vec<SiteId>>,
    pub(super) has_account_manager: bool,
    /// Its servers.
    partial: PartialTenant,
    private_clients: Vec<ClientId>,
    has_all_client_ids: bool,
    sets_on_behalf_client: bool,
    /// The client that acts on behalf of shoppers: `on_behalf_client`, or the only private client.
    on_behalf_client: Option<ClientId>,
    /// `vouch` of each client, as in the file.
    vouch: Vec<Option<bool>>,
    /// The complete tenant; `None` if it has an error.
    pub(super) complete: Option<Tenant>,
}

impl ParsedTenant {
    /// Its servers, and the CA certificates for them.
    pub(super) fn partial(&self) -> PartialTenant {
        self.partial.clone()
    }
}

pub(super) fn tenants(
    raw: Vec<file::Tenant>,
    resolver: &Resolver<'_>,
    diagnostics: &mut Diagnostics,
) -> Vec<ParsedTenant> {
    if raw.is_empty() {
        diagnostics.error("tenants", "missing; expected at least one [[tenants]] with organization_id, api and sites");
    }
    let mut tenants: Vec<ParsedTenant> = Vec::new();
    for (position, raw) in raw.into_iter().enumerate() {
        let prefix = format!("tenants[{position}]");
        let tenant = tenant(&prefix, raw, resolver, diagnostics);
        let first =
            tenants.iter().position(|other| tenant.organization.is_some() && other.organization == tenant.organization);
        if let Some(first) = first {
            diagnostics
                .error(format!("{prefix}.organization_id"), format!("the same as tenants[{first}].organization_id"));
        }
        tenants.push(tenant);
    }
    tenants
}

fn tenant(prefix: &str, raw: file::Tenant, resolver: &Resolver<'_>, diagnostics: &mut Diagnostics) -> ParsedTenant {
    let has_account_manager = raw.account_manager.is_some();
    let account_manager = match raw.account_manager {
        Some(raw) => account_manager(&format!("{prefix}.account_manager"), raw, resolver, diagnostics).map(Some),
        None => Some(None),
    };
    let has_api_ca = raw.api_ca.is_some() || diagnostics.has_errors(&format!("{prefix}.api_ca"));
    let api_ca = match raw.api_ca {
        Some(file) => resolver.trusted_file(&format!("{prefix}.api_ca"), &file, diagnostics).map(Some),
        None => Some(None),
    };
    let clients = slas_clients(prefix, raw.slas_clients, resolver, diagnostics);

    let mut table = TableValidator::new(prefix, diagnostics);
    let organization: Option<OrganizationId> = table.required_name("organization_id", raw.organization_id.as_deref());
    let api = table.required("api", raw.api);
    let api: Option<Url> =
        api.and_then(|text| table.origin("api", &text, "https://kv7kzm78.api.commercecloud.salesforce.com"));
    let sites: Option<Vec<SiteId>> = table.required("sites", raw.sites).map(|list| {
        if list.is_empty() {
            table.error("sites", "empty; expected at least one site, e.g. [\"RefArch\"]");
        }
        table.names("sites", list)
    });
    let sites_have_errors = table.has_errors("sites");
    let sets_on_behalf_client = raw.on_behalf_client.is_some();
    let named = raw.on_behalf_client.and_then(|text| table.name::<ClientId>("on_behalf_client", &text));
    if let Some(named) = &named
        && !clients.private.contains(named)
        && clients.has_all_ids
    {
        let message = if clients.public.contains(named) {
            "a public client; expected a private client: one of slas_clients with a client_secret"
        } else {
            "not one of this tenant's slas_clients"
        };
        table.error("on_behalf_client", message);
    }
    let on_behalf_client = match (named, clients.private.as_slice()) {
        (None, [only]) if !sets_on_behalf_client => Some(only.clone()),
        (named, _) => named,
    };
    let partial = PartialTenant {
        organization: organization.clone(),
        api: api.clone(),
        api_ca: api_ca.clone().flatten(),
        has_api_ca,
        account_manager: account_manager
            .as_ref()
            .and_then(|manager| manager.as_ref().map(|manager| manager.url.clone())),
    };
    let complete = match (&organization, &sites, api, api_ca, account_manager, clients.all) {
        (Some(organization), Some(sites), Some(api), Some(api_ca), Some(account_manager), Some(slas_clients)) => {
            Some(Tenant {
                organization: organization.clone(),
                tenant: organization.tenant(),
                api,
                api_ca,
                sites: sites.clone(),
                account_manager,
                slas_clients,
                on_behalf_client: on_behalf_client.clone(),
                register_sessions: raw.register_sessions,
                slas_requests_per_minute: raw.slas_requests_per_minute.unwrap_or(if organization.is_production() {
                    PRODUCTION_SLAS_RATE
                } else {
                    NON_PRODUCTION_SLAS_RATE
                }),
            })
        }
        _ => None,
    };
    ParsedTenant {
        organization,
        sites: sites.filter(|_| !sites_have_errors),
        has_account_manager,
        partial,
        private_clients: clients.private,
        has_all_client_ids: clients.has_all_ids,
        sets_on_behalf_client,
        on_behalf_client,
        vouch: clients.vouch,
        complete,
    }
}

fn account_manager(
    prefix: &str,
    raw: file::AccountManager,
    resolver: &Resolver<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<AccountManager> {
    let client_secret = secret(prefix, raw.client_secret, resolver, diagnostics);
    let previous_client_secret = previous_secret(prefix, raw.previous_client_secret, resolver, diagnostics);
    let mut table = TableValidator::new(prefix, diagnostics);
    let url = table.origin("url", &raw.url, "https://account.demandware.com");
    let client_id = table.required_name("client_id", raw.client_id.as_deref());
    let scopes = table.scopes("scopes", raw.scopes);
    if scopes.iter().any(|scope| scope.as_str().starts_with("SALESFORCE_COMMERCE_API:")) {
        table.error(
            "scopes",
            "contains SALESFORCE_COMMERCE_API:…; remove it, because the gateway adds the tenant's own",
        );
    }
    let client_secret = table.required("client_secret", client_secret)??;
    Some(AccountManager {
        url: url?,
        client_id: client_id?,
        client_secret,
        previous_client_secret: previous_client_secret?,
        scopes,
    })
}

/// The `client_secret` of a table: `None` if absent, `Some(None)` after an error.
fn secret(
    prefix: &str,
    raw: Option<file::Secret>,
    resolver: &Resolver<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Option<SecretString>> {
    raw.map(|raw| resolver.secret(&format!("{prefix}.client_secret"), raw, diagnostics))
}

/// The `previous_client_secret` of a table: `Some(None)` if absent, `None` after an error.
fn previous_secret(
    prefix: &str,
    raw: Option<file::Secret>,
    resolver: &Resolver<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Option<SecretString>> {
    match raw {
        Some(raw) => resolver.secret(&format!("{prefix}.previous_client_secret"), raw, diagnostics).map(Some),
        None => Some(None),
    }
}

/// The SLAS clients of one tenant.
struct Clients {
    /// All clients; `None` if one has an error.
    all: Option<Vec<SlasClient>>,
    /// Clients with a secret, also an unreadable one.
    private: Vec<ClientId>,
    /// Clients without a secret.
    public: Vec<ClientId>,
    /// Whether the id of each client is valid.
    has_all_ids: bool,
    /// `vouch` of each client, as in the file.
    vouch: Vec<Option<bool>>,
}

fn slas_clients(
    parent: &str,
    raw: Vec<file::SlasClient>,
    resolver: &Resolver<'_>,
    diagnostics: &mut Diagnostics,
) -> Clients {
    let mut clients = Clients {
        all: Some(Vec::new()),
        private: Vec::new(),
        public: Vec::new(),
        has_all_ids: true,
        vouch: raw.iter().map(|client| client.vouch).collect(),
    };
    for (position, raw) in raw.into_iter().enumerate() {
        let prefix = format!("{parent}.slas_clients[{position}]");
        let secret = secret(&prefix, raw.client_secret, resolver, diagnostics);
        let previous = previous_secret(&prefix, raw.previous_client_secret, resolver, diagnostics);
        let mut table = TableValidator::new(&prefix, diagnostics);
        let id: Option<ClientId> = table.required_name("client_id", raw.client_id.as_deref());
        let redirect_uri = table.required("redirect_uri", raw.redirect_uri);
        let redirect_uri = redirect_uri.and_then(|text| valid_redirect_uri(text, &mut table));
        let is_private = secret.is_some() || table.has_errors("client_secret");
        if raw.strict_client_auth && !is_private {
            table.error(
                "strict_client_auth",
                "a public client has no credential to authenticate with; set client_secret",
            );
        }
        if raw.vouch == Some(true) && !is_private {
            table.error("vouch", "a public client has no credential to add; set client_secret");
        }
        if !is_private && previous.as_ref().is_some_and(Option::is_some) {
            table.error("previous_client_secret", "a public client has no secret; set client_secret too");
        }
        clients.has_all_ids &= id.is_some();
        if let Some(id) = &id {
            if clients.private.contains(id) || clients.public.contains(id) {
                table.error("client_id", "duplicate client id in this tenant's slas_clients");
            }
            if is_private { clients.private.push(id.clone()) } else { clients.public.push(id.clone()) }
        }
        let secret = match secret {
            Some(secret) => secret.map(Some),
            None => Some(None),
        };
        let client = match (id, secret, previous, redirect_uri) {
            (Some(id), Some(secret), Some(previous_secret), Some(redirect_uri)) => Some(SlasClient {
                id,
                secret,
                previous_secret,
                redirect_uri,
                strict_client_auth: raw.strict_client_auth,
                // `resolve_on_behalf_clients` changes the default for the client that acts on behalf of shoppers.
                vouch: raw.vouch.unwrap_or(true),
                requests_per_second: raw.requests_per_second,
            }),
            _ => None,
        };
        clients.all = clients.all.zip(client).map(|(mut all, client)| {
            all.push(client);
            all
        });
    }
    clients
}

/// The redirect URI exactly as in the file, because SLAS compares it byte by byte.
fn valid_redirect_uri(text: String, table: &mut TableValidator<'_>) -> Option<String> {
    let odd = |character: char| !character.is_ascii_graphic();
    let message = match Url::parse(&text) {
        Err(_) => "not an absolute URI; expected e.g. http://localhost:3000/callback",
        Ok(_) if text.contains(odd) => "spaces, control and non-ASCII characters must be percent-encoded",
        Ok(url) if url.fragment().is_some() => "must not have a fragment (#…)",
        Ok(_) => return Some(text),
    };
    table.error("redirect_uri", message);
    None
}

/// Checks that each tenant has one client for acting on behalf of shoppers, if a caller may do that. Resolves the default of
/// this client's `vouch`.
pub(super) fn resolve_on_behalf_clients(
    tenants: &mut [ParsedTenant],
    callers: &[PartialCaller],
    diagnostics: &mut Diagnostics,
) {
    for (position, tenant) in tenants.iter_mut().enumerate() {
        let Some(organization) = &tenant.organization else { continue };
        let acting = callers.iter().position(|caller| caller.on_behalf_organizations.contains(organization));
        if acting.is_some() || tenant.sets_on_behalf_client {
            resolve_vouch(&format!("tenants[{position}]"), tenant, diagnostics);
        }
        let Some(caller) = acting else { continue };
        let key = format!("tenants[{position}].on_behalf_client");
        match tenant.private_clients.len() {
            _ if tenant.sets_on_behalf_client || !tenant.has_all_client_ids => {}
            0 => diagnostics.warn(
                key,
                format!(
                    "callers[{caller}] may act on behalf of shoppers here, but slas_clients has no private client; add one"
                ),
            ),
            1 => {}
            _ => diagnostics.error(
                key,
                format!(
                    "missing: callers[{caller}] may act on behalf of shoppers, and slas_clients has several private clients; set one"
                ),
            ),
        }
    }
}

/// Resolves the default of `vouch` for the client that acts on behalf of shoppers: false, unless it is the only private client
/// and storefronts may need it.
fn resolve_vouch(prefix: &str, tenant: &mut ParsedTenant, diagnostics: &mut Diagnostics) {
    let clients = tenant.complete.as_mut().map(|tenant| &mut tenant.slas_clients);
    let acting = clients.into_iter().flatten().enumerate();
    let Some((position, client)) =
        acting.into_iter().find(|(_, client)| Some(&client.id) == tenant.on_behalf_client.as_ref())
    else {
        return;
    };
    let key = format!("{prefix}.slas_clients[{position}].vouch");
    match tenant.vouch.get(position).copied().flatten() {
        None if tenant.private_clients.len() == 1 => diagnostics.warn(
            key,
            "missing: the only private client acts on behalf of shoppers, and the gateway adds its credential to every request on the SLAS paths that names it; set true if a storefront needs this, otherwise false",
        ),
        None => client.vouch = false,
        Some(true) => diagnostics.warn(
            key,
            "true for the client that acts on behalf of shoppers: a request on the SLAS paths can use it with the client id alone; use another client for storefronts",
        ),
        Some(false) => {}
    }
}

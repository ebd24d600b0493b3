//! Requests of web pages from other origins than the gateway's (CORS; Fetch standard, 3.2).
//!
//! A browser asks with a preflight before it sends such a request, and shows its response to the page only if the response allows
//! the page's origin. The gateway answers preflights itself: Salesforce sees none. The fields of a response follow from the
//! request's `Origin` and the tenant's `[[tenants.origins]]` alone, so that errors carry them like any other response.
//!
//! CORS restricts browsers, not clients: without cookies, every right still comes from the token. A tenant without origins is
//! served as if this module did not exist.

mod fields;
mod origins;

use std::time::Duration;

use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, CACHE_CONTROL, ORIGIN,
        REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
    },
    request::Parts,
};
use url::Url;

use self::{
    fields::{ALLOW_PRIVATE_NETWORK, REQUEST_PRIVATE_NETWORK, RequestedFields, is_preflight},
    origins::{CorsCounters, CorsResult, TenantOrigins},
};
use super::{
    error::GatewayError,
    form::{self, Form},
    headers::HeaderEdits,
    origin::{is_own_origin, origin},
    path::RequestPath,
    policy::{Methods, Operations},
    query::Query,
    request::Route,
    response::LocalResponse,
};
use crate::{
    config::{self, AllowedOrigin},
    observability::metrics::Metrics,
    types::{ByOrganization, OrganizationId, SiteId},
};

/// The path of PWA Kit's and the SDKs' redirect URI.
const CALLBACK: &str = "/callback";
/// The request fields on which the answer to a preflight depends.
const PREFLIGHT_VARY: &str = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";
/// The request field on which every other response depends.
const RESPONSE_VARY: &str = "Origin";
/// The label of requests that name no organization.
const NO_TENANT: &str = "none";

/// Decides about requests from other origins.
#[derive(Debug)]
pub struct Cors {
    /// The origins of each organization; `None` if it allows none.
    tenants: ByOrganization<Option<TenantOrigins>>,
    /// The organizations that allow origins, in the order of the configuration.
    with_origins: Vec<OrganizationId>,
    /// The paths at which SLAS's redirects of a browser login end.
    callbacks: Vec<String>,
    of_no_tenant: CorsCounters,
}

/// Whose origins a request may have.
enum Origins<'a> {
    /// Those of the organization that the path names.
    Of(&'a TenantOrigins),
    /// Those of every organization: the path names none that is configured.
    OfAny,
}

/// Where a response comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseSource {
    /// The gateway.
    Gateway,
    /// Salesforce. Its own CORS fields are replaced.
    Upstream,
}

impl Cors {
    /// The origins of a configuration.
    #[must_use]
    pub fn new(tenants: &[config::Tenant], operations: &Operations, metrics: &Metrics) -> Self {
        let (mut callbacks, mut with_origins) = (Vec::new(), Vec::new());
        let mut by_organization = ByOrganization::default();
        for tenant in tenants {
            let organization = tenant.organization.clone();
            let origins = (!tenant.origins.is_empty()).then(|| {
                let counters = CorsCounters::new(organization.as_str(), metrics);
                TenantOrigins::new(tenant.origins.clone(), counters)
            });
            if origins.is_some() {
                let redirects = tenant.slas_clients.iter().filter_map(|client| path_of(&client.redirect_uri));
                callbacks.extend(redirects.chain([CALLBACK.to_owned()]));
                with_origins.push(organization.clone());
            }
            by_organization.insert(organization, origins);
        }
        callbacks.sort();
        callbacks.dedup();
        callbacks
            .retain(|path| RequestPath::parse(path).is_ok_and(|path| operations.methods(&path, |_| true).is_err()));
        let of_no_tenant = CorsCounters::new(NO_TENANT, metrics);
        Self { tenants: by_organization, with_origins, callbacks, of_no_tenant }
    }

    /// Whether a request is the end of a browser login: the redirect URI of a client, at the gateway. The tokens come from a later
    /// request, so the response is empty.
    pub(super) fn is_callback(&self, head: &Parts) -> bool {
        self.callbacks.iter().any(|path| path == head.uri.path())
    }

    /// Whether a form must be read before the gateway knows the site of a request, on which its origin depends.
    pub(super) fn needs_form(&self, route: &Route, head: &Parts) -> bool {
        self.of_tenant(&route.organization).is_some_and(|origins| origins.depends_on_site)
            && origin(&head.headers).is_some()
    }

    /// Returns the response to a preflight of a path where methods are published. `None` if the request is no preflight.
    ///
    /// # Errors
    /// [`GatewayError::OriginsNotConfigured`], [`GatewayError::OriginNotAllowed`].
    pub(super) fn preflight(
        &self,
        head: &Parts,
        organization: Option<&OrganizationId>,
        methods: Methods,
    ) -> Result<Option<LocalResponse>, GatewayError> {
        if !is_preflight(head) {
            return Ok(None);
        }
        let origins = match organization {
            Some(organization) => self.of_tenant(organization).map(Origins::Of),
            None => Some(Origins::OfAny),
        };
        let origins = origins.ok_or(GatewayError::OriginsNotConfigured)?;
        let Some((entry, counters)) = self.allowed(&origins, head, None) else {
            self.counters(&origins).count(CorsResult::PreflightRefused);
            return Err(GatewayError::OriginNotAllowed);
        };
        let requested = RequestedFields::read(&head.headers, entry);
        let has_method = fields::requested_method(&head.headers).is_some_and(|name| methods.contains(name.as_bytes()));
        counters.count(match has_method && requested.is_complete {
            true => CorsResult::PreflightAllowed,
            false => CorsResult::PreflightRefused,
        });
        let mut response = LocalResponse::empty(StatusCode::NO_CONTENT);
        let headers = &mut response.headers;
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods.list());
        if let Some(allowed) = requested.allowed {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        }
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(whole_seconds(entry.max_age)));
        let asks = head.headers.get(REQUEST_PRIVATE_NETWORK).is_some_and(|value| value.as_bytes() == b"true");
        if asks && entry.private_network {
            headers.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
        }
        Ok(Some(response))
    }

    /// Counts a preflight of a path where nothing is published.
    pub(super) fn count_failed_preflight(&self, head: &Parts) {
        if is_preflight(head)
            && let Some(origins) = self.origins(head, None)
        {
            self.counters(&origins).count(CorsResult::PreflightRefused);
        }
    }

    /// Returns the edits of a response's header fields: those of CORS, and `Vary`. `None` if the request's tenant allows no
    /// origins. Counts the request, unless it is a preflight.
    #[must_use]
    pub(super) fn response_edits(
        &self,
        head: &Parts,
        route: Option<&Route>,
        response: &HeaderMap,
        source: ResponseSource,
    ) -> Option<HeaderEdits> {
        let origins = self.origins(head, route)?;
        let mut edits = HeaderEdits::default();
        if source == ResponseSource::Upstream {
            edits.remove.extend(fields::cors_fields(response).cloned());
        }
        let is_preflight = is_preflight(head);
        if let Some(vary) = fields::vary(response, if is_preflight { PREFLIGHT_VARY } else { RESPONSE_VARY }) {
            edits.set.push((VARY, vary));
        }
        if !head.headers.contains_key(ORIGIN) {
            return Some(edits);
        }
        let channel = route.and_then(|route| route.channel.as_ref());
        let allowed = self.allowed(&origins, head, channel);
        let origin = origin(&head.headers);
        if let (Some((entry, _)), Some(origin)) = (allowed, origin) {
            edits.set.push((ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone()));
            if entry.credentials {
                edits.set.push((ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
            }
            if !is_preflight {
                edits.set.push((ACCESS_CONTROL_EXPOSE_HEADERS, fields::exposed(response)));
            }
        }
        match allowed {
            _ if is_preflight => {}
            Some((_, counters)) => counters.count(CorsResult::Allowed),
            None if origin
                .and_then(|origin| origin.to_str().ok())
                .is_some_and(|origin| is_own_origin(head, origin)) => {}
            None => self.counters(&origins).count(CorsResult::Refused),
        }
        Some(edits)
    }

    /// The entry that allows the page of a request, and the counters of its tenant. The site is that of the query, or of the form.
    fn allowed<'a>(
        &'a self,
        origins: &Origins<'a>,
        head: &Parts,
        channel: Option<&SiteId>,
    ) -> Option<(&'a AllowedOrigin, &'a CorsCounters)> {
        let origin = origin(&head.headers)?.as_bytes();
        let find = |of: &'a TenantOrigins| {
            let in_query = of.depends_on_site.then(|| site_in_query(head)).flatten();
            of.find(origin, in_query.as_ref().or(channel)).map(|entry| (entry, &of.counters))
        };
        match origins {
            Origins::Of(of) => find(of),
            Origins::OfAny => {
                self.with_origins.iter().filter_map(|organization| self.of_tenant(organization)).find_map(find)
            }
        }
    }

    fn of_tenant(&self, organization: &OrganizationId) -> Option<&TenantOrigins> {
        self.tenants.get(organization)?.as_ref()
    }

    fn counters<'a>(&'a self, origins: &Origins<'a>) -> &'a CorsCounters {
        match origins {
            Origins::Of(of) => &of.counters,
            Origins::OfAny => &self.of_no_tenant,
        }
    }

    /// Whose origins a request may have. `None` if its tenant allows none.
    fn origins(&self, head: &Parts, route: Option<&Route>) -> Option<Origins<'_>> {
        if self.with_origins.is_empty() {
            return None;
        }
        let of_tenant = match route {
            Some(route) => self.tenants.get(&route.organization),
            None => organization_in(head.uri.path()).and_then(|organization| self.tenants.get(&organization)),
        };
        match of_tenant {
            Some(of_tenant) => of_tenant.as_ref().map(Origins::Of),
            None => Some(Origins::OfAny),
        }
    }
}

/// Returns the response to a browser that was redirected here after its login. The page that made the request reads the code from
/// the URL of the response.
pub(super) fn callback_response() -> LocalResponse {
    let mut response = LocalResponse::empty(StatusCode::OK);
    for (name, value) in
        [(CACHE_CONTROL, "no-store"), (REFERRER_POLICY, "no-referrer"), (X_CONTENT_TYPE_OPTIONS, "nosniff")]
    {
        response.headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The site of a request's query: `siteId`, or `channel_id`, as SLAS calls it. A query with two readings gets an error elsewhere.
fn site_in_query(head: &Parts) -> Option<SiteId> {
    let query = Query::parse(head.uri.query()).ok()?;
    let site = query.single("siteId").ok()?.filter(|site| !site.is_empty());
    site.or(query.single("channel_id").ok()?)?.parse().ok()
}

/// The site that a form names. A form with two readings gets an error elsewhere.
pub(super) fn site_in_form(head: &Parts, body: &[u8]) -> Option<SiteId> {
    if !form::is_form(&head.headers) {
        return None;
    }
    Form::parse(body).ok()?.single("channel_id").ok()??.parse().ok()
}

/// The organization that a path names, even if it is no valid path.
fn organization_in(path: &str) -> Option<OrganizationId> {
    let mut segments = path.split('/');
    match segments.find(|segment| matches!(*segment, "organizations" | "tenants"))? {
        "organizations" => segments.next()?.parse().ok(),
        _ => segments.next()?.parse().ok().map(|tenant| OrganizationId::from_tenant(&tenant)),
    }
}

/// The path of a redirect URI. `None` for the root, and for apps that are no web pages.
fn path_of(redirect_uri: &str) -> Option<String> {
    let url = Url::parse(redirect_uri).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    Some(url.path().to_owned()).filter(|path| path != "/")
}

/// Seconds, rounded up.
fn whole_seconds(age: Duration) -> u64 {
    age.as_secs() + u64::from(age.subsec_nanos() > 0)
}

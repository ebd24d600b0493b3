//! Requests of trusted systems on behalf of a shopper: `X-On-Behalf-Of`.
//!
//! Owns the reading of these fields and the order of the questions: who asks, whether he may, for whom; only then is a
//! token obtained. What the token allows is checked like any shopper's.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use secrecy::{ExposeSecret, SecretString};
use tracing::Instrument;

use super::callers::Caller;
use crate::gateway::{
    Gateway, Request, Route, Tenant,
    authorize::authorize_shopper,
    error::GatewayError,
    headers::{UpstreamCredential, starts_like},
    policy::Operation,
};
use crate::{
    observability::{
        audit::{AuditRecord, Event},
        spans,
    },
    tokens::on_behalf::{ECOM_IDP, OnBehalfError, OnBehalfSubject, OnBehalfToken, SubjectShopper, is_guest_login},
    types::{Scopes, SiteId, Usid},
};

/// Names the shopper's login.
const LOGIN: HeaderName = HeaderName::from_static("x-on-behalf-of");
/// Names the identity provider that knows the login; B2C Commerce itself if absent.
const IDP: HeaderName = HeaderName::from_static("x-on-behalf-of-idp");
/// Names the guest that `X-On-Behalf-Of: guest` continues; in answers, the guest that the request was for.
pub const GUEST_USID: HeaderName = HeaderName::from_static("x-on-behalf-of-usid");
/// Longest login id, characters: what SLAS takes for a token on behalf (`login_id`, `auth` 1.50.0).
const MAX_LOGIN_CHARACTERS: usize = 128;
/// Longest name of an identity provider, characters. The longest that SLAS publishes has 15.
const MAX_IDP_CHARACTERS: usize = 64;

/// The shopper that a request names.
#[derive(Debug)]
pub(in crate::gateway) struct OnBehalfHeader {
    login: SecretString,
    idp: String,
    /// `None` for a shopper with a login.
    guest: Option<RequestedGuest>,
    /// Whether the caller gets the token itself.
    is_handed_out: bool,
}

/// The guest that a request names.
#[derive(Debug)]
enum RequestedGuest {
    /// One that does not exist yet.
    New,
    /// One of an earlier answer.
    Continued(Usid),
}

/// Whether a request has one of these fields, in any spelling.
pub(in crate::gateway) fn is_asked(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| starts_like(name.as_str(), LOGIN.as_str()))
}

impl OnBehalfHeader {
    /// Reads the fields: each at most once, in its one spelling.
    fn read(headers: &HeaderMap) -> Result<Self, GatewayError> {
        let known = [&LOGIN, &IDP, &GUEST_USID];
        if headers.keys().any(|name| starts_like(name.as_str(), LOGIN.as_str()) && !known.contains(&name)) {
            return Err(GatewayError::Ambiguous("a field like X-On-Behalf-Of in another spelling".into()));
        }
        let login = single(headers, &LOGIN)?.ok_or_else(|| {
            GatewayError::RequestInvalid("X-On-Behalf-Of is missing; it names the shopper's login, or guest.".into())
        })?;
        let idp = single(headers, &IDP)?.unwrap_or(ECOM_IDP);
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if !(1..=MAX_IDP_CHARACTERS).contains(&idp.len()) || !idp.bytes().all(is_word) {
            return Err(GatewayError::RequestInvalid(
                "X-On-Behalf-Of-Idp must be one identity provider, e.g. ecom.".into(),
            ));
        }
        let login = read_login(login, "X-On-Behalf-Of")?;
        let usid = single(headers, &GUEST_USID)?;
        let guest = match (is_guest_login(login.expose_secret()), usid) {
            (true, _) if idp != ECOM_IDP => {
                let problem = "X-On-Behalf-Of: guest is a guest of B2C Commerce: leave out X-On-Behalf-Of-Idp.";
                return Err(GatewayError::RequestInvalid(problem.into()));
            }
            (true, Some(usid)) => {
                let usid = usid
                    .parse()
                    .map_err(|error| GatewayError::RequestInvalid(format!("X-On-Behalf-Of-Usid is {error}.")))?;
                Some(RequestedGuest::Continued(usid))
            }
            (true, None) => Some(RequestedGuest::New),
            (false, None) => None,
            (false, Some(_)) => {
                let problem = "X-On-Behalf-Of-Usid names a guest: it needs X-On-Behalf-Of: guest.";
                return Err(GatewayError::RequestInvalid(problem.into()));
            }
        };
        Ok(Self { login, idp: idp.to_owned(), guest, is_handed_out: false })
    }

    fn is_new_guest(&self) -> bool {
        matches!(self.guest, Some(RequestedGuest::New))
    }

    /// A shopper that B2C Commerce itself knows, named by the body's `login`, whose token the caller gets. A guest has none.
    pub(in crate::gateway) fn registered(login: &SecretString) -> Result<Self, GatewayError> {
        let login = read_login(login.expose_secret(), "The body's login")?;
        if is_guest_login(login.expose_secret()) {
            return Err(GatewayError::ShopperUnknown);
        }
        Ok(Self { login, idp: ECOM_IDP.to_owned(), guest: None, is_handed_out: true })
    }
}

/// A login id as it is sent to SLAS, and told from others by its bytes.
fn read_login(text: &str, what: &str) -> Result<SecretString, GatewayError> {
    let login = text.trim();
    if login.is_empty() || login.chars().count() > MAX_LOGIN_CHARACTERS || login.chars().any(char::is_control) {
        let problem = format!("{what} must be one login id of at most {MAX_LOGIN_CHARACTERS} characters.");
        return Err(GatewayError::RequestInvalid(problem));
    }
    Ok(SecretString::from(login))
}

fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, GatewayError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(GatewayError::Ambiguous(format!("{name} stands twice")));
    }
    let text = std::str::from_utf8(value.as_bytes());
    text.map(|text| Some(text.trim())).map_err(|_| GatewayError::RequestInvalid(format!("{name} is not UTF-8.")))
}

impl Gateway {
    /// The credential for an operation that a trusted system asks for on behalf of a shopper.
    pub(in crate::gateway) async fn authorize_on_behalf(
        &self,
        tenant: &Tenant,
        route: &Route,
        request: &Request<'_>,
        audit: &mut AuditRecord,
    ) -> Result<UpstreamCredential, GatewayError> {
        audit.event = Some(Event::OnBehalf);
        let trusted =
            self.trusted(tenant, route, request, &Scopes::default(), audit).await.map_err(|refusal| match refusal {
                // Whoever is no trusted system may not name a shopper, whatever else may be wrong with him.
                GatewayError::TokenMissing | GatewayError::TokenKindWrong(_) => GatewayError::CallerNotAllowed,
                refusal => refusal,
            })?;
        self.prove(tenant, &trusted, &Scopes::default()).await?;
        let operation = route.operation.as_deref().filter(|operation| operation.wants_shopper());
        let operation = operation.ok_or(GatewayError::CallerNotAllowed)?;
        let named = OnBehalfHeader::read(&request.head.headers)?;
        let site = self.site_for(tenant, route)?;
        // Each new guest is a call to SLAS, so that the caller's rate comes before it.
        if named.is_new_guest() {
            self.bounds.caller(&trusted.caller)?;
        }
        let token = self.on_behalf_token(tenant, &trusted.caller, operation, site, named, audit).await?;
        authorize_shopper(&token.ready.verified.shopper, operation, Some(site))?;
        Ok(UpstreamCredential::on_behalf(trusted.caller, token))
    }

    /// A token on behalf of a shopper, for a proven caller who may.
    pub(in crate::gateway) async fn on_behalf_token(
        &self,
        tenant: &Tenant,
        caller: &Caller,
        operation: &Operation,
        site: &SiteId,
        named: OnBehalfHeader,
        audit: &mut AuditRecord,
    ) -> Result<OnBehalfToken, GatewayError> {
        let organization = &tenant.settings.organization;
        if !caller.may_on_behalf(operation, organization, site) {
            return Err(GatewayError::CallerNotAllowed);
        }
        if named.idp != ECOM_IDP && !caller.settings.may_create_shoppers {
            return Err(GatewayError::CallerMayNotCreateShoppers);
        }
        let shopper = match named.guest {
            None => SubjectShopper::Registered { idp: named.idp, login: named.login },
            Some(RequestedGuest::New) => SubjectShopper::NewGuest,
            Some(RequestedGuest::Continued(usid)) => {
                SubjectShopper::Guest { usid, caller: caller.settings.name.clone() }
            }
        };
        let recipient = named.is_handed_out.then(|| caller.entry());
        let subject =
            Arc::new(OnBehalfSubject { organization: organization.clone(), site: site.clone(), shopper, recipient });
        let token = self.on_behalf.token(&subject).instrument(spans::cache("on_behalf")).await;
        audit.shopper = match &token {
            Ok(OnBehalfToken { ready, .. }) => {
                let customer = ready.verified.shopper.customer.as_ref();
                customer.map(|customer| self.audit.pseudonym(organization.as_str(), customer.as_str()))
            }
            Err(_) => Some(self.audit.pseudonym_of_login(organization.as_str(), subject.shopper.login_or_usid())),
        };
        token.map_err(|error| refusal_of(&error))
    }

    /// The site of a request on behalf: its own, or the only one that the organization has.
    fn site_for<'t>(&self, tenant: &'t Tenant, route: &Route) -> Result<&'t SiteId, GatewayError> {
        let sites = &tenant.settings.sites;
        let site = match (&route.site, sites.as_slice()) {
            (Some(request), _) => sites.iter().find(|site| *site == request),
            (None, [only]) => Some(only),
            (None, _) => None,
        };
        site.ok_or_else(|| {
            GatewayError::RequestInvalid("The query's siteId must be one of the sites of this organization.".into())
        })
    }
}

fn refusal_of(error: &OnBehalfError) -> GatewayError {
    match error {
        OnBehalfError::NoClient => {
            GatewayError::RequestInvalid("This organization has no client that acts on behalf of shoppers.".into())
        }
        OnBehalfError::TooManyWaiting => GatewayError::Overloaded,
        OnBehalfError::ShopperUnknown => GatewayError::ShopperUnknown,
        OnBehalfError::Slas(error) => GatewayError::of_slas(error),
        OnBehalfError::Store(_) => GatewayError::StoreUnavailable,
    }
}

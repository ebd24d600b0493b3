//! The `X-On-Behalf-Of` header fields: the shopper on whose behalf a trusted system sends a request.

use http::{HeaderMap, HeaderName};
use secrecy::{ExposeSecret, SecretString};

use super::{callers::Caller, error::GatewayError, field_names::starts_with_ignoring_separator};
use crate::{
    tokens::on_behalf::{ECOM_IDP, OnBehalfSubject, SubjectShopper, is_guest_login},
    types::{OrganizationId, SiteId, Usid},
};

/// The shopper's login.
const LOGIN: HeaderName = HeaderName::from_static("x-on-behalf-of");
/// The identity provider of the login. B2C Commerce if absent.
const IDP: HeaderName = HeaderName::from_static("x-on-behalf-of-idp");
/// The USID of the guest that `X-On-Behalf-Of: guest` continues. A response names the guest of its request.
pub const GUEST_USID: HeaderName = HeaderName::from_static("x-on-behalf-of-usid");
/// The maximum length of a login id, characters, by SLAS's description (`login_id`, `auth` 1.50.0).
const MAX_LOGIN_CHARACTERS: usize = 128;
/// The maximum length of an identity provider's name, characters. The longest published name has 15.
const MAX_IDP_CHARACTERS: usize = 64;

/// The shopper that a trusted system names.
#[derive(Debug)]
pub(in crate::gateway) struct OnBehalfHeader {
    login: SecretString,
    idp: String,
    /// `None` for a shopper with a login.
    guest: Option<RequestedGuest>,
    /// Whether the caller receives the token.
    is_handed_out: bool,
}

/// The guest that a trusted system names.
#[derive(Debug)]
enum RequestedGuest {
    /// A guest that does not exist yet.
    New,
    /// The guest of an earlier response.
    Continued(Usid),
}

/// Whether a request has one of these fields, in any spelling.
pub(in crate::gateway) fn is_present(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| starts_with_ignoring_separator(name.as_str(), LOGIN.as_str()))
}

impl OnBehalfHeader {
    /// Reads the fields. Each may occur once, in its exact spelling.
    ///
    /// # Errors
    /// [`GatewayError::Ambiguous`] if a field occurs twice or in another spelling, [`GatewayError::RequestInvalid`] if a value is
    /// invalid.
    pub(in crate::gateway) fn read(headers: &HeaderMap) -> Result<Self, GatewayError> {
        let known = [&LOGIN, &IDP, &GUEST_USID];
        if headers
            .keys()
            .any(|name| starts_with_ignoring_separator(name.as_str(), LOGIN.as_str()) && !known.contains(&name))
        {
            return Err(GatewayError::Ambiguous("a field is spelled almost like X-On-Behalf-Of".into()));
        }
        let login = single(headers, &LOGIN)?.ok_or_else(|| {
            GatewayError::RequestInvalid("X-On-Behalf-Of is missing. It must be the shopper's login, or guest.".into())
        })?;
        let idp = single(headers, &IDP)?.unwrap_or(ECOM_IDP);
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if !(1..=MAX_IDP_CHARACTERS).contains(&idp.len()) || !idp.bytes().all(is_word) {
            return Err(GatewayError::RequestInvalid(
                "X-On-Behalf-Of-Idp must be one identity provider, for example ecom.".into(),
            ));
        }
        let login = read_login(login, "X-On-Behalf-Of")?;
        let usid = single(headers, &GUEST_USID)?;
        let guest = match (is_guest_login(login.expose_secret()), usid) {
            (true, _) if idp != ECOM_IDP => {
                let problem = "X-On-Behalf-Of: guest is a guest of B2C Commerce. Do not send X-On-Behalf-Of-Idp.";
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
                let problem = "X-On-Behalf-Of-Usid is a guest's. Send it with X-On-Behalf-Of: guest.";
                return Err(GatewayError::RequestInvalid(problem.into()));
            }
        };
        Ok(Self { login, idp: idp.to_owned(), guest, is_handed_out: false })
    }

    /// Whether the shopper has another identity provider than B2C Commerce. SLAS creates such shoppers.
    pub(in crate::gateway) fn is_of_other_provider(&self) -> bool {
        self.idp != ECOM_IDP
    }

    /// Returns the subject of the token: the shopper at a site, for a caller.
    pub(in crate::gateway) fn into_subject(
        self,
        organization: &OrganizationId,
        site: &SiteId,
        caller: &Caller,
    ) -> OnBehalfSubject {
        let recipient = self.is_handed_out.then(|| caller.entry());
        let shopper = match self.guest {
            None => SubjectShopper::Registered { idp: self.idp, login: self.login },
            Some(RequestedGuest::New) => SubjectShopper::NewGuest,
            Some(RequestedGuest::Continued(usid)) => {
                SubjectShopper::Guest { usid, caller: caller.settings.name.clone() }
            }
        };
        OnBehalfSubject { organization: organization.clone(), site: site.clone(), shopper, recipient }
    }

    /// The shopper of a deprecated trusted-system login, by the `login` of its body. The caller receives the token.
    ///
    /// # Errors
    /// [`GatewayError::RequestInvalid`] if the login is invalid, [`GatewayError::ShopperUnknown`] if it names a guest.
    pub(in crate::gateway) fn registered(login: &SecretString) -> Result<Self, GatewayError> {
        let login = read_login(login.expose_secret(), "The body's login")?;
        if is_guest_login(login.expose_secret()) {
            return Err(GatewayError::ShopperUnknown);
        }
        Ok(Self { login, idp: ECOM_IDP.to_owned(), guest: None, is_handed_out: true })
    }
}

/// Reads a login id. `source` names its place in error texts.
fn read_login(text: &str, source: &str) -> Result<SecretString, GatewayError> {
    let login = text.trim();
    if login.is_empty() || login.chars().count() > MAX_LOGIN_CHARACTERS || login.chars().any(char::is_control) {
        let problem = format!("{source} must be one login id of at most {MAX_LOGIN_CHARACTERS} characters.");
        return Err(GatewayError::RequestInvalid(problem));
    }
    Ok(SecretString::from(login))
}

fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, GatewayError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(GatewayError::Ambiguous(format!("the request has two {name} fields")));
    }
    let text = std::str::from_utf8(value.as_bytes());
    text.map(|text| Some(text.trim())).map_err(|_| GatewayError::RequestInvalid(format!("{name} is not UTF-8.")))
}

//! The authorization code in SLAS's redirect.

use http::{HeaderMap, StatusCode, header::LOCATION};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::{
    salesforce::{error::SalesforceError, response::Response},
    types::Usid,
};

/// A single-use authorization code, with the usid that SLAS sent with it.
#[derive(Debug)]
pub struct AuthorizationCode {
    pub(super) code: SecretString,
    pub(super) usid: Option<Usid>,
}

/// Reads the code from the `Location` of a 303, which the gateway never follows.
pub(super) fn from_redirect(response: &Response, redirect_uri: &str) -> Result<AuthorizationCode, SalesforceError> {
    if response.status != StatusCode::SEE_OTHER && response.status != StatusCode::FOUND {
        return Err(SalesforceError::from_response(response));
    }
    let expected =
        Url::parse(redirect_uri).map_err(|_| SalesforceError::malformed("the configured redirect URI is no URL"))?;
    let location =
        location(&response.headers, &expected).ok_or(SalesforceError::malformed("redirect without Location"))?;
    if (location.origin(), location.scheme(), location.path())
        != (expected.origin(), expected.scheme(), expected.path())
    {
        return Err(SalesforceError::malformed("redirect to another address than the client's redirect URI"));
    }
    let mut code = None;
    let mut usid = None;
    for (name, value) in location.query_pairs() {
        match name.as_ref() {
            "code" => code = Some(SecretString::from(value.into_owned())),
            "usid" => usid = value.parse().ok(),
            "error" => {
                return Err(SalesforceError::Rejected {
                    status: StatusCode::BAD_REQUEST,
                    code: "authorization_refused".into(),
                });
            }
            _ => {}
        }
    }
    let code = code.filter(|code| !code.expose_secret().is_empty());
    Ok(AuthorizationCode { code: code.ok_or(SalesforceError::malformed("redirect without a code"))?, usid })
}

/// Resolves `Location` (RFC 9110, 10.2.2) against the redirect URI, the only address that SLAS received.
fn location(headers: &HeaderMap, redirect_uri: &Url) -> Option<Url> {
    redirect_uri.join(headers.get(LOCATION)?.to_str().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderValue;

    use super::*;

    const REDIRECT_URI: &str = "http://localhost:3000/callback";

    fn redirect(status: u16, location: &'static str) -> Response {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, HeaderValue::from_static(location));
        Response { status: StatusCode::from_u16(status).unwrap(), headers, body: Bytes::new() }
    }

    #[test]
    fn code_is_read_from_redirect_location() {
        let code =
            from_redirect(&redirect(303, "http://localhost:3000/callback?usid=u-1&code=c%2B1"), REDIRECT_URI).unwrap();
        assert_eq!(code.code.expose_secret(), "c+1");
        assert_eq!(code.usid.unwrap().as_str(), "u-1");
        for relative in ["/callback?code=c", "callback?code=c", "?code=c", "//localhost:3000/callback?code=c"] {
            assert!(from_redirect(&redirect(303, relative), REDIRECT_URI).is_ok(), "{relative}");
        }
    }

    #[test]
    fn redirect_to_other_address_or_without_code_is_rejected() {
        for (status, location) in [
            (303, "http://evil.example/callback?code=c"),
            (303, "http://localhost:3000/other?code=c"),
            (303, "http://localhost:3000/callback?usid=u"),
            (303, "http://localhost:3000/callback?code="),
            (303, "http://localhost:3000/callback?error=access_denied&code=c"),
            (303, "//evil.example/callback?code=c"),
            (303, "/other?code=c"),
            (303, "https:callback?code=c"),
            (200, "http://localhost:3000/callback?code=c"),
        ] {
            assert!(from_redirect(&redirect(status, location), REDIRECT_URI).is_err(), "{status} {location}");
        }
    }
}

//! What a request presents as proof of who sent it, read once from its `Authorization` field.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, header::AUTHORIZATION};
use secrecy::SecretString;

use super::refusal::Refusal;

/// Longest `Authorization` value that is read, bytes.
const MAX_CREDENTIAL_BYTES: usize = 16 * 1024;

/// A credential as presented; nothing of it is verified.
#[derive(Debug)]
pub enum Presented {
    /// None at all.
    Nothing,
    /// `Bearer` (RFC 6750, 2.1).
    Bearer(SecretString),
    /// `Basic` (RFC 7617).
    Basic(BasicCredentials),
}

/// User and password of a Basic credential.
#[derive(Debug)]
pub struct BasicCredentials {
    /// What stands before the first colon.
    pub user: String,
    /// What stands behind it.
    pub password: SecretString,
}

impl Presented {
    /// Reads the one credential of a request.
    ///
    /// # Errors
    /// [`Refusal::CredentialsConflicting`] for two, [`Refusal::TokenInvalid`] for one that cannot be read.
    pub fn read(headers: &HeaderMap) -> Result<Self, Refusal> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Ok(Self::Nothing) };
        if values.next().is_some() {
            return Err(Refusal::CredentialsConflicting);
        }
        let unreadable = || Refusal::TokenInvalid("the Authorization field is not readable".into());
        let text = value.to_str().map_err(|_| unreadable())?;
        if text.len() > MAX_CREDENTIAL_BYTES {
            return Err(Refusal::TokenInvalid("the credential is too long".into()));
        }
        let (scheme, credential) = text.split_once(' ').ok_or_else(unreadable)?;
        let credential = credential.trim_matches(' ');
        if credential.is_empty() || credential.contains([' ', ',']) {
            return Err(unreadable());
        }
        if scheme.eq_ignore_ascii_case("bearer") {
            Ok(Self::Bearer(SecretString::from(credential)))
        } else if scheme.eq_ignore_ascii_case("basic") {
            BasicCredentials::read(credential).map(Self::Basic).ok_or_else(unreadable)
        } else {
            Err(Refusal::TokenInvalid("the Authorization scheme is neither Bearer nor Basic".into()))
        }
    }
}

impl BasicCredentials {
    /// Reads `base64(user:password)`; control characters are refused (RFC 7617, 2).
    #[must_use]
    pub fn read(encoded: &str) -> Option<Self> {
        let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
        if text.chars().any(char::is_control) {
            return None;
        }
        let (user, password) = text.split_once(':')?;
        if user.is_empty() {
            return None;
        }
        Some(Self { user: user.to_owned(), password: SecretString::from(password) })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    use super::*;

    fn read(value: &str) -> Result<Presented, Refusal> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        Presented::read(&headers)
    }

    #[test]
    fn a_password_may_have_colons() {
        let Presented::Basic(basic) = read("basic YWRhOnA6czp3").unwrap() else { panic!() };
        assert_eq!((basic.user.as_str(), basic.password.expose_secret()), ("ada", "p:s:w"));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for value in [
            "Bearer",
            "Bearer ",
            "Bearer a b",
            "Bearer a, Basic b",
            "Digest a",
            "Basic !!!",
            "Basic YWRh",
            "Basic OnB3",
            "Token a",
            "BearerX a",
        ] {
            assert!(read(value).is_err(), "{value}");
        }
        assert!(read("Basic YQo6Yg==").is_err(), "a line end in the user");
    }

    #[test]
    fn debug_tells_no_secret() {
        let shown = format!("{:?} {:?}", read("Bearer abc.def.ghi").unwrap(), read("Basic YWRhOnB3").unwrap());
        assert!(!shown.contains("abc.def") && !shown.contains("pw"), "{shown}");
    }

    proptest! {
        #[test]
        fn reading_basic_never_panics(text in "[ -~]{0,60}") {
            let _ = BasicCredentials::read(&text);
        }
    }
}

//! What a request presents as proof of who sent it, read once from its `Authorization` field.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use memchr::memchr2;
use secrecy::SecretString;

use super::refusal::Refusal;

/// Longest `Authorization` value that is read, bytes.
const MAX_CREDENTIAL_BYTES: usize = 16 * 1024;

/// A credential as presented; nothing of it is verified.
#[derive(Debug)]
pub enum Presented<'a> {
    /// None at all.
    Nothing,
    /// `Bearer` (RFC 6750, 2.1).
    Bearer(BearerToken<'a>),
    /// `Basic` (RFC 7617).
    Basic(BasicCredentials),
}

/// A token where it stands in the request: every request has one, so it is not copied. No log prints it.
#[derive(Clone, Copy)]
pub struct BearerToken<'a>(&'a str);

/// User and password of a Basic credential.
#[derive(Debug)]
pub struct BasicCredentials {
    /// What stands before the first colon.
    pub user: String,
    /// What stands behind it.
    pub password: SecretString,
}

impl<'a> Presented<'a> {
    /// Reads the one credential of a request.
    ///
    /// # Errors
    /// [`Refusal::CredentialsConflicting`] for two, [`Refusal::TokenInvalid`] for one that cannot be read.
    pub fn read(headers: &'a HeaderMap) -> Result<Self, Refusal> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Ok(Self::Nothing) };
        if values.next().is_some() {
            return Err(Refusal::CredentialsConflicting);
        }
        let unreadable = || Refusal::TokenInvalid("the Authorization field is not readable".into());
        let text = visible(value).ok_or_else(unreadable)?;
        if text.len() > MAX_CREDENTIAL_BYTES {
            return Err(Refusal::TokenInvalid("the credential is too long".into()));
        }
        let (scheme, credential) = text.split_once(' ').unwrap_or((text, ""));
        let credential = credential.trim_matches(' ');
        if credential.is_empty() {
            return Err(Refusal::TokenInvalid("the Authorization field has a scheme and no credential".into()));
        }
        if memchr2(b' ', b',', credential.as_bytes()).is_some() {
            return Err(unreadable());
        }
        if scheme.eq_ignore_ascii_case("bearer") {
            Ok(Self::Bearer(BearerToken(credential)))
        } else if scheme.eq_ignore_ascii_case("basic") {
            BasicCredentials::read(credential).map(Self::Basic).ok_or_else(unreadable)
        } else {
            Err(Refusal::TokenInvalid("the Authorization scheme is neither Bearer nor Basic".into()))
        }
    }
}

impl<'a> BearerToken<'a> {
    /// Its text.
    #[must_use]
    pub fn expose_secret(self) -> &'a str {
        self.0
    }
}

impl fmt::Debug for BearerToken<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[REDACTED]")
    }
}

/// The text of a field that has nothing but printable ASCII and blanks. Looks at every byte, bad or not: that is what a
/// processor does many bytes at a time.
fn visible(value: &HeaderValue) -> Option<&str> {
    let bytes = value.as_bytes();
    let is_visible = bytes.iter().fold(true, |so_far, byte| so_far & matches!(byte, b' '..=b'~' | b'\t'));
    if is_visible { std::str::from_utf8(bytes).ok() } else { None }
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

    fn with(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_bytes(value.as_bytes()).unwrap())])
    }

    #[test]
    fn a_password_may_have_colons() {
        let headers = with("basic YWRhOnA6czp3");
        let Presented::Basic(basic) = Presented::read(&headers).unwrap() else { panic!() };
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
            "Bearer ä",
            "Bearer a\u{80}",
        ] {
            assert!(Presented::read(&with(value)).is_err(), "{value}");
        }
        assert!(Presented::read(&with("Basic YQo6Yg==")).is_err(), "a line end in the user");
    }

    #[test]
    fn debug_tells_no_secret() {
        let shown = ["Bearer abc.def.ghi", "Basic YWRhOnB3"]
            .map(|value| format!("{:?}", Presented::read(&with(value)).unwrap()))
            .concat();
        assert!(!shown.contains("abc.def") && !shown.contains("pw"), "{shown}");
    }

    proptest! {
        #[test]
        fn reading_basic_never_panics(text in "[ -~]{0,60}") {
            let _ = BasicCredentials::read(&text);
        }
    }
}

//! Parses the `Authorization` header field.
//!
//! Basic credentials are decoded as leniently as SLAS may decode them. Otherwise a spelling that only SLAS accepts would escape
//! the limit of failed logins. So this module accepts base64 without padding and with stray bits after the last byte, as
//! `java.util.Base64` does. The URL-safe alphabet is rejected: RFC 7617 does not allow it, `java.util.Base64` rejects it, and
//! a MIME decoder ignores `-` and `_`, so the value would have two readings.

use std::{fmt, iter};

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use memchr::memchr3;
use secrecy::SecretString;

use super::error::GatewayError;

/// Maximum length of the field's value, bytes.
const MAX_CREDENTIAL_BYTES: usize = 16 * 1024;
/// The separators of scheme and credential. RFC 9110 allows the space. Lenient servers accept a tab too.
const BLANKS: [char; 2] = [' ', '\t'];
/// Standard base64, with or without padding, with any bits after the last byte.
const LENIENT_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The credential of a request. It is not verified.
#[derive(Debug)]
pub enum Authorization<'a> {
    /// The request has no credential.
    Nothing,
    /// `Bearer` (RFC 6750, 2.1).
    Bearer(BearerToken<'a>),
    /// `Basic` (RFC 7617).
    Basic(BasicCredentials),
}

/// A token, borrowed from the request because nearly every request has one. `Debug` does not show it.
#[derive(Clone, Copy)]
pub struct BearerToken<'a>(&'a str);

/// User and password of a Basic credential.
#[derive(Debug)]
pub struct BasicCredentials {
    /// The text before the first colon.
    pub user: String,
    /// The text after it.
    pub password: SecretString,
    /// The user as a lenient UTF-8 decoder reads it. `None` if the bytes are UTF-8.
    lossy_user: Option<String>,
}

impl<'a> Authorization<'a> {
    /// Parses the credential of a request.
    ///
    /// # Errors
    /// [`GatewayError::CredentialsConflicting`] if there are two, [`GatewayError::TokenInvalid`] if it is malformed or too long.
    pub fn parse(headers: &'a HeaderMap) -> Result<Self, GatewayError> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Ok(Self::Nothing) };
        if values.next().is_some() {
            return Err(GatewayError::CredentialsConflicting);
        }
        let malformed = || GatewayError::TokenInvalid("the Authorization field is malformed".into());
        let text = visible_text(value).ok_or_else(malformed)?;
        if text.len() > MAX_CREDENTIAL_BYTES {
            return Err(GatewayError::TokenInvalid("the credential is too long".into()));
        }
        let (scheme, credential) = text.split_once(BLANKS).unwrap_or((text, ""));
        let credential = credential.trim_matches(BLANKS);
        if credential.is_empty() {
            return Err(GatewayError::TokenInvalid("the Authorization field has a scheme, but no credential".into()));
        }
        if memchr3(b' ', b'\t', b',', credential.as_bytes()).is_some() {
            return Err(malformed());
        }
        if scheme.eq_ignore_ascii_case("bearer") {
            // A token is sent upstream unchanged, so only the form of RFC 6750 is accepted.
            if memchr::memchr(b'\t', text.as_bytes()).is_some() {
                return Err(malformed());
            }
            Ok(Self::Bearer(BearerToken(credential)))
        } else if scheme.eq_ignore_ascii_case("basic") {
            BasicCredentials::parse(credential).map(Self::Basic).ok_or_else(malformed)
        } else {
            Err(GatewayError::TokenInvalid("the Authorization scheme is neither Bearer nor Basic".into()))
        }
    }
}

impl<'a> BearerToken<'a> {
    /// The token's text.
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

/// Returns the text of a field of printable ASCII and blanks. The loop does not stop at a bad byte, so the compiler can use SIMD.
fn visible_text(value: &HeaderValue) -> Option<&str> {
    let bytes = value.as_bytes();
    let is_visible = bytes.iter().fold(true, |all, byte| all & matches!(byte, b' '..=b'~' | b'\t'));
    if is_visible { std::str::from_utf8(bytes).ok() } else { None }
}

impl BasicCredentials {
    /// Parses `base64(user:password)`. Bytes that are not UTF-8 are decoded as Latin-1. `None` if the text is not base64, has no
    /// colon, has no user, or has a control character (RFC 7617, 2).
    #[must_use]
    pub fn parse(encoded: &str) -> Option<Self> {
        let bytes = LENIENT_BASE64.decode(encoded).ok()?;
        if bytes.iter().any(u8::is_ascii_control) {
            return None;
        }
        let (text, lossy_user) = match String::from_utf8(bytes) {
            Ok(text) => (text, None),
            Err(error) => {
                let lossy = String::from_utf8_lossy(error.as_bytes());
                let lossy_user = lossy.split_once(':').map(|(user, _)| user.to_owned());
                (error.as_bytes().iter().copied().map(char::from).collect(), lossy_user)
            }
        };
        let (user, password) = text.split_once(':')?;
        if user.is_empty() {
            return None;
        }
        Some(Self { user: user.to_owned(), password: SecretString::from(password), lossy_user })
    }

    /// Every user that SLAS may read in this credential. The limit of failed logins counts each.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        iter::once(self.user.as_str()).chain(self.lossy_user.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_bytes(value.as_bytes()).unwrap())])
    }

    #[test]
    fn basic_password_with_colons_is_kept_whole() {
        let headers = headers("basic YWRhOnA6czp3");
        let Authorization::Basic(basic) = Authorization::parse(&headers).unwrap() else { panic!() };
        assert_eq!((basic.user.as_str(), basic.password.expose_secret()), ("ada", "p:s:w"));
    }

    #[test]
    fn malformed_field_is_rejected() {
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
            assert!(Authorization::parse(&headers(value)).is_err(), "{value}");
        }
        assert!(Authorization::parse(&headers("Basic YQo6Yg==")).is_err(), "a line end in the user");
    }

    #[test]
    fn basic_in_a_lenient_spelling_has_the_same_login() {
        for value in [
            "Basic YWRhOnA=",
            "Basic YWRhOnA",
            "Basic YWRhOnB=",
            "basic   YWRhOnA=",
            "BASIC\tYWRhOnA= ",
            "Basic YWRhOnC",
        ] {
            let headers = headers(value);
            let Ok(Authorization::Basic(basic)) = Authorization::parse(&headers) else { panic!("{value}") };
            assert_eq!((basic.user.as_str(), basic.password.expose_secret()), ("ada", "p"), "{value}");
            assert_eq!(basic.users().collect::<Vec<_>>(), ["ada"]);
        }
        // "j\xfcrgen:p" in Latin-1.
        let latin_1 = headers("Basic avxyZ2VuOnA=");
        let Ok(Authorization::Basic(basic)) = Authorization::parse(&latin_1) else { panic!() };
        assert_eq!(basic.users().collect::<Vec<_>>(), ["jürgen", "j\u{fffd}rgen"]);
        for value in ["Basic YWRhOnA-", "Basic YWRh_OnA=", "Basic YWRh=OnA=", "Basic YWRh OnA=", "Basic YWRhO"] {
            assert!(Authorization::parse(&headers(value)).is_err(), "{value}");
        }
    }

    #[test]
    fn debug_of_a_credential_shows_no_secret() {
        let shown = ["Bearer abc.def.ghi", "Basic YWRhOnB3"]
            .map(|value| format!("{:?}", Authorization::parse(&headers(value)).unwrap()))
            .concat();
        assert!(!shown.contains("abc.def") && !shown.contains("pw"), "{shown}");
    }

    proptest! {
        #[test]
        fn basic_of_any_text_never_panics(text in "[ -~]{0,60}") {
            let _ = BasicCredentials::parse(&text);
        }

        #[test]
        fn basic_with_any_stray_bits_is_decoded_as_by_java(
            user in "[^:\\x00-\\x1f\\x7f]{1,12}",
            password in "[^\\x00-\\x1f\\x7f]{0,12}",
            stray in 0_u8..16,
            padded: bool,
        ) {
            let bytes = format!("{user}:{password}").into_bytes();
            let encoded = lenient_spelling(&bytes, stray, padded);
            prop_assert_eq!(java_base64(&encoded), Some(bytes));
            let read = BasicCredentials::parse(&encoded).unwrap();
            prop_assert_eq!((read.user.as_str(), read.password.expose_secret()), (user.as_str(), password.as_str()));
        }

        #[test]
        fn basic_that_java_decodes_has_its_user_or_is_rejected(text in "[A-Za-z0-9+/=_-]{0,24}") {
            if let (Some(java), Some(own)) = (java_base64(&text), BasicCredentials::parse(&text)) {
                let lossy = String::from_utf8_lossy(&java).into_owned();
                let latin: String = java.iter().copied().map(char::from).collect();
                for reading in [lossy, latin] {
                    let user = reading.split_once(':').map(|(user, _)| user.to_owned());
                    let is_utf_8 = std::str::from_utf8(&java).is_ok();
                    prop_assert!(
                        own.users().any(|read| Some(read) == user.as_deref()) || (is_utf_8 && !java.is_ascii()),
                        "{text}: {user:?}"
                    );
                }
            }
        }
    }

    /// A spelling of these bytes with stray bits behind the last one.
    fn lenient_spelling(bytes: &[u8], stray: u8, padded: bool) -> String {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for three in bytes.chunks(3) {
            let byte = |position: usize| u32::from(three.get(position).copied().unwrap_or(0));
            let unused = match three.len() {
                1 => u32::from(stray) << 12 & 0x0f_000,
                2 => u32::from(stray) << 6 & 0xc0,
                _ => 0,
            };
            let bits = byte(0) << 16 | byte(1) << 8 | byte(2) | unused;
            for position in 0..=three.len() {
                text.push(char::from(ALPHABET[(bits >> (18 - 6 * position) & 63) as usize]));
            }
            if padded {
                text.extend(iter::repeat_n('=', 3 - three.len()));
            }
        }
        text
    }

    /// `java.util.Base64.getDecoder().decode`: missing padding is fine, wrong padding is not, stray bits are dropped.
    fn java_base64(text: &str) -> Option<Vec<u8>> {
        let unpadded = text.trim_end_matches('=');
        let padding = text.len() - unpadded.len();
        if padding > 0 && (padding > 2 || !text.len().is_multiple_of(4)) || unpadded.len() % 4 == 1 {
            return None;
        }
        let digit = |byte: u8| match byte {
            b'A'..=b'Z' => Some(u32::from(byte - b'A')),
            b'a'..=b'z' => Some(u32::from(byte - b'a') + 26),
            b'0'..=b'9' => Some(u32::from(byte - b'0') + 52),
            b'+' => Some(62),
            b'/' => Some(63),
            _ => None,
        };
        let mut bytes = Vec::new();
        for four in unpadded.as_bytes().chunks(4) {
            let bits = four.iter().try_fold(0, |bits, byte| Some(bits << 6 | digit(*byte)?))? << (6 * (4 - four.len()));
            bytes.extend((0..four.len() - 1).map(|position| (bits >> (16 - 8 * position)) as u8));
        }
        Some(bytes)
    }
}

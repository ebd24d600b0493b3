//! What a request presents as proof of who sent it, read once from its `Authorization` field.
//!
//! Basic is read as leniently as SLAS may read it: a spelling that SLAS accepts and the gateway does not would escape the
//! login throttle. `java.util.Base64` takes base64 without padding and with stray bits behind the last byte, and so
//! does this module. The URL-safe alphabet is refused: RFC 7617 does not allow it, `java.util.Base64` rejects it, and a
//! MIME decoder drops `-` and `_`, so the value would have two readings.

use std::{fmt, iter};

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use memchr::memchr3;
use secrecy::SecretString;

use super::error::GatewayError;

/// Longest `Authorization` value that is read, bytes.
const MAX_CREDENTIAL_BYTES: usize = 16 * 1024;
/// Characters that may separate the scheme from the credential. RFC 9110 allows the space; lenient servers take a tab too.
const BLANKS: [char; 2] = [' ', '\t'];
/// The standard alphabet, padded or not, with any bits behind the last byte.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A credential as presented; nothing of it is verified.
#[derive(Debug)]
pub enum Authorization<'a> {
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
    /// The user as a UTF-8 reader that replaces unreadable bytes sees it, where the bytes are not UTF-8.
    lossy_user: Option<String>,
}

impl<'a> Authorization<'a> {
    /// Reads the one credential of a request.
    ///
    /// # Errors
    /// [`GatewayError::CredentialsConflicting`] for two, [`GatewayError::TokenInvalid`] for one that cannot be read.
    pub fn read(headers: &'a HeaderMap) -> Result<Self, GatewayError> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Ok(Self::Nothing) };
        if values.next().is_some() {
            return Err(GatewayError::CredentialsConflicting);
        }
        let unreadable = || GatewayError::TokenInvalid("the Authorization field is not readable".into());
        let text = visible(value).ok_or_else(unreadable)?;
        if text.len() > MAX_CREDENTIAL_BYTES {
            return Err(GatewayError::TokenInvalid("the credential is too long".into()));
        }
        let (scheme, credential) = text.split_once(BLANKS).unwrap_or((text, ""));
        let credential = credential.trim_matches(BLANKS);
        if credential.is_empty() {
            return Err(GatewayError::TokenInvalid("the Authorization field has a scheme and no credential".into()));
        }
        if memchr3(b' ', b'\t', b',', credential.as_bytes()).is_some() {
            return Err(unreadable());
        }
        if scheme.eq_ignore_ascii_case("bearer") {
            // A token goes upstream as it came, so that only the spelling of RFC 6750 will do.
            if memchr::memchr(b'\t', text.as_bytes()).is_some() {
                return Err(unreadable());
            }
            Ok(Self::Bearer(BearerToken(credential)))
        } else if scheme.eq_ignore_ascii_case("basic") {
            BasicCredentials::read(credential).map(Self::Basic).ok_or_else(unreadable)
        } else {
            Err(GatewayError::TokenInvalid("the Authorization scheme is neither Bearer nor Basic".into()))
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
    /// Reads `base64(user:password)`. Bytes that are not UTF-8 are read as Latin-1. Returns `None` for what is not base64, has
    /// no colon or no user, or has a control character, which RFC 7617 (section 2) forbids.
    #[must_use]
    pub fn read(encoded: &str) -> Option<Self> {
        let bytes = LENIENT.decode(encoded).ok()?;
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

    /// Every user that SLAS may read in this credential: the login throttle counts all of them.
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

    fn with(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_bytes(value.as_bytes()).unwrap())])
    }

    #[test]
    fn a_password_may_have_colons() {
        let headers = with("basic YWRhOnA6czp3");
        let Authorization::Basic(basic) = Authorization::read(&headers).unwrap() else { panic!() };
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
            assert!(Authorization::read(&with(value)).is_err(), "{value}");
        }
        assert!(Authorization::read(&with("Basic YQo6Yg==")).is_err(), "a line end in the user");
    }

    #[test]
    fn basic_in_a_lenient_spelling_is_read_as_the_same_login() {
        for value in [
            "Basic YWRhOnA=",
            "Basic YWRhOnA",
            "Basic YWRhOnB=",
            "basic   YWRhOnA=",
            "BASIC\tYWRhOnA= ",
            "Basic YWRhOnC",
        ] {
            let headers = with(value);
            let Ok(Authorization::Basic(basic)) = Authorization::read(&headers) else { panic!("{value}") };
            assert_eq!((basic.user.as_str(), basic.password.expose_secret()), ("ada", "p"), "{value}");
            assert_eq!(basic.users().collect::<Vec<_>>(), ["ada"]);
        }
        // "j\xfcrgen:p" in Latin-1.
        let headers = with("Basic avxyZ2VuOnA=");
        let Ok(Authorization::Basic(basic)) = Authorization::read(&headers) else { panic!() };
        assert_eq!(basic.users().collect::<Vec<_>>(), ["jürgen", "j\u{fffd}rgen"]);
        for value in ["Basic YWRhOnA-", "Basic YWRh_OnA=", "Basic YWRh=OnA=", "Basic YWRh OnA=", "Basic YWRhO"] {
            assert!(Authorization::read(&with(value)).is_err(), "{value}");
        }
    }

    #[test]
    fn debug_tells_no_secret() {
        let shown = ["Bearer abc.def.ghi", "Basic YWRhOnB3"]
            .map(|value| format!("{:?}", Authorization::read(&with(value)).unwrap()))
            .concat();
        assert!(!shown.contains("abc.def") && !shown.contains("pw"), "{shown}");
    }

    proptest! {
        #[test]
        fn reading_basic_never_panics(text in "[ -~]{0,60}") {
            let _ = BasicCredentials::read(&text);
        }

        #[test]
        fn basic_with_any_stray_bits_is_read_as_java_reads_it(
            user in "[^:\\x00-\\x1f\\x7f]{1,12}",
            password in "[^\\x00-\\x1f\\x7f]{0,12}",
            stray in 0_u8..16,
            padded: bool,
        ) {
            let bytes = format!("{user}:{password}").into_bytes();
            let encoded = lenient_spelling(&bytes, stray, padded);
            prop_assert_eq!(java_base64(&encoded), Some(bytes));
            let read = BasicCredentials::read(&encoded).unwrap();
            prop_assert_eq!((read.user.as_str(), read.password.expose_secret()), (user.as_str(), password.as_str()));
        }

        #[test]
        fn whatever_java_decodes_is_read_alike_or_refused(text in "[A-Za-z0-9+/=_-]{0,24}") {
            if let (Some(java), Some(own)) = (java_base64(&text), BasicCredentials::read(&text)) {
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

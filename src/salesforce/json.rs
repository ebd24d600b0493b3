//! Lenient parsing of Salesforce's JSON.
//!
//! The parser accepts variants with one possible meaning: a byte order mark, and numbers written as text or with a fraction.
//! Errors contain the name of the field and never its value, which can be a token.

use serde::{Deserialize, Deserializer, de::DeserializeOwned, de::Error as _};

/// The UTF-8 byte order mark (RFC 8259, 8.1: a parser may ignore it).
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Returns the document without the byte order mark that some servers send.
#[must_use]
pub fn without_byte_order_mark(document: &[u8]) -> &[u8] {
    document.strip_prefix(BYTE_ORDER_MARK).unwrap_or(document)
}

/// Parses a document.
///
/// # Errors
/// The name of the invalid or missing field and the problem, without any value.
pub fn read<T: DeserializeOwned>(document: &[u8]) -> Result<T, String> {
    let mut json = serde_json::Deserializer::from_slice(without_byte_order_mark(document));
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let (path, error) = (error.path().to_string(), error.into_inner());
        let text = error.to_string();
        match text.split(" at line ").next() {
            // serde's text, which contains only the name of a known field.
            Some(missing) if missing.starts_with("missing field `") => missing.to_owned(),
            _ if path != "." => format!("field `{path}` has an unexpected type"),
            _ => "not a JSON object".to_owned(),
        }
    })
}

/// Deserializes whole seconds from a number or text. Drops a fraction.
///
/// # Errors
/// If the value is no number, negative, or not finite.
pub(super) fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum RawSeconds {
        Whole(u64),
        Fraction(f64),
        Text(String),
    }
    let fraction = match RawSeconds::deserialize(deserializer)? {
        RawSeconds::Whole(seconds) => return Ok(seconds),
        RawSeconds::Fraction(fraction) => fraction,
        RawSeconds::Text(text) => text.trim().parse().map_err(|_| D::Error::custom("expected seconds"))?,
    };
    if !fraction.is_finite() || fraction < 0.0 {
        return Err(D::Error::custom("expected seconds"));
    }
    // Larger values saturate.
    Ok(fraction as u64)
}

/// Deserializes seconds that may be absent or `null`.
///
/// # Errors
/// Like [`seconds`].
pub(super) fn optional_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    struct Seconds(#[serde(deserialize_with = "seconds")] u64);
    Ok(Option::<Seconds>::deserialize(deserializer)?.map(|Seconds(seconds)| seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct TokenDocument {
        token: String,
        #[serde(deserialize_with = "seconds")]
        expires_in: u64,
        #[serde(default, deserialize_with = "optional_seconds")]
        refresh_expires_in: Option<u64>,
    }

    fn document(expires_in: &str, refresh: &str) -> Result<TokenDocument, String> {
        read(format!("\u{feff}{{\"token\":\"s3cret\",\"expires_in\":{expires_in}{refresh}}}").as_bytes())
    }

    #[test]
    fn seconds_accept_number_text_and_fraction() {
        for text in ["1800", "\"1800\"", "1800.0", "1800.9", "\" 1800.5 \"", "1.8e3"] {
            assert_eq!(document(text, "").unwrap().expires_in, 1800, "{text}");
        }
        assert_eq!(document("0", ",\"refresh_expires_in\":\"9\"").unwrap().refresh_expires_in, Some(9));
        assert_eq!(document("0", ",\"refresh_expires_in\":null").unwrap().refresh_expires_in, None);
    }

    #[test]
    fn invalid_field_error_names_field_without_value() {
        for text in ["-1", "\"soon\"", "\"NaN\"", "\"inf\"", "null", "[]", "{}", "true", "\"\""] {
            assert_eq!(document(text, "").unwrap_err(), "field `expires_in` has an unexpected type", "{text}");
        }
        assert_eq!(read::<TokenDocument>(b"{\"token\":\"s3cret\"}").unwrap_err(), "missing field `expires_in`");
        assert_eq!(read::<TokenDocument>(b"{\"token\":7}").unwrap_err(), "field `token` has an unexpected type");
        for text in ["", "<html>", "7", "\"s3cret\"", "{"] {
            let error = read::<TokenDocument>(text.as_bytes()).unwrap_err();
            assert!(!error.contains("s3cret") && !error.contains("html"), "{error}");
        }
    }
}

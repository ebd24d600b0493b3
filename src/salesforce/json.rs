//! Reading JSON as Salesforce, and what stands between, write it.
//!
//! Lenient where only one meaning is possible: a byte order mark before the document, and a number written as text or with
//! a fraction. Errors name the field and never show its value, which may be a token.

use serde::{Deserialize, Deserializer, de::DeserializeOwned, de::Error as _};

/// The UTF-8 byte order mark (RFC 8259, 8.1: a parser may ignore it).
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The document without the byte order mark that some servers write before it.
#[must_use]
pub fn without_byte_order_mark(document: &[u8]) -> &[u8] {
    document.strip_prefix(BYTE_ORDER_MARK).unwrap_or(document)
}

/// Reads a document.
///
/// # Errors
/// What is wrong, by the name of the field, without any value.
pub fn read<T: DeserializeOwned>(document: &[u8]) -> Result<T, String> {
    let mut json = serde_json::Deserializer::from_slice(without_byte_order_mark(document));
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let (path, error) = (error.path().to_string(), error.into_inner());
        let said = error.to_string();
        match said.split(" at line ").next() {
            // serde's words: the name is one of ours.
            Some(missing) if missing.starts_with("missing field `") => missing.to_owned(),
            _ if path != "." => format!("field `{path}` is of another type than expected"),
            _ => "no JSON object".to_owned(),
        }
    })
}

/// Whole seconds, written as a number or as text, with or without a fraction, which is dropped.
///
/// # Errors
/// If it is neither, negative, or not finite.
pub(super) fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Whole(u64),
        Fraction(f64),
        Text(String),
    }
    let fraction = match Written::deserialize(deserializer)? {
        Written::Whole(seconds) => return Ok(seconds),
        Written::Fraction(fraction) => fraction,
        Written::Text(text) => text.trim().parse().map_err(|_| D::Error::custom("expected seconds"))?,
    };
    if !fraction.is_finite() || fraction < 0.0 {
        return Err(D::Error::custom("expected seconds"));
    }
    // Saturates: more than a thousand ages of the universe is as good as for ever.
    Ok(fraction as u64)
}

/// The same for a field that may be absent or `null`.
///
/// # Errors
/// As [`seconds`].
pub(super) fn optional_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    struct Seconds(#[serde(deserialize_with = "seconds")] u64);
    Ok(Option::<Seconds>::deserialize(deserializer)?.map(|Seconds(seconds)| seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Answer {
        token: String,
        #[serde(deserialize_with = "seconds")]
        expires_in: u64,
        #[serde(default, deserialize_with = "optional_seconds")]
        refresh_expires_in: Option<u64>,
    }

    fn answer(expires_in: &str, refresh: &str) -> Result<Answer, String> {
        read(format!("\u{feff}{{\"token\":\"s3cret\",\"expires_in\":{expires_in}{refresh}}}").as_bytes())
    }

    #[test]
    fn seconds_as_number_text_or_fraction_are_read() {
        for text in ["1800", "\"1800\"", "1800.0", "1800.9", "\" 1800.5 \"", "1.8e3"] {
            assert_eq!(answer(text, "").unwrap().expires_in, 1800, "{text}");
        }
        assert_eq!(answer("0", ",\"refresh_expires_in\":\"9\"").unwrap().refresh_expires_in, Some(9));
        assert_eq!(answer("0", ",\"refresh_expires_in\":null").unwrap().refresh_expires_in, None);
    }

    #[test]
    fn unreadable_field_is_named_without_its_value() {
        for text in ["-1", "\"soon\"", "\"NaN\"", "\"inf\"", "null", "[]", "{}", "true", "\"\""] {
            assert_eq!(answer(text, "").unwrap_err(), "field `expires_in` is of another type than expected", "{text}");
        }
        assert_eq!(read::<Answer>(b"{\"token\":\"s3cret\"}").unwrap_err(), "missing field `expires_in`");
        assert_eq!(read::<Answer>(b"{\"token\":7}").unwrap_err(), "field `token` is of another type than expected");
        for text in ["", "<html>", "7", "\"s3cret\"", "{"] {
            let error = read::<Answer>(text.as_bytes()).unwrap_err();
            assert!(!error.contains("s3cret") && !error.contains("html"), "{error}");
        }
    }
}

//! Decodes the bytes of a secret.
//!
//! Editors add a byte order mark, and `echo` or `kubectl create secret` a line end. Salesforce rejects a secret with one of
//! these, so they are removed. Other whitespace may be part of the secret, so it stays and causes a warning.

/// The byte order mark of UTF-8 text.
const UTF_8_BOM: &[u8] = b"\xef\xbb\xbf";
/// The byte order marks of UTF-16 text.
const UTF_16_BOMS: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];

/// A decoded secret.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SecretText<'t> {
    pub(super) text: &'t str,
    /// Whether the secret begins or ends with whitespace, probably by mistake.
    pub(super) has_outer_whitespace: bool,
}

/// Decodes a secret.
///
/// # Errors
/// The predicate of an error message if the bytes are not UTF-8.
pub(super) fn decode(bytes: &[u8]) -> Result<SecretText<'_>, &'static str> {
    if UTF_16_BOMS.iter().any(|mark| bytes.starts_with(mark)) {
        return Err("is UTF-16 text; save it as UTF-8");
    }
    let text = std::str::from_utf8(bytes.strip_prefix(UTF_8_BOM).unwrap_or(bytes));
    let text = text.map_err(|_| "is not valid UTF-8")?.trim_end_matches(['\r', '\n']);
    Ok(SecretText { text, has_outer_whitespace: text.trim() != text })
}

/// The name of a file or variable for an error message. An implausible name is shortened, because it may be a pasted secret.
pub(super) fn redacted_name(name: &str, is_plausible: bool) -> String {
    if is_plausible {
        return name.to_owned();
    }
    let first: String = name.chars().take(2).collect();
    format!("{first}… ({} characters)", name.chars().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_mark_and_line_ends_are_removed() {
        for text in ["s3cret", "s3cret\n", "s3cret\r\n", "s3cret\n\n", "\u{feff}s3cret\r\n\r\n"] {
            assert_eq!(
                decode(text.as_bytes()),
                Ok(SecretText { text: "s3cret", has_outer_whitespace: false }),
                "{text:?}"
            );
        }
        assert_eq!(decode(b"two\nlines\n").unwrap().text, "two\nlines");
        assert_eq!(decode(b"\n").unwrap().text, "");
    }

    #[test]
    fn outer_whitespace_is_kept_and_reported() {
        for text in [" s3cret", "s3cret ", "s3cret \n", "\ts3cret"] {
            let read = decode(text.as_bytes()).unwrap();
            assert!(read.has_outer_whitespace && read.text == text.trim_end_matches('\n'), "{text:?}");
        }
        assert!(!decode(b"two words").unwrap().has_outer_whitespace);
    }

    #[test]
    fn other_encodings_are_rejected_by_name() {
        let utf_16: Vec<u8> = [0xfeff_u16, 0x73].iter().flat_map(|unit| unit.to_le_bytes()).collect();
        assert_eq!(decode(&utf_16), Err("is UTF-16 text; save it as UTF-8"));
        assert_eq!(decode(b"s\xe9cret"), Err("is not valid UTF-8"));
    }

    #[test]
    fn implausible_name_is_redacted() {
        assert_eq!(redacted_name("/run/secrets/slas", true), "/run/secrets/slas");
        assert_eq!(redacted_name("hunter2", false), "hu… (7 characters)");
        assert_eq!(redacted_name("", false), "… (0 characters)");
    }
}

//! The text of a secret as people and their tools write it.
//!
//! Editors add a byte order mark, `echo` and `kubectl create secret` a line end, Windows another one. None of them belongs to
//! a secret, and with each of them Salesforce would refuse the secret as wrong. Blanks may belong to it, so they stay and
//! are told of.

/// What stands before UTF-8 and UTF-16 text.
const UTF_8_BOM: &[u8] = b"\xef\xbb\xbf";
const UTF_16_BOMS: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];

/// The secret, and whether blanks around it may be there by mistake.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SecretText<'t> {
    pub(super) text: &'t str,
    pub(super) has_outer_whitespace: bool,
}

/// Reads the bytes of a secret.
///
/// # Errors
/// What they are instead of UTF-8, as the end of a sentence.
pub(super) fn decode(bytes: &[u8]) -> Result<SecretText<'_>, &'static str> {
    if UTF_16_BOMS.iter().any(|mark| bytes.starts_with(mark)) {
        return Err("is text in UTF-16; save it as UTF-8");
    }
    let text = std::str::from_utf8(bytes.strip_prefix(UTF_8_BOM).unwrap_or(bytes));
    let text = text.map_err(|_| "is not text in UTF-8")?.trim_end_matches(['\r', '\n']);
    Ok(SecretText { text, has_outer_whitespace: text.trim() != text })
}

/// A file's or variable's name as errors may show it: somebody may have pasted the secret itself in its place.
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
    fn byte_order_mark_and_line_ends_do_not_belong_to_a_secret() {
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
    fn blanks_stay_and_are_told_of() {
        for text in [" s3cret", "s3cret ", "s3cret \n", "\ts3cret"] {
            let read = decode(text.as_bytes()).unwrap();
            assert!(read.has_outer_whitespace && read.text == text.trim_end_matches('\n'), "{text:?}");
        }
        assert!(!decode(b"two words").unwrap().has_outer_whitespace);
    }

    #[test]
    fn other_encodings_are_named() {
        let utf_16: Vec<u8> = [0xfeff_u16, 0x73].iter().flat_map(|unit| unit.to_le_bytes()).collect();
        assert_eq!(decode(&utf_16), Err("is text in UTF-16; save it as UTF-8"));
        assert_eq!(decode(b"s\xe9cret"), Err("is not text in UTF-8"));
    }

    #[test]
    fn name_that_may_be_a_secret_is_not_shown_whole() {
        assert_eq!(redacted_name("/run/secrets/slas", true), "/run/secrets/slas");
        assert_eq!(redacted_name("hunter2", false), "hu… (7 characters)");
        assert_eq!(redacted_name("", false), "… (0 characters)");
    }
}

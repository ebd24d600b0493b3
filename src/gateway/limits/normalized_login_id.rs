//! Normalizes login ids, so that all spellings of one login id count as one.
//!
//! Only the failed-login limits use this form: upper case, compatibility characters or invisible characters gain a guesser
//! nothing. SLAS always receives the spelling that the client sent. The form is at least as coarse as what SLAS is known
//! to ignore (case). Two login ids with the same form share a count.

use icu_casemap::CaseMapper;
use icu_normalizer::ComposingNormalizerBorrowed;
use icu_properties::{
    CodePointMapData, CodePointSetData,
    props::{DefaultIgnorableCodePoint, GeneralCategory},
};

/// Maximum passes until the text no longer changes. Two are enough for every known text; the maximum only ends the loop.
const MAX_PASSES: usize = 4;

/// Returns the normalized form of a login id: NFKC, case folded, without invisible and control characters, without white space at
/// its ends. Normalizing a normalized form changes nothing.
pub(super) fn normalized(login: &str) -> String {
    if login.is_ascii() {
        let visible: String = login.chars().filter(|character| !character.is_ascii_control()).collect();
        return visible.trim().to_ascii_lowercase();
    }
    let mut text = pass(login);
    for _ in 1..MAX_PASSES {
        let next = pass(&text);
        if next == text {
            break;
        }
        text = next;
    }
    text
}

fn pass(text: &str) -> String {
    let visible: String = text.chars().filter(|character| !is_invisible(*character)).collect();
    let composed = ComposingNormalizerBorrowed::new_nfkc().normalize(&visible).into_owned();
    CaseMapper::new().fold_string(&composed).trim().to_owned()
}

/// Whether a character is a control, format or default ignorable character, or the replacement of bytes that a decoder cannot read.
fn is_invisible(character: char) -> bool {
    let category = CodePointMapData::<GeneralCategory>::new().get(character);
    matches!(category, GeneralCategory::Control | GeneralCategory::Format)
        || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(character)
        || character == char::REPLACEMENT_CHARACTER
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spellings_of_one_login_id_have_one_form() {
        for spelling in [
            "ada@example.com",
            "ADA@Example.com",
            " ada@example.com\t",
            "\u{a0}ada@example.com\u{3000}",
            "a\u{200b}da@exam\u{ad}ple.com",
            "\u{feff}ada@example.com",
            "ada\u{0}@example.com\u{7f}",
            "ada\u{fe0f}@example.com",
            "a\u{34f}da@example.com",
            "\u{202e}ada@example.com",
            "ａｄａ＠ｅｘａｍｐｌｅ．ｃｏｍ",
            "ad\u{1d44e}@example.com",
            "ad\u{fffd}a@example.com",
            "ada@exa\u{e0020}mple.com",
        ] {
            assert_eq!(normalized(spelling), "ada@example.com", "{spelling:?}");
        }
        assert_eq!(normalized("STRASSE"), normalized("straße"));
        assert_eq!(normalized("ju\u{308}rgen"), normalized("JÜRGEN"));
        assert_eq!(normalized("ΣΑΣ"), normalized("σας"));
        assert_ne!(normalized("ada"), normalized("ad a"));
        assert_ne!(normalized("ada"), normalized("аda"), "a Cyrillic letter is another letter");
    }

    proptest! {
        #[test]
        fn normalized_form_stays_the_same_when_normalized(login in "\\PC{0,24}|.{0,24}") {
            let once = normalized(&login);
            prop_assert_eq!(normalized(&once), once);
        }

        #[test]
        fn invisible_characters_do_not_change_the_form(
            login in "[a-zA-Z0-9@.]{1,16}",
            at in 0_usize..16,
            invisible in prop::sample::select(vec!['\u{200b}', '\u{ad}', '\u{2060}', '\u{feff}', '\u{1}', '\u{85}', '\u{fe0f}']),
        ) {
            let mut spelled = login.clone();
            spelled.insert(at.min(login.len()), invisible);
            prop_assert_eq!(normalized(&spelled), normalized(&login.to_uppercase()));
        }
    }
}

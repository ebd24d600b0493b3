use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;

use super::*;
use crate::gateway::query::Query;

/// The characters that JavaScript's `encodeURIComponent` escapes.
const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');

fn error_of(raw: &str) -> Option<PathError> {
    RequestPath::parse(raw).err()
}

fn decoded(raw: &str) -> Vec<String> {
    RequestPath::parse(raw).unwrap().segments().iter().map(|segment| segment.decoded().to_owned()).collect()
}

#[test]
fn valid_path_has_its_decoded_segments() {
    assert_eq!(decoded("/"), Vec::<String>::new());
    assert_eq!(decoded("/a/b.c/~d_e-f"), ["a", "b.c", "~d_e-f"]);
    assert_eq!(decoded("/.well-known/..a/..."), [".well-known", "..a", "..."]);
    assert_eq!(decoded("/a$&+,=:@b"), ["a$&+,=:@b"]);
}

#[test]
fn segment_without_escapes_is_not_allocated() {
    let path = RequestPath::parse("/a/b").unwrap();
    assert!(path.segments().iter().all(|segment| matches!(segment.decoded, Cow::Borrowed(_))));
}

#[test]
fn path_with_usual_escapes_is_decoded_once() {
    assert_eq!(decoded("/100%25"), ["100%"]);
    assert_eq!(decoded("/a%2Cb%3Bc%20d"), ["a,b;c d"]);
    assert_eq!(decoded("/%C3%84rzte%40home"), ["Ärzte@home"]);
    assert_eq!(decoded("/a+b"), ["a+b"]);
    assert_eq!(decoded("/!*'()"), decoded("/%21%2A%27%28%29"));
    assert_eq!(decoded("/50%25ab%25"), ["50%ab%"]);
    assert_eq!(decoded("/a%252Cb"), ["a%2Cb"]);
}

#[test]
fn slash_encoded_once_or_more_is_noted() {
    for (raw, has) in [("/a%2Fb", true), ("/a%2fb", true), ("/a%252Fb", true), ("/a%25252fb", true), ("/ab", false)] {
        assert_eq!(RequestPath::parse(raw).unwrap().segments()[0].has_encoded_slash(), has, "{raw}");
    }
}

#[test]
fn path_with_a_second_reading_is_rejected() {
    use PathError::*;
    for (raw, reason) in [
        ("", NotAbsolute),
        ("a/b", NotAbsolute),
        ("*", NotAbsolute),
        ("http://host/a", NotAbsolute),
        ("//", EmptySegment),
        ("//a", EmptySegment),
        ("/a//b", EmptySegment),
        ("/a/", EmptySegment),
        ("/.", DotSegment),
        ("/a/..", DotSegment),
        ("/a/../b", DotSegment),
        ("/%2e", DotSegment),
        ("/%2E%2e/a", DotSegment),
        ("/.%2e", DotSegment),
        ("/%252e%252e", DotSegment),
        ("/%25252E.", DotSegment),
        ("/%%32%65", MalformedEscape),
        ("/%25%32%65", DotSegment),
        ("/a%2F..%2Fb", DotSegment),
        ("/a%252f..", DotSegment),
        ("/a%2F%252e%2e", DotSegment),
        ("/..%3Bx", DotSegment),
        ("/..%253Bx/a", DotSegment),
        ("/a\\b", Backslash),
        ("/a%5Cb", Backslash),
        ("/a%5cb", Backslash),
        ("/a%255Cb", Backslash),
        ("/a%25255cb", Backslash),
        ("/a%00", ControlCharacter),
        ("/a%0d%0ab", ControlCharacter),
        ("/a%1F", ControlCharacter),
        ("/a%7F", ControlCharacter),
        ("/a%C2%85", ControlCharacter),
        ("/a%2500", ControlCharacter),
        ("/a%25C2%259F", ControlCharacter),
        ("/a\tb", ControlCharacter),
        ("/a\u{7f}b", ControlCharacter),
        ("/a;b", Semicolon),
        ("/..;/b", Semicolon),
        ("/%", MalformedEscape),
        ("/%4", MalformedEscape),
        ("/%zz", MalformedEscape),
        ("/%u002e", MalformedEscape),
        ("/%+1", MalformedEscape),
        ("/%FF", NotUtf8),
        ("/%C0%AE", NotUtf8),
        ("/%ED%A0%80", NotUtf8),
        ("/%25C0%25AE", NotUtf8),
        ("/%25E0%2580%25AF", NotUtf8),
        ("/%25F0%2580%2580%25AF", NotUtf8),
        ("/a b", ForbiddenCharacter),
        ("/a\"b", ForbiddenCharacter),
        ("/a<b", ForbiddenCharacter),
        ("/a[b]", ForbiddenCharacter),
        ("/a{b}", ForbiddenCharacter),
        ("/a|b", ForbiddenCharacter),
        ("/a^b", ForbiddenCharacter),
        ("/a`b", ForbiddenCharacter),
        ("/a?b", ForbiddenCharacter),
        ("/a#b", ForbiddenCharacter),
        ("/ä", ForbiddenCharacter),
        ("/a\u{85}", ForbiddenCharacter),
        ("/%41", NeedlessEscape),
        ("/a%2Db", NeedlessEscape),
        ("/a%2e", NeedlessEscape),
        ("/%7Ea", NeedlessEscape),
        ("/%5F", NeedlessEscape),
        ("/%39", NeedlessEscape),
    ] {
        assert_eq!(error_of(raw), Some(reason), "{raw:?}");
    }
}

#[test]
fn error_of_a_path_does_not_contain_the_path() {
    let reason = error_of("/s3cret%zz").unwrap().to_string();
    assert!(!reason.contains("s3cret"), "{reason}");
}

#[test]
fn path_below_a_prefix_is_returned_without_the_prefix() {
    let path = RequestPath::parse("/mobify/slas/private/a/b%20c").unwrap();
    let below = path.without_prefix("/mobify/slas/private").unwrap();
    assert_eq!(below, RequestPath::parse("/a/b%20c").unwrap());
    for raw in ["/mobify/slas/privatea/b", "/mobify/slas/private", "/a"] {
        assert_eq!(RequestPath::parse(raw).unwrap().without_prefix("/mobify/slas/private"), None, "{raw}");
    }
}

#[test]
fn deeply_encoded_path_is_decoded_in_linear_time() {
    let raw = format!("/%{}41", "25".repeat(500_000));
    assert_eq!(RequestPath::parse(&raw).unwrap().segments()[0].fully_decoded(), "A");
}

/// Texts with many combinations of the critical characters.
fn critical_text() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "/", "/", "/a", ".", "..", "%", "%2", "%2e", "%2E", "%25", "25", "2e", "2f", "%2F", "%5c", "5C", "%3B", ";",
        "\\", "%00", "%C2", "%85", "%C0", "AE", "%C3%A4", "ä", "a", "%41", "%20", "+", "=", "&", "siteId",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// The results of decoding once, twice, and so on.
fn all_decodings(raw: &str) -> Vec<Vec<u8>> {
    let mut decodings = vec![raw.as_bytes().to_vec()];
    loop {
        let last = &decodings[decodings.len() - 1];
        let next: Vec<u8> = percent_encoding::percent_decode(last).collect();
        if next == *last {
            return decodings;
        }
        decodings.push(next);
    }
}

proptest! {
    #[test]
    fn any_path_or_query_never_panics(path in any::<String>(), query in any::<String>()) {
        let _ = RequestPath::parse(&path);
        let _ = RequestPath::parse(&format!("/{path}"));
        let _ = Query::parse(Some(&query)).map(|query| query.single("x").map(|_| ()));
    }

    #[test]
    fn critical_path_or_query_never_panics(text in critical_text()) {
        let _ = RequestPath::parse(&text);
        let _ = Query::parse(Some(&text)).map(|query| query.single("x").map(|_| ()));
    }

    #[test]
    fn full_decoding_equals_repeated_decoding(text in critical_text()) {
        prop_assert_eq!(decode_fully(&text), all_decodings(&text).pop().unwrap());
    }

    #[test]
    fn accepted_path_has_nothing_dangerous_after_any_decoding(text in critical_text()) {
        let text = format!("/{text}");
        if let Ok(path) = RequestPath::parse(&text) {
            for segment in path.segments() {
                for reading in all_decodings(segment.raw()) {
                    prop_assert!(!reading.iter().any(|byte| byte.is_ascii_control() || *byte == b'\\'));
                    prop_assert!(!reading.windows(2).any(|pair| pair[0] == 0xc2 && (0x80..0xa0).contains(&pair[1])));
                    for piece in reading.split(|byte| *byte == b'/') {
                        prop_assert!(piece != b"." && piece != b"..");
                    }
                }
            }
        }
    }

    #[test]
    fn accepted_path_in_canonical_form_has_the_same_reading(text in critical_text()) {
        let text = format!("/{text}");
        if let Ok(path) = RequestPath::parse(&text) {
            let canonical = |path: &RequestPath<'_>| -> String {
                let encoded = |segment: &Segment<'_>| utf8_percent_encode(segment.decoded(), COMPONENT).to_string();
                format!("/{}", path.segments().iter().map(encoded).collect::<Vec<_>>().join("/"))
            };
            let once = canonical(&path);
            let again = RequestPath::parse(&once).unwrap();
            let texts = |path: &RequestPath<'_>| -> Vec<(String, bool)> {
                path.segments().iter().map(|own| (own.decoded().to_owned(), own.has_encoded_slash())).collect()
            };
            prop_assert_eq!(texts(&path), texts(&again));
            prop_assert_eq!(&canonical(&again), &once);
        }
    }

    #[test]
    fn path_encoded_by_an_sdk_is_decoded_or_rejected_as_dangerous(text in "\\PC{1,20}") {
        let raw = format!("/{}", utf8_percent_encode(&text, COMPONENT));
        match RequestPath::parse(&raw) {
            Ok(path) => prop_assert_eq!(path.segments()[0].decoded(), text),
            Err(reason) => prop_assert!(
                matches!(reason, PathError::DotSegment | PathError::Backslash | PathError::ControlCharacter | PathError::NotUtf8),
                "{:?} {:?}", reason, text
            ),
        }
    }
}

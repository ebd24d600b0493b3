//! Paths and queries: an accepted one has one reading, however often a server decodes it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};
use shopper_gateway::gateway::{path::RequestPath, query::Query};

fuzz_target!(|text: &str| {
    let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
    if let Ok(query) = Query::parse(query) {
        for name in ["siteId", "client_id", "a"] {
            let _ = query.single(name);
        }
    }
    let Ok(read) = RequestPath::parse(path) else { return };
    assert_eq!(read.raw(), path, "accepted is forwarded byte for byte");

    // Never escapes: no reader of the whole path, however eager, finds a way up, a backslash or a control.
    let mut reading = path.as_bytes().to_vec();
    loop {
        assert!(!reading.iter().any(|byte| byte.is_ascii_control() || *byte == b'\\'), "{path}");
        assert!(!reading.split(|byte| *byte == b'/').any(|piece| piece == b"." || piece == b".."), "{path}");
        let again: Vec<u8> = percent_decode(&reading).collect();
        if again == reading {
            break;
        }
        reading = again;
    }

    // Idempotent: written canonically, it reads the same, and is written the same again.
    let canonical = |path: &RequestPath<'_>| {
        const COMPONENT: &percent_encoding::AsciiSet =
            &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
        let segments = path.segments().iter().map(|own| utf8_percent_encode(own.decoded(), COMPONENT).to_string());
        format!("/{}", segments.collect::<Vec<_>>().join("/"))
    };
    let once = canonical(&read);
    let again = RequestPath::parse(&once).expect("the canonical form is accepted");
    assert!(read.segments().iter().map(|own| own.decoded()).eq(again.segments().iter().map(|own| own.decoded())));
    assert_eq!(canonical(&again), once);
});

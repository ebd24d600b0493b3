//! Patterns of origins and values of `Origin`: an accepted pattern matches its own example, and nothing but origins as browsers
//! write them, of its scheme and host.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shopper_gateway::config::OriginPattern;
use url::Url;

fuzz_target!(|text: &str| {
    let (pattern, origin) = text.split_once('\n').unwrap_or((text, "null"));
    let Ok(parsed) = pattern.parse::<OriginPattern>() else { return };
    let example = pattern.replacen("*.", "a.", 1).replacen(":*", ":5173", 1);
    assert!(parsed.matches(example.as_bytes()), "{pattern}");
    assert!(!parsed.matches(b"null") && !parsed.matches(b"*") && !parsed.matches(b""), "{pattern}");
    if !parsed.matches(origin.as_bytes()) {
        return;
    }
    let (wanted, url) = (Url::parse(&example).unwrap(), Url::parse(origin));
    // A label that looks like punycode and is none: no browser has such a page.
    let Ok(url) = url else { return assert!(origin.contains("xn--"), "{origin}") };
    assert_eq!(url.origin().ascii_serialization(), origin);
    assert_eq!(url.scheme(), wanted.scheme(), "{pattern} {origin}");
    let below = |host: &str| host.split_once('.').map(|(_, parent)| parent.to_owned());
    let (host, wanted_host) = (url.host_str().unwrap(), wanted.host_str().unwrap());
    match parsed.parent_domain() {
        Some(parent) => assert_eq!(below(host).as_deref(), Some(parent), "{pattern} {origin}"),
        None => assert_eq!(host, wanted_host, "{pattern} {origin}"),
    }
    assert!(pattern.ends_with(":*") || url.port() == wanted.port(), "{pattern} {origin}");
});

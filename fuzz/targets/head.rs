//! Request heads as bytes and as fields: an accepted one has one reading of its framing and one credential.
#![no_main]

use std::{sync::LazyLock, time::Duration};

use http::{HeaderName, HeaderValue, Request};
use libfuzzer_sys::fuzz_target;
use shopper_gateway::{
    config::{AddressLimits, Limits},
    gateway::{authorization_header::Authorization, headers, validate},
};

static LIMITS: LazyLock<Limits> = LazyLock::new(|| Limits {
    body: 1 << 20,
    min_body_rate: 1 << 10,
    max_header_bytes: 4096,
    max_headers: 20,
    max_uri_bytes: 1024,
    connections: 10,
    requests: 10,
    incomplete_requests: 10,
    held_bodies: 1024,
    per_address: AddressLimits::default(),
    max_concurrent_requests: 1,
    queue_timeout: Duration::ZERO,
    networks: Vec::new(),
});

fuzz_target!(|bytes: &[u8]| {
    let as_bytes = validate::check_raw_head(bytes);
    let mut lines = bytes.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut start = lines.next().unwrap_or_default().splitn(3, |byte| *byte == b' ');
    let (method, target) = (start.next().unwrap_or_default(), start.next().unwrap_or_default());
    let mut request = Request::builder().method(method).uri(target);
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            request = request.header(name, value);
        }
    }
    let Ok((head, ())) = request.body(()).map(Request::into_parts) else { return };
    if validate::check_head(&head, &LIMITS).is_err() {
        return;
    }
    let count = |name: &str| head.headers.get_all(name).iter().count();
    assert!(count("host") <= 1 && count("authorization") <= 1 && count("content-length") <= 1, "{head:?}");
    assert!(count("content-length") == 0 || count("transfer-encoding") == 0 || as_bytes.is_err(), "{head:?}");
    let _ = Authorization::parse(&head.headers);
    let _ = headers::request_edits(
        &head.headers,
        &HeaderValue::from_static("api.example.com"),
        &HeaderValue::from_static("id"),
    );
});

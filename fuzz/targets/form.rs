//! Forms for SLAS: a lenient server can read no other value of a security-relevant field than the gateway reads.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shopper_gateway::gateway::form::Form;

const DECIDING: [&str; 6] = ["client_id", "channel_id", "grant_type", "hint", "refresh_token", "usid"];

fuzz_target!(|body: &[u8]| {
    let Ok(form) = Form::parse(body) else { return };
    for name in DECIDING {
        // WHATWG's parser, as servlets and Node have it: `+` is a space, escapes that are none stand for themselves.
        let mut lenient = form_urlencoded::parse(body).filter(|(own, _)| own == name).map(|(_, value)| value);
        let Ok(read) = form.single(name) else { continue };
        let first = lenient.next().filter(|value| !value.is_empty());
        assert_eq!(read.as_deref(), first.as_deref(), "{name} has two readings");
        assert!(lenient.next().is_none(), "{name} stands twice");
    }
});

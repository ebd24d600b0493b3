//! The built binary as an operator starts it: arguments and the environment of the process in, text and
//! an exit code out.
//!
//! Owns what only a process of its own can show; what a configuration means is in `config_files.rs`.

#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    process::{Command, Output},
};

/// `shopper-gateway check` of the demo's configuration, with these variables as the whole environment.
fn check<'a>(environment: impl IntoIterator<Item = (&'a str, &'a OsStr)>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shopper-gateway"))
        .args(["check", "-c", concat!(env!("CARGO_MANIFEST_DIR"), "/config/demo.toml")])
        .env_clear()
        .envs(environment)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn check_reads_the_environment_of_the_process() {
    let plain = check([]);
    assert!(plain.status.success() && text(&plain.stdout).contains(": ok: 1 organizations"), "{plain:?}");

    let second = [
        ("SHOPPER_GATEWAY__TENANTS__1__ORGANIZATION_ID", "f_ecom_zzrf_002"),
        ("SHOPPER_GATEWAY__TENANTS__1__API", "https://two.example.com"),
        ("SHOPPER_GATEWAY__TENANTS__1__SITES", "RefArch"),
    ];
    let second = check(second.map(|(name, text)| (name, OsStr::new(text))));
    assert!(second.status.success() && text(&second.stdout).contains(": ok: 2 organizations"), "{second:?}");

    let wrong = check([
        ("SHOPPER_GATEWAY__SERVER__THRAEDS", OsStr::new("PLANTED")),
        ("SHOPPER_GATEWAY__LOG__LEVEL", OsStr::from_bytes(b"PLANTED\xff")),
        ("ANOTHER_PROGRAM", OsStr::from_bytes(b"\xff")),
    ]);
    assert_eq!(wrong.status.code(), Some(1), "{wrong:?}");
    let shown = text(&wrong.stderr);
    for expected in [
        "error: SHOPPER_GATEWAY__SERVER__THRAEDS: no such key; did you mean SHOPPER_GATEWAY__SERVER__THREADS?\n",
        "error: SHOPPER_GATEWAY__LOG__LEVEL: not text in UTF-8\n",
    ] {
        assert!(shown.contains(expected), "{expected} not in:\n{shown}");
    }
    assert!(!shown.contains("PLANTED") && !shown.contains("ANOTHER_PROGRAM") && wrong.stdout.is_empty(), "{shown}");
}

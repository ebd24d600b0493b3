//! `shopper-gateway token inspect` as an operator uses it: a token on standard input, an explanation and an exit code
//! out.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that meets the unexpected has failed")]

use std::{
    io::Write,
    net::SocketAddr,
    process::{Command, Output, Stdio},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use salesforce_simulator::{Seed, ShopperTokenSpec, Simulator};

const BINARY: &str = env!("CARGO_BIN_EXE_shopper-gateway");
/// The demo's trusted system.
const CALLER: &str = "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb";
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/demo.toml");

/// The output of `token inspect` for a text.
fn inspect(text: impl AsRef<[u8]>, more: &[&str], url: Option<&str>) -> Output {
    let mut command = Command::new(BINARY);
    command.args(["token", "inspect"]).args(more).env_clear();
    if let Some(url) = url {
        command.args(["-c", DEMO]).env("SHOPPER_GATEWAY__TENANTS__0__API", url);
        command.env("SHOPPER_GATEWAY__TENANTS__0__ACCOUNT_MANAGER__URL", url);
    }
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The command may refuse its input before it has read all of it.
    let _ = process.stdin.take().unwrap().write_all(text.as_ref());
    process.wait_with_output().unwrap()
}

fn shown(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap() + &String::from_utf8(output.stderr.clone()).unwrap()
}

/// The explanation of a token. Asserts that it contains neither the token nor a part that a thief could use.
fn explained(token: &str, url: Option<&str>, code: i32) -> String {
    let output = inspect(token, &[], url);
    let shown = shown(&output);
    assert_eq!(output.status.code(), Some(code), "{shown}");
    let token = token.split_whitespace().next_back().unwrap();
    for part in token.split('.').chain([token]) {
        assert!(part.len() < 16 || !shown.contains(part), "a part of the token is shown:\n{shown}");
    }
    shown
}

async fn simulator() -> Simulator {
    salesforce_simulator::start(SocketAddr::from(([127, 0, 0, 1], 0)), Seed::default()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn valid_shopper_token_is_verified_and_its_operations_listed() {
    let simulator = simulator().await;
    let token = simulator.mint_shopper_token(ShopperTokenSpec::default());
    let shown = explained(&format!("Bearer {token}\n"), Some(&simulator.url()), 0);
    for words in [
        "shopper token, of SLAS, guest",
        "verified with a key of its issuer",
        "slas/prod/zzrf_001",
        " expires 20",
        ", in ",
        "shopper-products: getCategories getCategory getProduct ",
        "The gateway would accept this token.",
    ] {
        assert!(shown.contains(words), "{words} not in:\n{shown}");
    }
    assert!(shown.contains("\nAllowed operations: "), "{shown}");
    // A guest's token is not accepted by an operation of trusted agents.
    assert!(!shown.contains("updateAsAgentBasket"), "{shown}");
    let marks = vec![("taob".to_owned(), "trusted".to_owned())];
    let agents = simulator.mint_shopper_token(ShopperTokenSpec { marks, ..ShopperTokenSpec::default() });
    assert!(explained(&agents, Some(&simulator.url()), 0).contains("updateAsAgentBasket"));
}

#[tokio::test(flavor = "multi_thread")]
async fn signature_is_reported_as_unchecked_without_configuration() {
    let simulator = simulator().await;
    let shown = explained(&simulator.mint_shopper_token(ShopperTokenSpec::default()), None, 0);
    assert!(shown.contains("not checked: no -c FILE was given"), "{shown}");
    assert!(shown.contains("No check failed, but the signature was not checked."), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_token_is_reported_with_error_codes() {
    let simulator = simulator().await;
    let url = simulator.url();
    let ended =
        simulator.mint_shopper_token(ShopperTokenSpec { lifetime_seconds: Some(-120), ..ShopperTokenSpec::default() });
    let shown = explained(&ended, Some(&url), 1);
    assert!(shown.contains("Rejected: token_expired: the token has expired"), "{shown}");
    assert!(
        shown.contains("Allowed operations if the token were accepted: ") && !shown.contains("Allowed operations: "),
        "{shown}"
    );

    let good = simulator.mint_shopper_token(ShopperTokenSpec::default());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let turned: String = signature.chars().rev().collect();
    let forged = format!("{signed}.{}A", &turned[..turned.len() - 1]);
    let shown = explained(&forged, Some(&url), 1);
    assert!(shown.contains("not accepted") && shown.contains("token_invalid: "), "{shown}");

    let payload = URL_SAFE_NO_PAD.encode(r#"{"iss":"slas/prod/zzzz_009","exp":1,"x":"\u001b[2J\u202e"}"#);
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","kid":"k"}"#);
    let shown = explained(&format!("{header}.{payload}.AAAA"), Some(&url), 1);
    for words in ["token_wrong_organization", "the algorithm is none; ", "token_expired", "not a shopper's access"] {
        assert!(shown.contains(words), "{words} not in:\n{shown}");
    }
    assert!(!shown.contains('\u{1b}') && !shown.contains('\u{202e}'), "{shown:?}");
}

/// A valid token of each issuer.
fn good(simulator: &Simulator) -> [String; 2] {
    let scopes = ["SALESFORCE_COMMERCE_API:zzrf_001", "sfcc.orders"];
    let of_system = simulator.mint_account_manager_token(CALLER, &scopes, "zzrf_001", 1800);
    [simulator.mint_shopper_token(ShopperTokenSpec::default()), of_system]
}

#[tokio::test(flavor = "multi_thread")]
async fn system_token_without_tenant_is_valid_for_operations_by_role_only() {
    let simulator = simulator().await;
    let token = simulator.mint_account_manager_token(CALLER, &["mail", "sfcc.orders"], "", 1800);
    let shown = explained(&token, None, 0);
    assert!(shown.contains("Allowed operations: 14 of ") && shown.contains("\n  auth-admin: "), "{shown}");
    let shown = explained(&token, Some(&simulator.url()), 0);
    assert!(shown.contains("verified with a key of its issuer"), "{shown}");
    assert!(!shown.contains("\n  orders: "), "{shown}");
    let of_another = simulator.mint_account_manager_token(CALLER, &["sfcc.orders"], "zzzz_009", 1800);
    let shown = explained(&of_another, Some(&simulator.url()), 1);
    assert!(shown.contains("token_wrong_organization"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unavailable_keys_are_reported_as_rejection() {
    for token in good(&simulator().await) {
        let shown = explained(&token, Some("http://127.0.0.1:9"), 1);
        assert!(shown.contains("not checked: the issuer's keys are unavailable"), "{shown}");
        assert!(shown.contains("Rejected: keys_unavailable: "), "{shown}");
    }
}

/// The same token, with members of its header changed.
fn with_header(token: &str, change: impl FnOnce(&mut serde_json::Value)) -> String {
    let (header, rest) = token.split_once('.').unwrap();
    let mut header = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
    change(&mut header);
    format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header.to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn unpublished_key_id_is_reported_as_token_invalid() {
    let simulator = simulator().await;
    for token in good(&simulator) {
        let forged = with_header(&token, |header| header["kid"] = "nope".into());
        let shown = explained(&forged, Some(&simulator.url()), 1);
        assert!(shown.contains("not accepted") && shown.contains("Rejected: token_invalid: "), "{shown}");
        assert!(shown.contains("Allowed operations if the token were accepted: "), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unsigned_token_is_reported_with_its_algorithm() {
    let simulator = simulator().await;
    let url = simulator.url();
    let [good, _] = good(&simulator);
    let unsigned = with_header(&good, |header| header["alg"] = "none".into());
    let unsigned = format!("{}.", unsigned.rsplit_once('.').unwrap().0);
    for url in [None, Some(url.as_str())] {
        let shown = explained(&unsigned, url, 1);
        assert!(shown.contains("token_invalid: the algorithm is none; the issuer signs with ES256"), "{shown}");
        assert_eq!(shown.matches("Rejected: ").count(), 1, "{shown}");
    }
    // Other errors of its form are reported as before.
    let bare = format!("{}.", good.rsplit_once('.').unwrap().0);
    assert!(explained(&bare, None, 1).contains("not a compact JWS of three parts"));
}

#[tokio::test(flavor = "multi_thread")]
async fn system_token_is_invalid_without_account_manager() {
    let simulator = simulator().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    let configuration =
        format!("[[tenants]]\norganization_id = 'f_ecom_zzrf_001'\napi = '{}'\nsites = ['RefArch']\n", simulator.url());
    std::fs::write(&file, configuration).unwrap();
    let [_, of_system] = good(&simulator);
    let output = inspect(&of_system, &["-c", file.to_str().unwrap()], None);
    let shown = shown(&output);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(shown.contains("token_invalid: this organization has no Account Manager configured"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn token_may_have_authorization_header_prefix() {
    let simulator = simulator().await;
    let [token, _] = good(&simulator);
    for before in
        ["Bearer ", "bearer ", "BEARER   ", "Authorization: Bearer ", "authorization:bearer ", "AUTHORIZATION: "]
    {
        let shown = explained(&format!(" {before}{token}\r\n"), None, 0);
        assert!(shown.contains("shopper token, of SLAS, guest"), "{before}: {shown}");
    }
    for no_token in ["Basic YWRhOlBMQU5URUQ=", "Bearer a PLANTED", "Authorization:", "Token PLANTED"] {
        let output = inspect(no_token, &[], None);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(!shown(&output).contains("PLANTED") && output.stdout.is_empty(), "{output:?}");
    }
}

#[test]
fn oversized_input_is_reported_as_too_long() {
    // The first text is cut within a character.
    for text in ["a".to_owned() + &"ä".repeat(40_000), "PLANTED".repeat(20_000), "a".repeat(9 * 1024)] {
        let output = inspect(&text, &[], None);
        assert_eq!(shown(&output), "error: token_invalid: the token is too long\n");
    }
    assert!(shown(&inspect(b"\xff", &[], None)).contains("standard input is not text in UTF-8"));
}

#[tokio::test(flavor = "multi_thread")]
async fn system_token_of_unconfigured_client_is_reported_as_caller_rejected() {
    let simulator = simulator().await;
    let url = simulator.url();
    let of = |client: &str| {
        simulator.mint_account_manager_token(
            client,
            &["SALESFORCE_COMMERCE_API:zzrf_001", "sfcc.orders"],
            "zzrf_001",
            1800,
        )
    };
    let shown = explained(&of("bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb"), Some(&url), 0);
    for words in ["system token, of Account Manager", "experience-cloud", "verified with a key of its issuer"] {
        assert!(shown.contains(words), "{words} not in:\n{shown}");
    }
    let stranger = explained(&of("aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"), Some(&url), 1);
    assert!(stranger.contains("caller_rejected: the client is not in [[callers]]"), "{stranger}");
}

#[test]
fn input_that_is_no_token_is_rejected_without_being_shown() {
    for text in ["", "  \n", "PLANTED", "PLANTED.PLANTED.PLANTED", &"PLANTED".repeat(20_000)] {
        let output = inspect(text, &[], None);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(!shown(&output).contains("PLANTED") && output.stdout.is_empty(), "{output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn colours_follow_color_option() {
    let simulator = simulator().await;
    let token = simulator.mint_shopper_token(ShopperTokenSpec::default());
    for (wanted, coloured) in [("auto", false), ("never", false), ("always", true)] {
        let output = inspect(&token, &["--color", wanted], None);
        assert_eq!(shown(&output).contains('\u{1b}'), coloured, "--color {wanted}");
    }
}

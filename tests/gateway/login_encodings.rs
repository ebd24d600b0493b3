//! Guesses of passwords and one-time codes, and messages to shoppers, in every encoding that SLAS might accept.

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::{RequestBuilder, header::HeaderValue};

use crate::world::{Answer, LOGIN, ORGANIZATION, PASSWORD, PRIVATE_CLIENT, PUBLIC_CLIENT, World, login_target};

const FORM: &str = "application/x-www-form-urlencoded";
const RATE_LIMITED: (u16, &str) = (429, "caller_rate_limited");

/// A gateway that allows three failed attempts at one login from one address. Other limits are off.
async fn world() -> World {
    let world = World::with(|config| {
        let logins = "failed_per_address = 0\nfailed_per_address_and_login = 3\nfailed_per_login = 0";
        config.insert("logins".into(), logins.parse::<toml::Table>().unwrap().into());
    })
    .await;
    world.simulator.set(|behaviour| behaviour.enforce_windows = false);
    world
}

fn slas(path: &str) -> String {
    format!("/shopper/auth/v1/organizations/{ORGANIZATION}/oauth2/{path}")
}

/// A password login on SLAS's own path, and the deprecated one, with this `Authorization`.
fn logins(world: &World, authorization: &[u8]) -> [RequestBuilder; 2] {
    let authorization = HeaderValue::from_bytes(authorization).unwrap();
    let redirect = "redirect_uri=http%3A%2F%2Flocalhost%3A3000%2Fcallback";
    let form = format!("client_id={PUBLIC_CLIENT}&channel_id=RefArch&{redirect}&code_challenge={}", "c".repeat(43));
    [
        world.post(&slas("login")).header("content-type", FORM).body(form),
        world.post(&login_target(PUBLIC_CLIENT)).body(r#"{"type":"credentials"}"#),
    ]
    .map(|request| request.header("authorization", authorization.clone()))
}

async fn refused(world: &World, requests: impl Iterator<Item = RequestBuilder>) -> usize {
    let mut refused = 0;
    for request in requests {
        let answer = world.send(request).await;
        assert!(answer.status.is_client_error(), "{}", answer.text());
        refused += usize::from(answer.refusal() == RATE_LIMITED);
    }
    refused
}

#[tokio::test]
async fn password_guess_in_any_basic_spelling_counts_for_its_login() {
    // Encodings of an ASCII login, and of a login with an umlaut in Latin-1.
    let plain = |login: &str, password: &str| STANDARD.encode(format!("{login}:{password}"));
    let unpadded = |login: &str, password: &str| plain(login, password).trim_end_matches('=').to_owned();
    let spellings: [(&str, Vec<Vec<u8>>); 4] = [
        (
            "unpadded",
            (0..12).map(|number| format!("Basic {}", unpadded("ada", &format!("guess-{number}"))).into()).collect(),
        ),
        (
            "blanks",
            (1..13).map(|number| format!("basic{}{}", " ".repeat(number), plain("ada", "guess")).into()).collect(),
        ),
        (
            "case and invisible characters",
            [
                "ada",
                "ADA",
                " ada",
                "ada\u{200b}",
                "\u{feff}ada",
                "ａｄａ",
                "a\u{ad}da",
                "ada\u{a0}",
                "Ada",
                "aDa",
                "adA",
                "AdA",
            ]
            .iter()
            .map(|login| format!("BASIC {}", plain(login, "guess")).into())
            .collect(),
        ),
        (
            "Latin-1",
            (0..12)
                .map(|number| {
                    let bytes = [&b"j\xfcrgen:guess-"[..], number.to_string().as_bytes()].concat();
                    format!("Basic {}", STANDARD.encode(bytes)).into()
                })
                .collect(),
        ),
    ];
    for (name, credentials) in spellings {
        for which in [0, 1] {
            let world = world().await;
            world.simulator.clear_ledger();
            let requests = credentials.iter().map(|credential| {
                let [own, deprecated] = logins(&world, credential);
                if which == 0 { own } else { deprecated }
            });
            assert_eq!(refused(&world, requests).await, 9, "{name} {which}");
            assert_eq!(world.simulator.count("slas", "login"), 3, "{name} {which}");
        }
    }
}

#[tokio::test]
async fn malformed_basic_credentials_do_not_reach_slas() {
    let world = world().await;
    world.simulator.clear_ledger();
    for authorization in [
        &b"Basic"[..],
        b"Basic !!!",
        b"Basic YWRhOnA-",
        b"Basic YWRh OnA=",
        b"Basic YWRh,OnA=",
        b"Basic YWRh",
        b"Basic OnB3",
        b"Basic YQo6Yg==",
        b"Basic \xe4",
        b"Digest YWRhOnA=",
        b"Bearer YWRhOnA=",
    ] {
        for request in logins(&world, authorization) {
            let answer = world.send(request).await;
            assert_eq!(answer.refusal(), (401, "login_rejected"), "{}", String::from_utf8_lossy(authorization));
            assert!(answer.header("www-authenticate").is_some());
        }
    }
    let [own, deprecated] = logins(&world, b"x").map(|request| {
        let (client, request) = request.build_split();
        let mut request = request.unwrap();
        request.headers_mut().remove("authorization");
        RequestBuilder::from_parts(client, request)
    });
    for request in [own, deprecated] {
        assert_eq!(world.send(request).await.refusal(), (401, "login_rejected"), "none at all");
    }
    assert_eq!(world.simulator.count("slas", "login"), 0);
}

#[tokio::test]
async fn latin_1_login_reaches_slas_in_utf_8_and_slas_path_is_unchanged() {
    let world = world().await;
    let latin = [&b"Basic "[..], STANDARD.encode(b"j\xfcrgen:pw").as_bytes()].concat();
    let [own, deprecated] = logins(&world, &latin);
    for (request, sent) in
        [(own, latin.clone()), (deprecated, format!("Basic {}", STANDARD.encode("jürgen:pw")).into())]
    {
        world.simulator.clear_ledger();
        world.send(request).await;
        let entry = world.simulator.ledger().into_iter().find(|entry| entry.flow == "login").unwrap();
        let authorization = entry.headers.iter().find(|(name, _)| name == "authorization").unwrap();
        assert_eq!(authorization.1.as_bytes(), sent);
    }
    // A correct password in a lenient encoding succeeds, because the gateway encodes the request itself.
    let unpadded = STANDARD.encode(format!("{LOGIN}:{PASSWORD}")).trim_end_matches('=').to_owned();
    let [_, deprecated] = logins(&world, format!("Basic  {unpadded}").as_bytes());
    assert_eq!(world.send(deprecated).await.status, 200);
}

/// An operation with a one-time code or a message, and a body that names `ada`.
const NAMING: [(&str, &str, &str); 13] = [
    ("passwordless/login", FORM, "mode=sms&channel_id=RefArch&user_id=ada"),
    ("passwordless/login", FORM, "mode=sms&channel_id=RefArch&user_id=someone&email=ada"),
    ("passwordless/token", FORM, "hint=pwdless_login&pwdless_login_token=00000000&login_id=ada"),
    ("password/reset", FORM, "mode=email&channel_id=RefArch&user_id=ada"),
    ("password/action", FORM, "pwd_action_token=00000000&new_password=x&user_id=ada"),
    ("otp/request", FORM, "mode=email&channel_id=RefArch&user_id=ada"),
    ("otp/verify", FORM, "pwd_action_token=00000000&channel_id=RefArch&user_id=ada"),
    ("webauthn/register/authorize", FORM, "mode=email&channel_id=RefArch&user_id=ada"),
    ("webauthn/register/start", FORM, "pwd_action_token=00000000&channel_id=RefArch&user_id=ada"),
    ("webauthn/register/finish", "application/json", r#"{"username":"ada","pwd_action_token":"0","credential":{}}"#),
    ("webauthn/authenticate/start", FORM, "client_id=x&channel_id=RefArch&user_id=ada"),
    ("webauthn/authenticate/finish", "application/json", r#"{"user_id":"ada","credential":{"x":1}}"#),
    ("webauthn/authenticate/finish", "application/json; charset=UTF-8", r#"{"email":"ADA "}"#),
];

fn with_body(world: &World, operation: &str, content_type: &str, body: &str, token: &str) -> RequestBuilder {
    let request = world.post(&slas(operation)).header("content-type", content_type).body(body.to_owned());
    if operation.starts_with("otp") { request.bearer_auth(token) } else { request }
}

#[tokio::test]
async fn one_time_codes_and_messages_count_for_named_shopper() {
    let world = world().await;
    let token = world.mint(|spec| spec.scopes = Some(vec!["sfcc.pwdless_login".into()]));
    let no = salesforce_simulator::Effect::Status { code: 401, retry_after: None, body: Some("{}".into()) };
    world.simulator.inject(salesforce_simulator::Fault::on("slas", no));
    for (number, (operation, content_type, body)) in NAMING.into_iter().enumerate() {
        // Each operation has a shopper of its own, so that limits do not add up.
        let body = body.replace("ada", &format!("ada{number}")).replace("ADA", &format!("ADA{number}"));
        let answers: Vec<Answer> = {
            let mut answers = Vec::new();
            for _ in 0..6 {
                answers.push(world.send(with_body(&world, operation, content_type, &body, &token)).await);
            }
            answers
        };
        let stopped = answers.iter().filter(|answer| answer.refusal() == RATE_LIMITED).count();
        assert_eq!(stopped, 3, "{operation}: {}", answers[0].text());
    }
}

#[tokio::test]
async fn body_without_readable_shopper_is_rejected_by_counted_operations() {
    let world = world().await;
    let token = world.mint(|spec| spec.scopes = Some(vec!["sfcc.pwdless_login".into()]));
    world.simulator.clear_ledger();
    let mut operations: Vec<&str> = NAMING.iter().map(|(operation, ..)| *operation).collect();
    operations.dedup();
    for operation in &operations {
        for (content_type, body, code) in [
            ("text/plain", "user_id=ada", "request_invalid"),
            ("multipart/form-data; boundary=x", "--x--", "request_invalid"),
            ("application/x-www-form-urlencoded; charset=utf-16", "user_id=ada", "request_invalid"),
            ("application/json", "user_id=ada", "request_invalid"),
            ("application/json", r#"{"user_id":"ada","user_id":"bob"}"#, "request_invalid"),
            (FORM, "user_id=ada&user_id=bob", "request_ambiguous"),
            (FORM, "user_id=ada&user%5Fid=bob", "request_ambiguous"),
            (FORM, "x=1;user_id=ada", "request_ambiguous"),
            (FORM, "user_id=%FF", "request_ambiguous"),
            ("application/x-www-form-urlencoded; charset=iso-8859-1", "user_id=%C3%A4", "request_ambiguous"),
        ] {
            let answer = world.send(with_body(&world, operation, content_type, body, &token)).await;
            assert_eq!(answer.refusal(), (400, code), "{operation} {content_type} {body}");
        }
        let target = format!("{}?user_id=bob", slas(operation));
        let two = world.post(&target).header("content-type", FORM).body("user_id=ada").bearer_auth(&token);
        assert_eq!(world.send(two).await.refusal(), (400, "request_ambiguous"), "{operation}: query and form");
        let untyped = world.post(&slas(operation)).body("user_id=ada").bearer_auth(&token);
        assert_eq!(world.send(untyped).await.refusal(), (400, "request_invalid"), "{operation}: no content type");
    }
    let reached = world.simulator.ledger().into_iter().filter(|entry| entry.path.contains("/oauth2/"));
    assert_eq!(reached.filter(|entry| !entry.path.ends_with("jwks")).count(), 0);
}

#[tokio::test]
async fn shopper_blocked_for_wrong_passwords_can_request_code() {
    let world = world().await;
    for _ in 0..5 {
        world.log_in(PUBLIC_CLIENT, LOGIN, "wrong").await;
    }
    assert_eq!(world.log_in(PUBLIC_CLIENT, LOGIN, PASSWORD).await.refusal(), RATE_LIMITED);
    let form = [("user_id", LOGIN), ("channel_id", "RefArch"), ("mode", "email"), ("client_id", PRIVATE_CLIENT)];
    let answer = world.send(world.post(&slas("passwordless/login")).form(&form)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn semicolon_that_changes_a_deciding_parameter_is_rejected() {
    let world = World::start().await;
    let token = world.mint(|_| {});
    let read = |query: &str| world.send(world.get(&crate::world::products(query)).bearer_auth(&token));
    for query in [
        "?ids=a&x=1;siteId=RefArchGlobal&siteId=RefArch",
        "?ids=a&siteId=RefArch&x=1;siteId=RefArch",
        "?ids=a;siteId=RefArch",
        "?ids=a&siteId=RefArch&x=1;organizationId=f_ecom_zzrf_002",
        "?ids=a&siteId=RefArch&x=;client%5Fid=a",
    ] {
        assert_eq!(read(query).await.refusal(), (400, "request_ambiguous"), "{query}");
    }
    for query in [
        "?ids=a&siteId=RefArch&refine=c_color=red;blue",
        "?ids=a;b&siteId=RefArch",
        "?ids=a&siteId=RefArch&q=x%3BsiteId%3DRefArchGlobal",
        "?ids=a&siteId=RefArch&q=1;site=x",
    ] {
        assert_eq!(read(query).await.status, 200, "{query}");
    }
}

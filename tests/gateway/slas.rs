//! SLAS's own paths: the gateway adds a private client's credential to some operations, and refuses others.

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::{Method, RequestBuilder, redirect::Policy};
use salesforce_simulator::{Effect, Fault, LedgerEntry};

use crate::world::{
    Answer, LOGIN, ORGANIZATION, PASSWORD, PRIVATE_CLIENT, PUBLIC_CLIENT, STRICT_CLIENT, World, configuration,
};

pub const PRIVATE_SECRET: &str = "private-client-secret";
const STRICT_SECRET: &str = "strict-client-secret";
const PLACEHOLDER: &str = "_PLACEHOLDER_PROXY-PWA_KIT_SLAS_CLIENT_SECRET";
const STOREFRONT: &str = "/mobify/slas/private";
const GUEST: [(&str, &str); 2] = [("grant_type", "client_credentials"), ("channel_id", "RefArch")];
const FORM: &str = "application/x-www-form-urlencoded";

/// Operations to which the gateway adds Basic.
const BASIC: [&str; 6] =
    ["token", "passwordless/login", "passwordless/token", "password/reset", "password/action", "session-bridge/token"];
/// Operations to which nothing is ever added.
const NOTHING: [(&str, &str); 17] = [
    ("POST", "trusted-system/token"),
    ("POST", "revoke"),
    ("POST", "introspect"),
    ("GET", "logout"),
    ("POST", "logout"),
    ("GET", "trusted-agent/authorize"),
    ("GET", "jwks"),
    ("GET", ".well-known/openid-configuration"),
    ("GET", "userinfo"),
    ("POST", "webauthn/register/authorize"),
    ("POST", "webauthn/register/start"),
    ("POST", "webauthn/register/finish"),
    ("POST", "webauthn/authenticate/start"),
    ("POST", "webauthn/authenticate/finish"),
    ("GET", "webauthn/passkey/user/ada"),
    ("POST", "otp/request"),
    ("POST", "otp/verify"),
];

/// Operations that SLAS refuses without `Authorization`; the gateway refuses them itself.
const NEEDS_CREDENTIAL: [&str; 4] = ["userinfo", "logout", "introspect", "revoke"];

fn slas(rest: &str) -> String {
    format!("/shopper/auth/v1/organizations/{ORGANIZATION}/oauth2/{rest}")
}

fn bare(user: &str, password: &str) -> String {
    STANDARD.encode(format!("{user}:{password}"))
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", bare(user, password))
}

/// A world whose client follows no redirect.
async fn world() -> World {
    let mut world = World::start().await;
    world.client = reqwest::Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
    world
}

/// The head of a token request with a form, as bytes.
fn head(more: &str) -> String {
    let head = format!("POST {} HTTP/1.1\r\nHost: a\r\nContent-Type: {FORM}\r\n", slas("token"));
    format!("{head}Connection: close\r\n{more}\r\n")
}

/// Sends a request without following redirects. Returns the response and SLAS's ledger entry.
async fn send_and_receive(world: &World, request: RequestBuilder) -> (Answer, LedgerEntry) {
    world.simulator.clear_ledger();
    let answer = world.send(request).await;
    let entry = world.simulator.ledger().into_iter().find(|entry| entry.path.contains("/oauth2/"));
    let entry = entry.unwrap_or_else(|| panic!("nothing reached SLAS: {} {}", answer.status, answer.text()));
    assert_eq!(entry.path.find("/mobify"), None);
    let answered = format!("{:?} {}", answer.headers, answer.text());
    for secret in [PRIVATE_SECRET, STRICT_SECRET] {
        assert!(!answered.contains(secret), "{answered}");
    }
    for credential in [bare(PRIVATE_CLIENT, PRIVATE_SECRET), bare(STRICT_CLIENT, STRICT_SECRET)] {
        assert!(!answered.contains(&credential), "{answered}");
    }
    (answer, entry)
}

/// All values of the credential fields, in any case of their names.
fn values<'e>(entry: &'e LedgerEntry, name: &str) -> Vec<&'e str> {
    let like = |other: &str| other.replace('_', "-") == name.replace('_', "-");
    entry.headers.iter().filter(|(other, _)| like(other)).map(|(_, value)| value.as_str()).collect()
}

fn credentials(entry: &LedgerEntry) -> [Vec<&str>; 3] {
    ["authorization", "_sfdc_client_auth", "x-slas-client-auth"].map(|name| values(entry, name))
}

#[tokio::test]
async fn basic_of_named_client_is_added_to_slas_request() {
    let world = World::start().await;
    for operation in BASIC {
        for prefix in ["", STOREFRONT] {
            let target = format!("{prefix}{}", slas(operation));
            let form = world.post(&target).form(&[("client_id", PRIVATE_CLIENT), ("channel_id", "RefArch")]);
            let (_, entry) = send_and_receive(&world, form).await;
            assert_eq!(
                credentials(&entry),
                [vec![basic(PRIVATE_CLIENT, PRIVATE_SECRET).as_str()], vec![], vec![]],
                "{target}"
            );
            assert_eq!(entry.body, format!("client_id={PRIVATE_CLIENT}&channel_id=RefArch"), "the form is unchanged");

            let query = world.post(&format!("{target}?client_id={PRIVATE_CLIENT}")).form(&GUEST);
            let (_, entry) = send_and_receive(&world, query).await;
            assert_eq!(credentials(&entry)[0], [basic(PRIVATE_CLIENT, PRIVATE_SECRET)], "{target}");
            assert_eq!(entry.query, format!("client_id={PRIVATE_CLIENT}"));

            for client in [PUBLIC_CLIENT, "99999999-9999-4999-8999-999999999999", ""] {
                let (_, entry) = send_and_receive(&world, world.post(&target).form(&[("client_id", client)])).await;
                assert_eq!(credentials(&entry), [const { Vec::<&str>::new() }; 3], "{target} {client}");
            }
            let (_, entry) = send_and_receive(&world, world.post(&target).form(&GUEST)).await;
            assert_eq!(credentials(&entry), [const { Vec::<&str>::new() }; 3], "{target} names nobody");
        }
    }
}

#[tokio::test]
async fn guest_login_at_slas_needs_no_client_secret() {
    let world = World::start().await;
    for prefix in ["", STOREFRONT] {
        for client in [PRIVATE_CLIENT, STRICT_CLIENT] {
            let request = world.post(&format!("{prefix}{}", slas("token")));
            let (answer, _) =
                send_and_receive(&world, request.form(&[&GUEST[..], &[("client_id", client)]].concat())).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(answer.header("authorization"), None);
            assert_eq!(answer.header("cache-control"), Some("no-store"));
        }
    }
}

#[tokio::test]
async fn strict_client_credential_is_added_beside_shopper_credentials() {
    let world = world().await;
    let challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
    for (prefix, client, proof) in [
        ("", STRICT_CLIENT, Some(bare(STRICT_CLIENT, STRICT_SECRET))),
        (STOREFRONT, STRICT_CLIENT, Some(bare(STRICT_CLIENT, STRICT_SECRET))),
        ("", PRIVATE_CLIENT, None),
        (STOREFRONT, PRIVATE_CLIENT, None),
        ("", PUBLIC_CLIENT, None),
    ] {
        let fields = [
            ("client_id", client),
            ("channel_id", "RefArch"),
            ("redirect_uri", "http://localhost:3000/callback"),
            ("code_challenge", challenge),
        ];
        let login = world.post(&format!("{prefix}{}", slas("login"))).basic_auth(LOGIN, Some(PASSWORD)).form(&fields);
        let (_, entry) = send_and_receive(&world, login).await;
        let expected = proof.as_deref().into_iter().collect::<Vec<_>>();
        assert_eq!(credentials(&entry), [vec![basic(LOGIN, PASSWORD).as_str()], vec![], expected.clone()], "{client}");

        let query = [&fields[..], &[("response_type", "code"), ("hint", "guest")]].concat();
        let authorize = world.get(&format!("{prefix}{}", slas("authorize"))).query(&query);
        let (_, entry) = send_and_receive(&world, authorize).await;
        assert_eq!(credentials(&entry), [vec![], vec![], expected], "{client}");
    }
}

#[tokio::test]
async fn strict_client_login_returns_redirect() {
    let world = world().await;
    let challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
    let login = world.post(&slas("login")).basic_auth(LOGIN, Some(PASSWORD)).form(&[
        ("client_id", STRICT_CLIENT),
        ("channel_id", "RefArch"),
        ("redirect_uri", "http://localhost:3000/callback"),
        ("code_challenge", challenge),
    ]);
    let (answer, _) = send_and_receive(&world, login).await;
    assert_eq!(answer.status, 303, "{}", answer.text());
    assert!(answer.header("location").unwrap().starts_with("http://localhost:3000/callback?"));
}

#[tokio::test]
async fn agent_token_is_forwarded_beside_client_credential() {
    let world = World::start().await;
    let fields = [("client_id", PRIVATE_CLIENT), ("channel_id", "RefArch")];
    for prefix in ["", STOREFRONT] {
        let request = world.post(&format!("{prefix}{}", slas("trusted-agent/token"))).form(&fields);
        let request =
            request.bearer_auth("the-agents-token").header("_sfdc_client_auth", bare(PRIVATE_CLIENT, "wrong"));
        let (_, entry) = send_and_receive(&world, request).await;
        let proof = bare(PRIVATE_CLIENT, PRIVATE_SECRET);
        assert_eq!(credentials(&entry), [vec!["Bearer the-agents-token"], vec![proof.as_str()], vec![]], "{prefix}");

        // The gateway adds nothing to a request with its own credential.
        let own = world.post(&format!("{prefix}{}", slas("trusted-agent/token"))).form(&fields);
        let (_, entry) = send_and_receive(&world, own.basic_auth(PRIVATE_CLIENT, Some("own"))).await;
        assert_eq!(credentials(&entry), [vec![basic(PRIVATE_CLIENT, "own").as_str()], vec![], vec![]], "{prefix}");
    }
}

#[tokio::test]
async fn no_credential_is_added_to_other_slas_operations() {
    let world = World::start().await;
    let token = world.mint(|spec| spec.scopes = Some(vec!["sfcc.pwdless_login".into()]));
    for (method, operation) in NOTHING {
        for prefix in ["", STOREFRONT] {
            let target = format!("{prefix}{}?client_id={PRIVATE_CLIENT}&channel_id=RefArch", slas(operation));
            let request = world.request(Method::from_bytes(method.as_bytes()).unwrap(), &target);
            let request = if method == "POST" { request.form(&[("client_id", PRIVATE_CLIENT)]) } else { request };
            let asks_for_a_token = operation.starts_with("otp") || operation.contains("passkey");
            let request = if asks_for_a_token { request.bearer_auth(&token) } else { request };
            if NEEDS_CREDENTIAL.contains(&operation) {
                assert_eq!(world.send(request).await.refusal(), (401, "token_missing"), "{method} {target}");
            } else {
                let (_, entry) = send_and_receive(&world, request).await;
                let own = if asks_for_a_token { vec![format!("Bearer {token}")] } else { vec![] };
                let proofs = credentials(&entry);
                assert_eq!(proofs, [own.iter().map(String::as_str).collect(), vec![], vec![]], "{method} {target}");
            }

            // The gateway replaces a placeholder only where it would also have added a credential.
            if !asks_for_a_token {
                let request = world.request(Method::from_bytes(method.as_bytes()).unwrap(), &target);
                let (_, entry) = send_and_receive(&world, request.basic_auth(PRIVATE_CLIENT, Some(PLACEHOLDER))).await;
                assert_eq!(credentials(&entry)[0], [basic(PRIVATE_CLIENT, PLACEHOLDER)], "{method} {target}");
            }
        }
    }
}

#[tokio::test]
async fn gateway_credential_is_not_usable_for_on_behalf_revoke_or_introspect() {
    let world = World::start().await;
    for (operation, fields) in [
        (
            "trusted-system/token",
            vec![
                ("grant_type", "client_credentials"),
                ("hint", "ts_ext_on_behalf_of"),
                ("login_id", LOGIN),
                ("idp_origin", "ecom"),
                ("channel_id", "RefArch"),
                ("client_id", PRIVATE_CLIENT),
            ],
        ),
        ("revoke", vec![("token", "any"), ("client_id", PRIVATE_CLIENT)]),
        ("introspect", vec![("token", "any"), ("client_id", PRIVATE_CLIENT)]),
    ] {
        for prefix in ["", STOREFRONT] {
            let target = format!("{prefix}{}", slas(operation));
            assert_eq!(world.send(world.post(&target).form(&fields)).await.status, 401, "{target}");
            let placeholder = world.post(&target).form(&fields).basic_auth(PRIVATE_CLIENT, Some(PLACEHOLDER));
            assert_eq!(world.send(placeholder).await.status, 401, "{target}");
            let own = world.post(&target).form(&fields).basic_auth(PRIVATE_CLIENT, Some(PRIVATE_SECRET));
            assert_ne!(world.send(own).await.status, 401, "{target}: its own credential is SLAS's to judge");
        }
    }
}

#[tokio::test]
async fn placeholder_secret_is_replaced_under_storefront_prefix_only() {
    let world = World::start().await;
    for operation in BASIC {
        for secret in [PLACEHOLDER, "wrong", PRIVATE_SECRET] {
            let request = |prefix: &str| {
                let request = world.post(&format!("{prefix}{}", slas(operation))).form(&GUEST);
                request.basic_auth(PRIVATE_CLIENT, Some(secret))
            };
            let (_, entry) = send_and_receive(&world, request(STOREFRONT)).await;
            assert_eq!(credentials(&entry), [vec![basic(PRIVATE_CLIENT, PRIVATE_SECRET).as_str()], vec![], vec![]]);
            let (_, entry) = send_and_receive(&world, request("")).await;
            assert_eq!(credentials(&entry), [vec![basic(PRIVATE_CLIENT, secret).as_str()], vec![], vec![]]);
        }
        // Other clients keep their own credential here too.
        for user in [PUBLIC_CLIENT, "somebody", LOGIN] {
            let request =
                world.post(&format!("{STOREFRONT}{}", slas(operation))).form(&[("client_id", PRIVATE_CLIENT)]);
            let (_, entry) = send_and_receive(&world, request.basic_auth(user, Some("own"))).await;
            assert_eq!(credentials(&entry)[0], [basic(user, "own")], "{operation} {user}");
        }
    }
    // The shopper's own credentials are no placeholder.
    let login = world.post(&format!("{STOREFRONT}{}", slas("login"))).form(&[("client_id", PRIVATE_CLIENT)]);
    let (_, entry) = send_and_receive(&world, login.basic_auth(PRIVATE_CLIENT, Some("Passw0rd"))).await;
    assert_eq!(credentials(&entry)[0], [basic(PRIVATE_CLIENT, "Passw0rd")]);

    let wrong = world.post(&slas("token")).form(&GUEST).basic_auth(PRIVATE_CLIENT, Some("wrong"));
    assert_eq!(world.send(wrong).await.status, 401, "a wrong secret stays wrong");
}

#[tokio::test]
async fn basic_user_alone_selects_client() {
    let world = World::start().await;
    // The form names another client than the placeholder, so SLAS refuses.
    let form = [&GUEST[..], &[("client_id", STRICT_CLIENT)]].concat();
    let request = world.post(&format!("{STOREFRONT}{}", slas("token"))).form(&form);
    let (answer, entry) = send_and_receive(&world, request.basic_auth(PRIVATE_CLIENT, Some(PLACEHOLDER))).await;
    assert_eq!(credentials(&entry)[0], [basic(PRIVATE_CLIENT, PRIVATE_SECRET)]);
    assert!(answer.status.is_client_error(), "{}", answer.status);
}

#[tokio::test]
async fn client_auth_headers_of_callers_are_removed() {
    let world = World::start().await;
    let own = bare(PRIVATE_CLIENT, PRIVATE_SECRET);
    let spoofed = |mut request: RequestBuilder| {
        for name in
            ["_sfdc_client_auth", "-sfdc-client-auth", "_SFDC-client_AUTH", "x-slas-client-auth", "X_SLAS_Client_Auth"]
        {
            request = request.header(name, &own).header(name, "second");
        }
        request
    };
    for operation in
        BASIC.into_iter().chain(["trusted-agent/token", "login", "trusted-system/token", "revoke", "logout"])
    {
        let request = world.post(&slas(operation)).form(&[("client_id", PUBLIC_CLIENT)]);
        // A login needs the shopper's own credentials, and these operations need a credential.
        let own = (operation == "login").then(|| basic(LOGIN, PASSWORD));
        let own = own.or(NEEDS_CREDENTIAL.contains(&operation).then(|| "Bearer a".to_owned()));
        let request = own.iter().fold(request, |request, own| request.header("authorization", own));
        let (_, entry) = send_and_receive(&world, spoofed(request)).await;
        assert_eq!(credentials(&entry), [own.iter().map(String::as_str).collect(), vec![], vec![]], "{operation}");
    }
    let authorize = world.get(&format!("{}?client_id={STRICT_CLIENT}", slas("authorize")));
    let (_, entry) = send_and_receive(&world, spoofed(authorize)).await;
    assert_eq!(credentials(&entry)[2], [bare(STRICT_CLIENT, STRICT_SECRET)], "exactly the gateway's");
}

#[tokio::test]
async fn request_naming_two_clients_is_rejected_in_both_modes() {
    for mode in ["enforce", "report"] {
        let world = World::with(|table| {
            table.insert("policy".into(), toml::Value::Table(toml::toml! { mode = mode }));
        })
        .await;
        world.simulator.clear_ledger();
        let two = [("client_id", PUBLIC_CLIENT), ("client_id", PRIVATE_CLIENT)];
        let target = slas("token");
        for request in [
            world.post(&target).form(&two),
            world.post(&target).form(&[("client_id", PRIVATE_CLIENT), ("client_id", PRIVATE_CLIENT)]),
            world.post(&target).header("content-type", FORM).body(format!("client_id=a&client%5Fid={PRIVATE_CLIENT}")),
            world.post(&target).header("content-type", FORM).body(format!("client_id=%zz&x={PRIVATE_CLIENT}")),
            world.post(&target).header("content-type", FORM).body(b"client_id=\xff".to_vec()),
            world.post(&format!("{target}?client_id={PUBLIC_CLIENT}")).form(&[("client_id", PRIVATE_CLIENT)]),
            world.post(&format!("{STOREFRONT}{target}")).form(&two).bearer_auth("x"),
            world.post(&slas("login")).form(&two).basic_auth(LOGIN, Some(PASSWORD)),
        ] {
            assert_eq!(world.send(request).await.refusal(), (400, "request_ambiguous"), "{mode}");
        }
        assert!(world.simulator.ledger().iter().all(|entry| !entry.path.contains("/oauth2/token")), "none was sent");
    }
}

#[tokio::test]
async fn token_request_that_is_no_form_is_rejected_before_slas() {
    let world = World::start().await;
    let body = format!("grant_type=client_credentials&channel_id=RefArch&client_id={PRIVATE_CLIENT}");
    let post = || world.post(&slas("token")).body(body.clone());
    let packed = post().header("content-type", FORM).header("content-encoding", "gzip");
    let typed = |content_type: &str| post().header("content-type", content_type);
    let multipart = typed("multipart/form-data; boundary=x");
    for request in [typed("application/json"), typed("text/plain"), multipart, packed, post()] {
        let answer = world.send(request).await;
        assert_eq!(answer.refusal(), (400, "request_invalid"));
        assert!(answer.text().contains("application/x-www-form-urlencoded"), "{}", answer.text());
    }
    assert_eq!(world.simulator.ledger().iter().filter(|entry| entry.path.ends_with("/token")).count(), 0);
    let (answer, entry) = send_and_receive(&world, typed("APPLICATION/x-www-form-urlencoded; charset=UTF-8")).await;
    assert_eq!((credentials(&entry)[0].len(), answer.status.as_u16()), (1, 200));
}

#[tokio::test]
async fn buffered_form_is_forwarded_unchanged() {
    let world = World::start().await;
    let form = |length: usize| {
        let mut body = format!("grant_type=client_credentials&channel_id=RefArch&client_id={PRIVATE_CLIENT}&x=");
        body.push_str(&"y".repeat(length - body.len()));
        body
    };
    for length in [200, 16 * 1024 + 1, 64 * 1024 - 1, 64 * 1024] {
        let request = world.post(&slas("token")).header("content-type", FORM).body(form(length));
        let (answer, entry) = send_and_receive(&world, request).await;
        assert_eq!((answer.status.as_u16(), entry.body_length), (200, length));

        // The body is in chunks, the first of which ends within a name.
        let body = form(length);
        let chunk = |part: &str| format!("{:x}\r\n{part}\r\n", part.len());
        let chunks = format!("{}{}0\r\n\r\n", chunk(&body[..70]), chunk(&body[70..]));
        world.simulator.clear_ledger();
        let answer = world.raw(format!("{}{chunks}", head("Transfer-Encoding: chunked\r\n")).as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "chunked: {answer}");
        assert_eq!(world.simulator.ledger().pop().unwrap().body, body);
    }
    let request = world.post(&slas("token")).header("content-type", FORM).body(form(64 * 1024 + 1));
    assert_eq!(world.send(request).await.refusal(), (413, "request_too_large"));
    // The gateway reads every form to find the session, so the limit also holds where it adds nothing.
    let own = world.post(&slas("token")).basic_auth(PRIVATE_CLIENT, Some(PRIVATE_SECRET));
    let answer = world.send(own.header("content-type", FORM).body(form(200_000))).await;
    assert_eq!(answer.refusal(), (413, "request_too_large"));
}

#[tokio::test]
async fn token_requests_work_over_http_2() {
    let mut world = World::start().await;
    world.client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    for length in [0, 64 * 1024 - 100] {
        let long = "y".repeat(length);
        let fields = [&GUEST[..], &[("client_id", PRIVATE_CLIENT), ("x", &long)]].concat();
        let (answer, _) = send_and_receive(&world, world.post(&slas("token")).form(&fields)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let (_, entry) = send_and_receive(&world, world.post(&slas("token")).header("content-type", FORM)).await;
    assert_eq!(entry.body_length, 0);
    let unknown = [("client_id", PRIVATE_CLIENT), ("channel_id", "RefArch"), ("user_id", "nobody"), ("mode", "sms")];
    let answer = world.send(world.post(&slas("passwordless/login")).form(&unknown)).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0));
}

#[tokio::test]
async fn empty_form_reaches_slas() {
    let world = World::start().await;
    for rest in ["Content-Length: 0\r\n", "Transfer-Encoding: chunked\r\n\r\n0\r\n", ""] {
        world.simulator.clear_ledger();
        let answer = world.raw(head(rest).as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{rest:?}: {answer}");
        assert!(answer.contains("unsupported_grant_type"), "SLAS's own answer: {answer}");
    }
    // A client that sends `Expect: 100-continue` gets 100.
    let form = format!("grant_type=client_credentials&channel_id=RefArch&client_id={PRIVATE_CLIENT}");
    let expecting = head(&format!("Expect: 100-continue\r\nContent-Length: {}\r\n", form.len()));
    let answer = world.raw(format!("{expecting}{form}").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 100").count(), 1, "{answer}");
}

#[tokio::test]
async fn passwordless_login_does_not_reveal_whether_account_exists() {
    let world = World::start().await;
    let ask = async |prefix: &str, user: &str| {
        let form = format!(
            "client_id={PRIVATE_CLIENT}&channel_id=RefArch&user_id={user}&mode=callback&callback_uri=http%3A%2F%2Flocalhost%3A3000%2Fdelivery"
        );
        let head = format!(
            "POST {prefix}{} HTTP/1.1\r\nHost: a\r\nContent-Type: {FORM}\r\ncorrelation-id: same\r\nContent-Length: {}\r\n",
            slas("passwordless/login"),
            form.len()
        );
        let answer = world.raw(format!("{head}\r\n{form}").as_bytes()).await;
        // Counters and times change by themselves.
        let still = |line: &str| match line.to_lowercase() {
            line if line.starts_with("x-ratelimit-") || line.starts_with("date:") => {
                line.split(':').next().unwrap_or_default().to_owned()
            }
            line => line,
        };
        answer.split("\r\n").map(still).collect::<Vec<_>>()
    };
    for prefix in ["", STOREFRONT] {
        let known = ask(prefix, "shopper%40example.com").await;
        let unknown = ask(prefix, "nobody%40example.com").await;
        assert_eq!(known[0], "http/1.1 200 ok");
        assert_eq!(known, unknown);
        assert!(unknown.contains(&"content-length: 0".to_owned()), "{unknown:?}");
    }
    let metrics = world.metrics().await;
    assert!(!metrics.contains("status=\"404\""), "{metrics}");

    // The connection stays usable afterwards, and other failures have their own error.
    let form = [("client_id", PRIVATE_CLIENT), ("channel_id", "RefArch"), ("user_id", "nobody"), ("mode", "sms")];
    for _ in 0..3 {
        let answer = world.send(world.post(&slas("passwordless/login")).form(&form)).await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0));
    }
    // Only this operation hides a 404.
    let reset = Effect::Status { code: 404, retry_after: None, body: Some("{}".into()) };
    world.simulator.inject(Fault::on("slas", reset).flow("password:reset").times(1));
    assert_eq!(world.send(world.post(&slas("password/reset")).form(&form)).await.status, 404);
    let refused = Effect::Status { code: 429, retry_after: Some("7".into()), body: None };
    world.simulator.inject(Fault::on("slas", refused).flow("passwordless:login").times(1));
    assert_eq!(world.send(world.post(&slas("passwordless/login")).form(&form)).await.status, 429);
}

#[tokio::test]
async fn password_reset_at_slas_works_through_gateway() {
    let world = World::start().await;
    let reset = world.post(&format!("{STOREFRONT}{}", slas("password/reset"))).form(&[
        ("user_id", LOGIN),
        ("mode", "callback"),
        ("callback_uri", "http://localhost:3000/delivery"),
        ("channel_id", "RefArch"),
        ("client_id", PRIVATE_CLIENT),
        ("hint", "cross_device"),
    ]);
    let answer = world.send(reset).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let token = world.simulator.outbox().pop().unwrap().token;
    let action = world.post(&slas("password/action")).form(&[
        ("pwd_action_token", token.as_str()),
        ("user_id", LOGIN),
        ("new_password", "N3w-passw0rd!"),
        ("channel_id", "RefArch"),
        ("client_id", PRIVATE_CLIENT),
        ("hint", "cross_device"),
    ]);
    let answer = world.send(action).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(world.log_in(PRIVATE_CLIENT, LOGIN, "N3w-passw0rd!").await.status, 200);
    assert_eq!(world.log_in(PRIVATE_CLIENT, LOGIN, PASSWORD).await.status, 401);
}

#[tokio::test]
async fn client_with_vouch_false_gets_no_credential_added() {
    // The default is the client that acts on behalf of shoppers.
    for vouch in [None, Some(false), Some(true)] {
        let world = World::with(|table| {
            let clients = table["tenants"].as_array_mut().unwrap()[0]["slas_clients"].as_array_mut().unwrap();
            let private = clients[1].as_table_mut().unwrap();
            private.remove("vouch");
            private.extend(vouch.map(|vouch| ("vouch".to_owned(), vouch.into())));
        })
        .await;
        for prefix in ["", STOREFRONT] {
            let target = format!("{prefix}{}", slas("token"));
            let form = [&GUEST[..], &[("client_id", PRIVATE_CLIENT)]].concat();
            let (answer, entry) = send_and_receive(&world, world.post(&target).form(&form)).await;
            let is_added = vouch == Some(true);
            assert_eq!(
                (answer.status == 200, credentials(&entry)[0].len()),
                (is_added, usize::from(is_added)),
                "{prefix}"
            );
            let placeholder = world.post(&target).basic_auth(PRIVATE_CLIENT, Some(PLACEHOLDER)).form(&GUEST);
            let (answer, entry) = send_and_receive(&world, placeholder).await;
            let is_replaced = is_added && prefix == STOREFRONT;
            assert_eq!(answer.status == 200, is_replaced, "{prefix}");
            assert_eq!(credentials(&entry)[0] == [basic(PRIVATE_CLIENT, PRIVATE_SECRET)], is_replaced, "{prefix}");
            // Another client's credential is added as before.
            let form = [&GUEST[..], &[("client_id", STRICT_CLIENT)]].concat();
            let (answer, _) = send_and_receive(&world, world.post(&target).form(&form)).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
}

#[tokio::test]
async fn form_that_may_request_on_behalf_token_gets_no_credential_added() {
    let world = World::start().await;
    let client = format!("grant_type=client_credentials&channel_id=RefArch&client_id={PRIVATE_CLIENT}");
    for more in [
        "hint=ts_ext_on_behalf_of&login_id=shopper%40example.com&idp_origin=ecom",
        "hint=guest",
        "h%69nt=ts_ext_on_behalf_of",
        "HINT=ts_ext_on_behalf_of",
        "hint=&hint=ts_ext_on_behalf_of",
        "hint%5B%5D=ts_ext_on_behalf_of",
        "login_id=shopper%40example.com",
        "idp_origin=ecom",
    ] {
        for prefix in ["", STOREFRONT] {
            let target = format!("{prefix}{}", slas("token"));
            let in_form = world.post(&target).header("content-type", FORM).body(format!("{client}&{more}"));
            let in_query = world.post(&format!("{target}?{more}")).header("content-type", FORM).body(client.clone());
            let replaced = world.post(&target).basic_auth(PRIVATE_CLIENT, Some(PLACEHOLDER));
            let replaced = replaced.header("content-type", FORM).body(format!("{client}&{more}"));
            for request in [in_form, in_query, replaced] {
                let (answer, entry) = send_and_receive(&world, request).await;
                assert_eq!(answer.status, 401, "{more}: {}", answer.text());
                assert!(!credentials(&entry)[0].contains(&basic(PRIVATE_CLIENT, PRIVATE_SECRET).as_str()), "{more}");
            }
        }
    }
    // This form, as in the API description, does not request another shopper's token.
    let form = [("hint", "pwdless_login"), ("client_id", PRIVATE_CLIENT), ("login_id", LOGIN)];
    let (_, entry) = send_and_receive(&world, world.post(&slas("passwordless/token")).form(&form)).await;
    assert_eq!(credentials(&entry)[0], [basic(PRIVATE_CLIENT, PRIVATE_SECRET)]);
}

#[tokio::test]
async fn other_methods_on_slas_paths_are_rejected() {
    let world = World::start().await;
    for (method, operation) in [
        ("HEAD", "token"),
        ("DELETE", "logout"),
        ("GET", "token"),
        ("PUT", "token"),
        ("POST", "authorize"),
        ("POST", "jwks"),
        ("GET", "revoke"),
    ] {
        for prefix in ["", STOREFRONT] {
            let target = format!("{prefix}{}?client_id={PRIVATE_CLIENT}", slas(operation));
            let answer = world.send(world.request(Method::from_bytes(method.as_bytes()).unwrap(), &target)).await;
            assert_eq!(answer.refusal(), (405, "method_not_allowed"), "{method} {operation}");
        }
    }
    assert!(world.simulator.ledger().iter().all(|entry| entry.flow == "jwks"), "{:?}", world.simulator.ledger());
}

#[tokio::test]
async fn head_of_slas_path_is_its_get() {
    let world = world().await;
    let query = format!("client_id={STRICT_CLIENT}&channel_id=RefArch&response_type=code");
    let (_, entry) = send_and_receive(&world, world.request(Method::HEAD, &slas(&format!("authorize?{query}")))).await;
    assert_eq!((entry.method.as_str(), entry.query.as_str()), ("HEAD", query.as_str()));
    assert_eq!(credentials(&entry)[2], [bare(STRICT_CLIENT, STRICT_SECRET)], "as for GET");
    let logout = world.request(Method::HEAD, &slas("logout?refresh_token=a"));
    assert_eq!(world.send(logout).await.refusal(), (401, "token_missing"));
}

#[tokio::test]
async fn client_of_another_organization_gets_no_credential_added() {
    let world = World::with(|table| {
        let tenants = table["tenants"].as_array_mut().unwrap();
        tenants[1]["slas_clients"]
            .as_array_mut()
            .unwrap()
            .retain(|client| client["client_id"].as_str() != Some(PRIVATE_CLIENT));
        tenants[1].as_table_mut().unwrap().remove("on_behalf_client");
    })
    .await;
    let other = slas("token").replace(ORGANIZATION, "f_ecom_zzrf_002");
    let (_, entry) = send_and_receive(&world, world.post(&other).form(&[("client_id", PRIVATE_CLIENT)])).await;
    assert_eq!(credentials(&entry)[0].len(), 0);
    assert!(configuration("http://localhost").contains(PRIVATE_CLIENT));
}

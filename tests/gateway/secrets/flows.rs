//! Every flow, in its successful and its failing variants.

use std::{fs, time::Duration};

use reqwest::{Method, RequestBuilder};
use salesforce_simulator::{Effect, Fault, ResetAt};

use super::driver::{Driver, NEW_PASSWORD, ResponseSecrets, WRONG};
use crate::{
    callers::CALLER_SECRET,
    cors::SHOP,
    world::{
        CALLER_CLIENT, LOGIN, ORGANIZATION, PASSWORD, PRIVATE_CLIENT, PUBLIC_CLIENT, STRICT_CLIENT, baskets, customers,
        eventually, expired, login_target, products,
    },
};

const REDIRECT: &str = "http://localhost:3000/callback";
const STOREFRONT: &str = "/mobify/slas/private";
/// A verifier and its challenge (RFC 7636, appendix B).
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

fn slas(rest: &str) -> String {
    format!("/shopper/auth/v1/organizations/{ORGANIZATION}/oauth2/{rest}")
}

fn search() -> String {
    products("?ids=a&siteId=RefArch")
}

fn orders() -> String {
    format!("/checkout/orders/v1/organizations/{ORGANIZATION}/orders?siteId=RefArch")
}

fn guest(driver: &Driver, client: &str) -> RequestBuilder {
    driver.post(&login_target(client)).body(r#"{"type":"guest"}"#)
}

/// A shopper's password login, after the login window: SLAS accepts one of a shopper in a second.
async fn credentials(driver: &Driver, client: &str, password: &str) -> RequestBuilder {
    tokio::time::sleep(Duration::from_millis(1100)).await;
    driver.post(&login_target(client)).basic_auth(LOGIN, Some(password)).body(r#"{"type":"credentials"}"#)
}

fn trusted(request: RequestBuilder, secret: &str) -> RequestBuilder {
    request.basic_auth(CALLER_CLIENT, Some(secret))
}

/// The deprecated logins, for each kind of client, with sessions, renewals and logouts.
pub async fn deprecated_logins(driver: &mut Driver) {
    for client in [PUBLIC_CLIENT, PRIVATE_CLIENT, STRICT_CLIENT] {
        driver.simulator.set(|behaviour| behaviour.shopper_token_seconds = 2);
        let guest = driver.send(guest(driver, client), ResponseSecrets::Token).await.token();
        let ended = driver.send(credentials(driver, client, PASSWORD).await, ResponseSecrets::Token).await.token();
        expired(&ended).await;
        driver.simulator.set(|behaviour| behaviour.shopper_token_seconds = 600);
        for token in [guest, ended] {
            let renewed = driver.send(driver.get(&search()).bearer_auth(&token), ResponseSecrets::Token).await;
            assert_eq!(renewed.status, 200, "{}", renewed.body);
            let newest = renewed.token();
            let refresh = driver.post(&login_target(client)).bearer_auth(&newest).body(r#"{"type":"refresh"}"#);
            assert_eq!(driver.send(refresh, ResponseSecrets::Token).await.status, 200);
            let basket = driver.post(&baskets("?siteId=RefArch")).bearer_auth(&newest).body("{}");
            // A customer may have one basket, so Salesforce refuses a second one.
            driver.send(basket, ResponseSecrets::Token).await;
            let logout = customers("/customers/actions/logout?siteId=RefArch");
            let logout = driver.request(Method::DELETE, &logout).bearer_auth(&newest);
            assert_eq!(driver.send(logout, ResponseSecrets::Nothing).await.status, 204);
            for again in [&token, &newest] {
                assert_eq!(
                    driver.send(driver.get(&search()).bearer_auth(again), ResponseSecrets::Nothing).await.status,
                    401
                );
            }
        }
        assert_eq!(driver.send(credentials(driver, client, WRONG).await, ResponseSecrets::Nothing).await.status, 401);
    }
}

/// Trusted systems: by bearer token, Basic and certificate, for themselves and on behalf of shoppers.
pub async fn trusted_systems(driver: &mut Driver) {
    let bearer = driver.simulator.mint_account_manager_token(
        CALLER_CLIENT,
        &["sfcc.orders", "sfcc.shopper-customers.login"],
        "zzrf_001",
        600,
    );
    driver.secrets.add_token("a caller's token", &bearer);
    let login = customers("/customers/trusted-system/actions/login?siteId=RefArch");
    let body = format!(r#"{{"login":"{LOGIN}","clientId":"{PUBLIC_CLIENT}"}}"#);
    for request in [driver.get(&orders()), driver.get(&search()).header("X-On-Behalf-Of", LOGIN)] {
        for request in
            [request.try_clone().unwrap().bearer_auth(&bearer), trusted(request.try_clone().unwrap(), CALLER_SECRET)]
        {
            let answer = driver.send(request, ResponseSecrets::Nothing).await;
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
        let wrong = driver.send(trusted(request, WRONG), ResponseSecrets::Nothing).await;
        assert_eq!(wrong.status, 401, "{}", wrong.body);
    }
    for target in [orders(), search()] {
        let request = driver.certified.get(driver.url(&target)).header("X-On-Behalf-Of", LOGIN);
        let request = if target == orders() { driver.certified.get(driver.url(&target)) } else { request };
        let answer = driver.send(request, ResponseSecrets::Nothing).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    for request in [driver.post(&login).bearer_auth(&bearer), trusted(driver.post(&login), CALLER_SECRET)] {
        let request = request.header("content-type", "application/json").body(body.clone());
        let mut answer = driver.send(request.try_clone().unwrap(), ResponseSecrets::Token).await;
        // The caller's token differs from the one that the gateway uses, and SLAS has a window of 3 s.
        for _ in 0..100 {
            if answer.status != 409 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            answer = driver.send(request.try_clone().unwrap(), ResponseSecrets::Token).await;
        }
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    for refused in [
        driver.get(&search()).bearer_auth(&bearer).header("X-On-Behalf-Of", "nobody@example.com"),
        driver.get(&orders()).basic_auth("stranger", Some(WRONG)),
        driver.post(&login).bearer_auth(&bearer).body(format!(r#"{{"password":"{WRONG}""#)),
    ] {
        let answer = driver.send(refused, ResponseSecrets::Nothing).await;
        assert!((400..500).contains(&answer.status), "{}", answer.body);
    }
    // The gateway replaces a token that the API refuses.
    let refused = Effect::Status { code: 401, retry_after: None, body: None };
    driver.simulator.inject(Fault::on("api", refused).flow("orders.getOrders").times(1));
    driver.send(trusted(driver.get(&orders()), CALLER_SECRET), ResponseSecrets::Nothing).await;
}

/// SLAS's own paths, with and without the storefront's prefix.
pub async fn slas_paths(driver: &mut Driver) {
    for (prefix, client) in
        [("", PUBLIC_CLIENT), ("", PRIVATE_CLIENT), (STOREFRONT, PRIVATE_CLIENT), ("", STRICT_CLIENT)]
    {
        let at = |rest: &str| format!("{prefix}{}", slas(rest));
        let fields = [
            ("client_id", client),
            ("channel_id", "RefArch"),
            ("redirect_uri", REDIRECT),
            ("code_challenge", CHALLENGE),
        ];
        let login = driver.post(&at("login")).basic_auth(LOGIN, Some(PASSWORD)).form(&fields);
        let redirect = driver.send(login, ResponseSecrets::All).await;
        let location = redirect.headers.get("location").map_or("", |value| value.to_str().unwrap());
        let code =
            location.split(['?', '&']).find_map(|pair| pair.strip_prefix("code=")).unwrap_or("no-code-was-given");
        // A browser follows to the gateway, with the code.
        let end = location.strip_prefix("http://localhost:3000").unwrap_or("/callback");
        let end = driver.get(end).header("origin", SHOP);
        assert_eq!(driver.send(end, ResponseSecrets::Nothing).await.status, 200);
        let form = [
            ("grant_type", "authorization_code_pkce"),
            ("client_id", client),
            ("channel_id", "RefArch"),
            ("redirect_uri", REDIRECT),
            ("code", code),
            ("code_verifier", VERIFIER),
        ];
        let mut redeem = driver.post(&at("token")).form(&form);
        if !prefix.is_empty() {
            redeem = redeem.basic_auth(client, Some("_PLACEHOLDER_PROXY-PWA_KIT_SLAS_CLIENT_SECRET"));
        }
        let tokens = driver.send(redeem, ResponseSecrets::All).await;
        let wrong = driver.post(&at("login")).basic_auth(LOGIN, Some(WRONG)).form(&fields);
        driver.send(wrong, ResponseSecrets::Nothing).await;
        if tokens.status != 200 {
            // A challenge is valid for one login, so not every client gets tokens.
            continue;
        }
        let (access, refresh) = (tokens.json("access_token"), tokens.json("refresh_token"));
        let form = [
            ("grant_type", "refresh_token"),
            ("refresh_token", &*refresh),
            ("client_id", client),
            ("channel_id", "RefArch"),
        ];
        assert_eq!(driver.send(driver.post(&at("token")).form(&form), ResponseSecrets::All).await.status, 200);
        let logout = format!("{}?client_id={client}&channel_id=RefArch&refresh_token={refresh}", at("logout"));
        driver.send(driver.get(&logout).bearer_auth(&access), ResponseSecrets::All).await;
    }
    let guest = [("grant_type", "client_credentials"), ("channel_id", "RefArch"), ("client_id", PRIVATE_CLIENT)];
    assert_eq!(driver.send(driver.post(&slas("token")).form(&guest), ResponseSecrets::All).await.status, 200);
    let wrong = driver.post(&slas("token")).basic_auth(PRIVATE_CLIENT, Some(WRONG)).form(&guest);
    assert_eq!(driver.send(wrong, ResponseSecrets::Nothing).await.status, 401);
    let made_up =
        [("grant_type", "refresh_token"), ("refresh_token", "a-refresh-token-of-nobody"), ("client_id", PUBLIC_CLIENT)];
    driver.secrets.add("a made-up refresh token", "a-refresh-token-of-nobody");
    assert_eq!(driver.send(driver.post(&slas("token")).form(&made_up), ResponseSecrets::Nothing).await.status, 400);
    let proofs = driver.post(&slas("introspect")).basic_auth(PRIVATE_CLIENT, Some("private-client-secret"));
    driver.send(proofs.form(&[("token", "a-token-of-nobody")]), ResponseSecrets::All).await;
}

/// A password reset by SLAS, and logins by a one-time token.
pub async fn one_time_tokens(driver: &mut Driver) {
    let delivery =
        [("mode", "callback"), ("callback_uri", "http://localhost:3000/delivery"), ("channel_id", "RefArch")];
    let mut form = vec![("user_id", LOGIN), ("client_id", PRIVATE_CLIENT), ("hint", "cross_device")];
    form.extend(delivery);
    assert_eq!(
        driver.send(driver.post(&slas("password/reset")).form(&form), ResponseSecrets::Nothing).await.status,
        200
    );
    let token = driver.simulator.outbox().pop().unwrap().token;
    for new in [NEW_PASSWORD, PASSWORD] {
        let form = [
            ("pwd_action_token", &*token),
            ("user_id", LOGIN),
            ("new_password", new),
            ("channel_id", "RefArch"),
            ("client_id", PRIVATE_CLIENT),
            ("hint", "cross_device"),
        ];
        driver.send(driver.post(&slas("password/action")).form(&form), ResponseSecrets::Nothing).await;
    }
    assert_eq!(
        driver.send(credentials(driver, PUBLIC_CLIENT, NEW_PASSWORD).await, ResponseSecrets::Token).await.status,
        200
    );
    let mut form = vec![("user_id", LOGIN), ("client_id", PRIVATE_CLIENT)];
    form.extend(delivery);
    assert_eq!(
        driver.send(driver.post(&slas("passwordless/login")).form(&form), ResponseSecrets::Nothing).await.status,
        200
    );
    let token = driver.simulator.outbox().pop().unwrap().token;
    let form = [
        ("grant_type", "client_credentials"),
        ("hint", "pwdless_login"),
        ("pwdless_login_token", &*token),
        ("client_id", PRIVATE_CLIENT),
    ];
    assert_eq!(
        driver.send(driver.post(&slas("passwordless/token")).form(&form), ResponseSecrets::All).await.status,
        200
    );
}

/// Refused requests with a secret at every place where a caller may put one.
pub async fn refusals(driver: &mut Driver) {
    let token = driver.simulator.mint_shopper_token(Default::default());
    driver.secrets.add_token("a shopper's token", &token);
    let (head, signature) = token.rsplit_once('.').unwrap();
    let other = if signature.starts_with('A') { 'B' } else { 'A' };
    let tampered = format!("{head}.{other}{}", &signature[1..]);
    driver.secrets.add("a tampered signature", &tampered[head.len() + 2..]);
    let secret_in_path = format!("/customer/{PASSWORD}/..%2f{WRONG}");
    for request in [
        driver.get(&search()).bearer_auth(&tampered),
        driver.get(&search()).bearer_auth(&token).basic_auth(LOGIN, Some(PASSWORD)),
        driver.get(&search()).header("authorization", format!("Negotiate {PASSWORD}")),
        driver.get(&search()).header("authorization", PASSWORD),
        driver.get(&format!("{}&access_token={token}", search())),
        driver.get(&secret_in_path),
        driver.get(&format!("{}&siteId=Other&password={PASSWORD}", search())),
        driver.get(&search()).bearer_auth(&token).header("X-On-Behalf-Of", LOGIN),
        driver.get(&search()).header("correlation-id", format!("{PASSWORD}\u{7f}")),
        driver.get(&search()).header("cookie", format!("session={token}")),
        driver.post(&login_target(PUBLIC_CLIENT)).body(format!(r#"{{"type":"{PASSWORD}"}}"#)),
        driver.post(&login_target(PUBLIC_CLIENT)).body(format!(r#"{{"password":"{PASSWORD}"#)),
        driver.post(&login_target(PASSWORD)).body(r#"{"type":"guest"}"#),
        driver.request(Method::from_bytes(b"PASSW0RD").unwrap(), &search()).body(PASSWORD),
        driver.get(&search()).header("x-large", PASSWORD.repeat(6000)),
        driver.post(&slas("trusted-system/token")).body(format!("client_secret={WRONG}")),
    ] {
        let Ok(request) = request.build() else { continue };
        let request = RequestBuilder::from_parts(driver.client.clone(), request);
        let answer = driver.send(request, ResponseSecrets::Nothing).await;
        assert!(answer.status >= 400, "{}", answer.body);
    }
}

/// Faults of all services behind the gateway, with texts of their own.
pub async fn faults(driver: &mut Driver) {
    let trace = format!("java.lang.Error: {PASSWORD} at Login.java");
    let status = |code| Effect::Status { code, retry_after: None, body: Some(trace.clone()) };
    for effect in [
        status(500),
        status(400),
        Effect::Garbage { html: false },
        Effect::Reset { at: ResetAt::MidBody },
        Effect::Hang,
    ] {
        for service in ["slas", "account_manager"] {
            driver.simulator.inject(Fault::on(service, effect.clone()));
        }
        for request in [
            guest(driver, PUBLIC_CLIENT),
            credentials(driver, PUBLIC_CLIENT, NEW_PASSWORD).await,
            trusted(driver.get(&orders().replace("orders?", "orders/1?")), CALLER_SECRET),
            trusted(driver.get(&search()), CALLER_SECRET).header("X-On-Behalf-Of", "second@example.com"),
        ] {
            let answer = driver.send(request, ResponseSecrets::Nothing).await;
            assert!(answer.status >= 400, "{}", answer.body);
        }
        driver.simulator.clear_faults();
        eventually("SLAS is asked again", async || {
            driver.send(guest(driver, PUBLIC_CLIENT), ResponseSecrets::Token).await.status == 200
        })
        .await;
    }
    let token = driver.send(guest(driver, PUBLIC_CLIENT), ResponseSecrets::Token).await.token();
    for effect in [Effect::Reset { at: ResetAt::Before }, Effect::Hang, Effect::Truncate] {
        driver.simulator.inject(Fault::on("api", effect).times(1));
        driver.send(driver.get(&search()).bearer_auth(&token), ResponseSecrets::Nothing).await;
    }
    driver.redis.pause();
    driver.send(driver.get(&search()).bearer_auth(&token), ResponseSecrets::Nothing).await;
    driver.send(guest(driver, PUBLIC_CLIENT), ResponseSecrets::Token).await;
    let refresh = driver.post(&login_target(PUBLIC_CLIENT)).bearer_auth(&token).body(r#"{"type":"refresh"}"#);
    driver.send(refresh, ResponseSecrets::Token).await;
    driver.redis.resume();
}

/// Successful and failed reloads.
pub async fn reloads(driver: &mut Driver) {
    let file = driver.replica.configuration();
    let good = fs::read_to_string(&file).unwrap();
    let log = driver.file("stderr");
    let count = |words: &str| fs::read_to_string(&log).unwrap().matches(words).count();
    let wrong = [
        good.replace("\"private-client-secret\"", "[\"private-client-secret\"]"),
        good.replace(
            "client_secret = \"private-client-secret\"",
            "client_secret = { fil = \"private-client-secret\" }",
        ),
        good.replace("encryption_key = \"AAEC", "encryption_key = \"!AAEC"),
        good.replace("client_secret = \"strict-client-secret\"", "client_secret = \"strict-client-secret"),
        good.replace("redis://", "redis://user:Passw0rd!shopper@unknown.invalid:x/"),
    ];
    for (number, wrong) in wrong.into_iter().enumerate() {
        assert_ne!(wrong, good, "{number}");
        let before = count("keeping the current one");
        fs::write(&file, &wrong).unwrap();
        driver.replica.signal("HUP");
        eventually(&format!("wrong configuration {number} is refused"), async || {
            count("keeping the current one") > before
        })
        .await;
    }
    fs::write(&file, &good).unwrap();
    driver.replica.signal("HUP");
    eventually("the good one is taken over", async || count("configuration reloaded") == 1).await;
    assert_eq!(driver.send(guest(driver, PUBLIC_CLIENT), ResponseSecrets::Token).await.status, 200);
}

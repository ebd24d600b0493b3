//! Faults of the services behind the gateway, and the responses that callers see.
//!
//! Each flow meets each fault of its service. The response is an error with its stable code, arrives in time, and holds
//! nothing that the service wrote. Calls that are not idempotent are sent once. When the fault has ended, the flow
//! succeeds.

mod clock;
mod store;
mod upstream;

use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::{RequestBuilder, redirect::Policy};
use salesforce_simulator::{Effect, Fault, ResetAt};

use crate::{
    callers::CALLER_SECRET,
    scale::figure,
    world::{
        Answer, CALLER_CLIENT, LOGIN, ORGANIZATION, PASSWORD, PRIVATE_CLIENT, PUBLIC_CLIENT, World, customers,
        eventually, expired, login_target, products, register_sessions,
    },
};

/// The text of a failing service, which no client may see.
const TRACE: &str = "java.lang.IllegalStateException: s3cret at com.demandware.Login.java:42 db=10.0.0.7";
/// Texts by which a fault would show in a response.
const MARKS: [&str; 9] =
    ["s3cret", "java.", "demandware", "10.0.0.7", "<html", "Service Unavailable</h1>", "padding", "xxxx", "127.0.0.1"];
/// Longer than `timeouts.exchange` and `timeouts.upstream` here.
const TOO_LATE: u64 = 3000;
/// Maximum time of a refusal during any fault, with allowance for a busy machine.
const SOON: Duration = Duration::from_secs(15);

/// All faults of a service.
fn faults() -> Vec<Effect> {
    let status = |code: u16| Effect::Status { code, retry_after: None, body: Some(TRACE.into()) };
    vec![
        Effect::Delay { ms: TOO_LATE },
        Effect::Hang,
        Effect::Reset { at: ResetAt::Before },
        Effect::Reset { at: ResetAt::After },
        Effect::Reset { at: ResetAt::MidBody },
        Effect::Truncate,
        Effect::Garbage { html: true },
        Effect::Garbage { html: false },
        Effect::HugeBody { bytes: 20_000_000 },
        status(500),
        status(503),
        status(302),
    ]
}

/// Whether the fault affects only the body of a response. It has no effect on a response without a body.
fn affects_only_body(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::Garbage { .. } | Effect::Truncate | Effect::HugeBody { .. } | Effect::Reset { at: ResetAt::MidBody }
    )
}

/// Whether SLAS processes the request before the fault.
fn is_processed(effect: &Effect) -> bool {
    let unread = matches!(effect, Effect::Delay { .. } | Effect::Reset { at: ResetAt::After });
    unread || affects_only_body(effect) && !matches!(effect, Effect::HugeBody { .. })
}

async fn world() -> World {
    let mut world = World::with(|config| {
        let timeouts = "exchange = '2s'\nupstream = '2s'\nupstream_admin = '2s'";
        config.insert("timeouts".into(), timeouts.parse::<toml::Table>().unwrap().into());
        register_sessions(config);
    })
    .await;
    world.client = reqwest::Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
    world.simulator.set(|behaviour| behaviour.enforce_windows = false);
    world
}

fn slas(rest: &str) -> String {
    format!("/shopper/auth/v1/organizations/{ORGANIZATION}/oauth2/{rest}")
}

fn search() -> String {
    products("?ids=a&siteId=RefArch")
}

fn orders() -> String {
    format!("/checkout/orders/v1/organizations/{ORGANIZATION}/orders?siteId=RefArch")
}

fn guest(world: &World, client: &str) -> RequestBuilder {
    world.post(&login_target(client)).body(r#"{"type":"guest"}"#)
}

fn credentials(world: &World) -> RequestBuilder {
    let request = world.post(&login_target(PUBLIC_CLIENT)).basic_auth(LOGIN, Some(PASSWORD));
    request.body(r#"{"type":"credentials"}"#)
}

fn on_behalf(world: &World) -> RequestBuilder {
    let request = world.get(&search()).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET));
    request.header("X-On-Behalf-Of", LOGIN)
}

/// Runs a check of each fault in a world of its own. Flows need this if a failure or a token is cached, or if
/// logins are queued.
async fn in_fresh_worlds(effects: Vec<Effect>, trial: impl AsyncFn(&World, Effect)) {
    // All worlds are started before the first measurement, so that their start does not count.
    let worlds = join_all(effects.iter().map(|_| world())).await;
    join_all(worlds.iter().zip(effects).map(|(world, effect)| trial(world, effect))).await;
}

/// Asserts that a response is this error and does not reveal the fault.
fn check(what: &str, answer: &Answer, expected: (u16, &str)) {
    assert_eq!(answer.refusal(), expected, "{what}: {}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{what}");
    assert_eq!(answer.header("retry-after").is_some(), [429, 503].contains(&expected.0), "{what}");
    let shown = format!("{:?} {}", answer.headers, answer.text());
    for mark in MARKS {
        assert!(!shown.contains(mark), "{what}: the answer holds {mark}: {shown}");
    }
}

/// Sends a request while each fault in turn hits `flow` of `service`.
struct FaultCheck<'a> {
    world: &'a World,
    service: &'a str,
    flow: &'a str,
    /// Whether a second attempt could do harm.
    once: bool,
    /// The code of the refusal.
    refusal: (u16, &'a str),
}

impl FaultCheck<'_> {
    async fn of(&self, effects: Vec<Effect>, request: impl AsyncFn() -> RequestBuilder) {
        let Self { world, service, flow, once, refusal } = *self;
        for effect in effects {
            let what = format!("{service} {flow}: {effect:?}");
            let request = request().await;
            world.simulator.clear_ledger();
            world.simulator.inject(Fault::on(service, effect).flow(flow));
            let start = Instant::now();
            let answer = world.send(request.try_clone().unwrap()).await;
            assert!(start.elapsed() < SOON, "{what}: after {:?}", start.elapsed());
            check(&what, &answer, refusal);
            let calls = world.simulator.count(service, flow);
            assert!(calls >= 1, "{what}: it was not struck");
            assert!(!once || calls == 1, "{what}: sent {calls} times");
            world.simulator.clear_faults();
            eventually("it works again", async || world.send(request.try_clone().unwrap()).await.status.is_success())
                .await;
        }
    }
}

const SLAS: (u16, &str) = (503, "slas_unavailable");

#[tokio::test]
async fn guest_login_during_slas_fault_returns_503() {
    let world = world().await;
    for (flow, client) in [
        ("authorize:guest", PUBLIC_CLIENT),
        ("token:authorization_code_pkce", PUBLIC_CLIENT),
        ("token:client_credentials", PRIVATE_CLIENT),
    ] {
        let mut effects = faults();
        // The gateway reads only the code in the Location of this response.
        effects.retain(|effect| flow != "authorize:guest" || !affects_only_body(effect));
        let trial = FaultCheck { world: &world, service: "slas", flow, once: flow.ends_with("pkce"), refusal: SLAS };
        trial.of(effects, async || guest(&world, client)).await;
    }
}

#[tokio::test]
async fn password_login_during_slas_fault_is_sent_once() {
    for flow in ["login", "token:authorization_code_pkce"] {
        let mut effects = faults();
        // Here too the gateway reads only the code in the Location.
        effects.retain(|effect| flow != "login" || !affects_only_body(effect));
        in_fresh_worlds(effects, async |world, effect| {
            let trial = FaultCheck { world, service: "slas", flow, once: true, refusal: SLAS };
            trial.of(vec![effect], async || credentials(world)).await;
        })
        .await;
    }
}

#[tokio::test]
async fn login_without_profile_fails() {
    in_fresh_worlds(faults(), async |world, effect| {
        let late = matches!(effect, Effect::Delay { .. } | Effect::Hang);
        let refusal = if late { (504, "upstream_timeout") } else { (502, "upstream_unavailable") };
        let flow = "shopper-customers.getCustomer";
        let trial = FaultCheck { world, service: "api", flow, once: false, refusal };
        trial.of(vec![effect], async || credentials(world)).await;
    })
    .await;
}

#[tokio::test]
async fn refresh_during_slas_fault_returns_503() {
    for client in [PUBLIC_CLIENT, PRIVATE_CLIENT] {
        let mut effects = faults();
        // SLAS has used the refresh token before the fault, and a public client has no second one.
        effects.retain(|effect| client == PRIVATE_CLIENT || !is_processed(effect));
        in_fresh_worlds(effects, async |world, effect| {
            let (service, flow, once) = ("slas", "token:refresh_token", client == PUBLIC_CLIENT);
            let trial = FaultCheck { world, service, flow, once, refusal: SLAS };
            trial.of(vec![effect], async || request_with_expired_token(world, client).await).await;
        })
        .await;
    }
}

/// A request with an expired token; later tokens have a long lifetime.
async fn request_with_expired_token(world: &World, client: &str) -> RequestBuilder {
    world.simulator.set(|behaviour| behaviour.shopper_token_seconds = 1);
    let token = world.guest(client).await.token();
    expired(&token).await;
    world.simulator.set(|behaviour| behaviour.shopper_token_seconds = 600);
    world.get(&search()).bearer_auth(token)
}

#[tokio::test]
async fn slas_429_is_returned_as_slas_rate_limited() {
    let limits = [None, Some("2"), Some("soon")].map(|retry_after| Effect::Status {
        code: 429,
        retry_after: retry_after.map(str::to_owned),
        body: Some(TRACE.into()),
    });
    let flows = ["token:client_credentials", "login", "token:refresh_token", "trusted-system"];
    join_all(flows.map(async |flow| {
        in_fresh_worlds(limits.to_vec(), async |world, effect| {
            let refusal = (429, "slas_rate_limited");
            let trial = FaultCheck { world, service: "slas", flow, once: true, refusal };
            trial
                .of(vec![effect], async || match flow {
                    "token:client_credentials" => guest(world, PRIVATE_CLIENT),
                    "login" => credentials(world),
                    "token:refresh_token" => request_with_expired_token(world, PUBLIC_CLIENT).await,
                    _ => on_behalf(world),
                })
                .await;
        })
        .await;
    }))
    .await;
}

#[tokio::test]
async fn on_behalf_token_request_during_slas_fault_is_sent_once() {
    in_fresh_worlds(faults(), async |world, effect| {
        let trial = FaultCheck { world, service: "slas", flow: "trusted-system", once: true, refusal: SLAS };
        trial.of(vec![effect], async || on_behalf(world)).await;
    })
    .await;
}

#[tokio::test]
async fn caller_authentication_during_account_manager_fault_returns_503() {
    in_fresh_worlds(faults(), async |world, effect| {
        let refusal = (503, "account_manager_unavailable");
        let trial = FaultCheck { world, service: "account_manager", flow: "access_token", once: false, refusal };
        trial.of(vec![effect], async || world.get(&orders()).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET))).await;
    })
    .await;
}

#[tokio::test]
async fn client_login_at_slas_during_fault_gets_gateway_or_slas_error() {
    let flow = "token:client_credentials";
    let request = |world: &World| {
        let form = [("grant_type", "client_credentials"), ("channel_id", "RefArch"), ("client_id", PRIVATE_CLIENT)];
        world.post(&slas("token")).form(&form)
    };
    let of_slas = |effect: &Effect| matches!(effect, Effect::Status { .. } | Effect::Garbage { .. });
    let (answers, failures): (Vec<_>, Vec<_>) = faults().into_iter().partition(of_slas);
    in_fresh_worlds(failures, async |world, effect| {
        let late = matches!(effect, Effect::Delay { .. } | Effect::Hang);
        let refusal = if late { (504, "upstream_timeout") } else { (502, "upstream_unavailable") };
        let trial = FaultCheck { world, service: "slas", flow, once: true, refusal };
        trial.of(vec![effect], async || request(world)).await;
    })
    .await;
    // On SLAS's own paths any response of SLAS is forwarded.
    in_fresh_worlds(answers, async |world, effect| {
        world.simulator.inject(Fault::on("slas", effect.clone()).flow(flow));
        let answer = world.send(request(world)).await;
        let status = if let Effect::Status { code, .. } = effect { code } else { 200 };
        assert_eq!(answer.refusal(), (status, "none"), "{effect:?}: {}", answer.text());
        assert!(status == 200 || answer.text() == TRACE, "{effect:?}: {}", answer.text());
        assert_eq!(world.simulator.count("slas", flow), 1, "{effect:?}");
        world.simulator.clear_faults();
        assert_eq!(world.send(request(world)).await.status, 200, "{effect:?}");
    })
    .await;
}

#[tokio::test]
async fn unknown_key_during_jwks_fault_returns_503() {
    let world = world().await;
    for effect in faults() {
        let what = format!("{effect:?}");
        world.simulator.inject(Fault::on("slas", effect).flow("jwks"));
        let unknown = world.mint(|spec| spec.kid = Some("unknown".into()));
        let answer = world.send(world.get(&search()).bearer_auth(unknown)).await;
        check(&what, &answer, (503, "keys_unavailable"));
        let known = world.mint(|_| {});
        assert_eq!(
            world.send(world.get(&search()).bearer_auth(known)).await.status,
            200,
            "{what}: a known key goes on"
        );
        world.simulator.clear_faults();
    }
    figure("R8", format!("{} faults of the key set: 0 of the requests with known keys refused", faults().len()));
}

#[tokio::test]
async fn logout_during_slas_fault_ends_session() {
    let mut effects = faults();
    // SLAS's response to a logout has no body.
    effects.retain(|effect| !affects_only_body(effect));
    in_fresh_worlds(effects, async |world, effect| {
        let token = world.send(credentials(world)).await.token();
        world.simulator.inject(Fault::on("slas", effect).flow("logout"));
        let target = customers("/customers/actions/logout?siteId=RefArch");
        let answer = world.send(world.request(reqwest::Method::DELETE, &target).bearer_auth(&token)).await;
        assert_eq!(answer.status, 204, "{}", answer.text());
        let again = world.send(world.get(&search()).bearer_auth(&token)).await;
        assert_eq!(again.status, 401, "{}", again.text());
    })
    .await;
}

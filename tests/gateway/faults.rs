//! What others do wrong, and what callers see of it.
//!
//! Each flow meets each fault of the service behind it. The answer is a refusal with its stable code, soon; nothing of
//! what the service wrote is in it; what must not be sent twice is sent once; and when the fault is gone, so is the
//! refusal.

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
        eventually, login_target, products, register_sessions,
    },
};

/// What a service that fails may write, and nobody may read.
const TRACE: &str = "java.lang.IllegalStateException: s3cret at com.demandware.Login.java:42 db=10.0.0.7";
/// Traces of any fault in an answer.
const MARKS: [&str; 9] =
    ["s3cret", "java.", "demandware", "10.0.0.7", "<html", "Service Unavailable</h1>", "padding", "xxxx", "127.0.0.1"];
/// Longer than `timeouts.exchange` and `timeouts.upstream` here.
const TOO_LATE: u64 = 3000;
/// No refusal takes longer, whatever hangs; generous, for the machine may be busy.
const SOON: Duration = Duration::from_secs(15);

/// Everything that a service may do wrong.
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

/// Whether an answer without a body is all that is expected, so that a fault of the body is none.
fn is_of_the_body(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::Garbage { .. } | Effect::Truncate | Effect::HugeBody { .. } | Effect::Reset { at: ResetAt::MidBody }
    )
}

async fn world() -> World {
    let mut world = World::with(|config| {
        let timeouts = "exchange = '1s'\nupstream = '2s'\nupstream_admin = '2s'";
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

/// A shopper's password login, when it is his turn: one a second goes to SLAS.
async fn credentials(world: &World) -> RequestBuilder {
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let request = world.post(&login_target(PUBLIC_CLIENT)).basic_auth(LOGIN, Some(PASSWORD));
    request.body(r#"{"type":"credentials"}"#)
}

/// That an answer is this refusal, and tells nothing of what went wrong behind it.
fn check(what: &str, answer: &Answer, expected: (u16, &str)) {
    assert_eq!(answer.refusal(), expected, "{what}: {}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{what}");
    assert_eq!(answer.header("retry-after").is_some(), expected.0 == 503, "{what}");
    let shown = format!("{:?} {}", answer.headers, answer.text());
    for mark in MARKS {
        assert!(!shown.contains(mark), "{what}: the answer holds {mark}: {shown}");
    }
}

/// Sends a request while each fault in turn strikes `flow` of `service`.
struct Trial<'a> {
    world: &'a World,
    service: &'a str,
    flow: &'a str,
    /// Whether a second attempt could do harm.
    once: bool,
    /// The code of the refusal.
    refusal: (u16, &'a str),
}

impl Trial<'_> {
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
async fn guests_logins() {
    let world = world().await;
    for (flow, client) in [
        ("authorize:guest", PUBLIC_CLIENT),
        ("token:authorization_code_pkce", PUBLIC_CLIENT),
        ("token:client_credentials", PRIVATE_CLIENT),
    ] {
        let mut effects = faults();
        // A code in a Location is all that is read of this answer.
        effects.retain(|effect| flow != "authorize:guest" || !is_of_the_body(effect));
        let trial = Trial { world: &world, service: "slas", flow, once: flow.ends_with("pkce"), refusal: SLAS };
        trial.of(effects, async || guest(&world, client)).await;
    }
}

#[tokio::test]
async fn a_password_is_sent_once() {
    let world = world().await;
    // Each of a shopper's logins waits for its turn, so there are fewer of them here.
    let effects = vec![Effect::Hang, Effect::Reset { at: ResetAt::After }, faults().remove(9)];
    for (flow, once) in [("login", true), ("token:authorization_code_pkce", true)] {
        let trial = Trial { world: &world, service: "slas", flow, once, refusal: SLAS };
        trial.of(effects.clone(), async || credentials(&world).await).await;
    }
}

#[tokio::test]
async fn a_profile_that_does_not_come_is_no_login() {
    let world = world().await;
    for (effect, refusal) in [
        (Effect::Hang, (504, "upstream_timeout")),
        (Effect::Truncate, (502, "upstream_unavailable")),
        (Effect::HugeBody { bytes: 20_000_000 }, (502, "upstream_unavailable")),
        (faults().remove(9), (502, "upstream_unavailable")),
    ] {
        let flow = "shopper-customers.getCustomer";
        let trial = Trial { world: &world, service: "api", flow, once: false, refusal };
        trial.of(vec![effect], async || credentials(&world).await).await;
    }
}

#[tokio::test]
async fn renewals_of_ended_tokens() {
    let world = world().await;
    let trial = Trial { world: &world, service: "slas", flow: "token:refresh_token", once: true, refusal: SLAS };
    let mut effects = faults();
    // What SLAS did before it broke has used the refresh token up; of a public client there is no second.
    effects.retain(|effect| !is_of_the_body(effect) && *effect != Effect::Reset { at: ResetAt::After });
    effects.retain(|effect| !matches!(effect, Effect::Delay { .. }));
    let ended = async || {
        world.simulator.set(|behaviour| behaviour.shopper_token_seconds = 1);
        let token = world.guest(PUBLIC_CLIENT).await.token();
        tokio::time::sleep(Duration::from_millis(1100)).await;
        world.simulator.set(|behaviour| behaviour.shopper_token_seconds = 600);
        world.get(&search()).bearer_auth(token)
    };
    trial.of(effects, ended).await;
}

#[tokio::test]
async fn tokens_on_behalf_of_shoppers() {
    // A failure is remembered for a moment, and a token for long, so each fault has a world of its own.
    join_all(faults().into_iter().map(async |effect| {
        let world = world().await;
        let trial = Trial { world: &world, service: "slas", flow: "trusted-system", once: true, refusal: SLAS };
        let request = async || {
            let request = world.get(&search()).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET));
            request.header("X-On-Behalf-Of", LOGIN)
        };
        trial.of(vec![effect], request).await;
    }))
    .await;
}

#[tokio::test]
async fn secrets_shown_to_account_manager() {
    // A token once held is not asked for again.
    join_all(faults().into_iter().map(async |effect| {
        let world = world().await;
        let refusal = (503, "account_manager_unavailable");
        let trial = Trial { world: &world, service: "account_manager", flow: "access_token", once: false, refusal };
        trial.of(vec![effect], async || world.get(&orders()).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET))).await;
    }))
    .await;
}

#[tokio::test]
async fn logins_that_callers_perform_at_slas() {
    let world = world().await;
    let request = async || {
        let form = [("grant_type", "client_credentials"), ("channel_id", "RefArch"), ("client_id", PRIVATE_CLIENT)];
        world.post(&slas("token")).form(&form)
    };
    let flow = "token:client_credentials";
    let trial = |refusal| Trial { world: &world, service: "slas", flow, once: true, refusal };
    let broken = |effect: &Effect| matches!(effect, Effect::Reset { .. } | Effect::Truncate | Effect::HugeBody { .. });
    let (late, rest): (Vec<_>, Vec<_>) =
        faults().into_iter().partition(|effect| matches!(effect, Effect::Delay { .. } | Effect::Hang));
    trial((504, "upstream_timeout")).of(late, request).await;
    let broken = rest.into_iter().filter(broken).collect();
    trial((502, "upstream_unavailable")).of(broken, request).await;
}

#[tokio::test]
async fn keys_that_are_looked_for() {
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
async fn a_logout_is_one_though_slas_fails() {
    let world = world().await;
    for effect in [Effect::Hang, Effect::Reset { at: ResetAt::Before }, faults().remove(9)] {
        let token = world.send(credentials(&world).await).await.token();
        world.simulator.inject(Fault::on("slas", effect).flow("logout"));
        let target = customers("/customers/actions/logout?siteId=RefArch");
        let answer = world.send(world.request(reqwest::Method::DELETE, &target).bearer_auth(&token)).await;
        assert_eq!(answer.status, 204, "{}", answer.text());
        let again = world.send(world.get(&search()).bearer_auth(&token)).await;
        assert_eq!(again.status, 401, "{}", again.text());
        world.simulator.clear_faults();
    }
}

//! The hot path, piece by piece: what one request costs on top of forwarding it.
//!
//! `make bench` runs it. Compare figures of one run only: machines differ, and so do hours.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::{
    collections::HashMap,
    hint::black_box,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{BatchSize, Criterion};
use http::{HeaderValue, Method, Request};
use salesforce_simulator::{Effect, Fault, Seed, ShopperTokenSpec, Simulator};
use secrecy::{ExposeSecret, SecretString};
use shopper_gateway::{
    app::App,
    gate::{forward, operations::Operations, path::RequestPath},
    jwt::token_digest,
    keys::{Issuer, Keeping, KeyRing},
    metrics::Metrics,
    names::OrganizationId,
    salesforce::{
        account_manager::AccountManager,
        guard::Guard,
        slas::{Slas, TokenAnswer},
        transport::Transport,
    },
    settings::Settings,
    shopper::{
        Shopper,
        verify::{ShopperVerifier, VerifiedToken},
    },
    store::memory::MemoryStore,
    system::SystemVerifier,
    tokens::{
        budget::SlasBudget,
        on_behalf::{Agent, ECOM, OnBehalfOf, OnBehalfTokens},
        sessions::{self, Sessions},
    },
};
use tokio::runtime::Runtime;

/// A trusted system of the demo, and a shopper of the simulator.
const CALLER: &str = "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb";
const LOGIN: &str = "shopper@example.com";
/// Sessions held for the measure of memory.
const HELD: usize = 100_000;
/// Requests a minute that SLAS takes: as many as there are.
const SLAS_TAKES: u32 = 1_000_000;

fn main() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("the first and only provider");
    let runtime = Runtime::new().unwrap();
    let bench = runtime.block_on(Bench::new());
    let mut criterion =
        Criterion::default().sample_size(50).measurement_time(Duration::from_secs(3)).configure_from_args();

    route_match(&mut criterion);
    header_edits(&mut criterion);
    verification(&mut criterion, &runtime, &bench);
    standing(&mut criterion, &runtime, &bench);
    trusted_systems(&mut criterion, &runtime, &bench);
    criterion.final_summary();

    memory(&runtime, &bench);
    runtime.block_on(round_trips());
}

/// A simulator, a verifier with its keys, and sessions.
struct Bench {
    simulator: Simulator,
    verifier: Arc<ShopperVerifier>,
    sessions: Arc<Sessions>,
    systems: SystemVerifier,
    on_behalf: Arc<OnBehalfTokens>,
    organization: OrganizationId,
}

impl Bench {
    async fn new() -> Self {
        let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
        let settings = settings(&simulator.url());
        let metrics = Arc::new(Metrics::new("bench", "bench").unwrap());
        let tenant = &settings.tenants[0];
        let guard = Guard::new("bench", Arc::clone(&metrics));
        let transport = || Transport::new(&settings.timeouts, None, Arc::clone(&guard), Arc::clone(&metrics)).unwrap();
        let slas = Slas::new(transport(), &tenant.api, &tenant.organization);
        let store = Arc::new(MemoryStore::new(HELD));
        let keeping = Keeping { store, folder: None, max_age: settings.keys.max_age };
        let ring =
            KeyRing::new(Issuer::Slas(slas.clone()), tenant.organization.as_str(), &keeping, Arc::clone(&metrics));
        tokio::spawn(Arc::clone(&ring).keep_fresh());
        while !ring.is_filled() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let store = Arc::clone(&keeping.store);
        tokio::spawn(SlasBudget::new(store, Arc::clone(slas.guard()), &tenant.tenant, SLAS_TAKES).keep());
        let rings = HashMap::from([(tenant.organization.clone(), ring)]);
        let verifier = Arc::new(ShopperVerifier::new(rings, Arc::clone(&metrics)));
        let manager = tenant.account_manager.as_ref().unwrap();
        let manager = AccountManager::new(transport(), manager.url.clone());
        let name = manager.issuer();
        let ring =
            KeyRing::new(Issuer::AccountManager(manager), tenant.organization.as_str(), &keeping, Arc::clone(&metrics));
        tokio::spawn(Arc::clone(&ring).keep_fresh());
        while !ring.is_filled() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let systems = SystemVerifier::new(ring, name, true);
        let agent = Agent { slas: slas.clone(), client: tenant.acting_client().unwrap().clone(), waiting: None };
        let issuer = sessions::Issuer { slas, clients: tenant.slas_clients.clone() };
        let sessions = Sessions::new(
            keeping.store,
            HashMap::from([(tenant.organization.clone(), issuer)]),
            Arc::clone(&verifier),
            settings.sessions.clone(),
            settings.timeouts.exchange,
            Arc::clone(&metrics),
        );
        let on_behalf = OnBehalfTokens::new(
            HashMap::from([(tenant.organization.clone(), agent)]),
            Arc::clone(&sessions),
            Arc::clone(&verifier),
            settings.timeouts.upstream,
            settings.timeouts.exchange,
            metrics,
        );
        Self { simulator, verifier, sessions, systems, on_behalf, organization: tenant.organization.clone() }
    }

    fn mint(&self) -> String {
        self.simulator.mint_shopper_token(ShopperTokenSpec::default())
    }

    async fn verify(&self, token: &str) -> VerifiedToken {
        self.verifier.verify(token, &self.organization).await.unwrap()
    }
}

fn route_match(criterion: &mut Criterion) {
    let operations = Operations::published().unwrap();
    let target = "/checkout/shopper-baskets/v2/organizations/f_ecom_zzrf_001/baskets/654f4e886f03492d82d61c427b/items";
    criterion.bench_function("route match", |bencher| {
        bencher.iter(|| {
            let path = RequestPath::parse(black_box(target)).unwrap();
            black_box(operations.find(&Method::POST, &path).unwrap().operation.name.len())
        });
    });
}

fn header_edits(criterion: &mut Criterion) {
    let request = Request::builder()
        .header("host", "shop.example")
        .header("authorization", "Bearer x")
        .header("accept", "application/json")
        .header("content-type", "application/json")
        .header("user-agent", "commerce-sdk-isomorphic@5.6.0")
        .header("x-forwarded-for", "192.0.2.1")
        .body(())
        .unwrap();
    let (host, id) = (HeaderValue::from_static("api.example"), HeaderValue::from_static("8bd2b1f0"));
    criterion.bench_function("header edits", |bencher| {
        bencher.iter(|| black_box(forward::request_edits(black_box(request.headers()), &host, &id)));
    });
}

fn verification(criterion: &mut Criterion, runtime: &Runtime, bench: &Bench) {
    let seen = bench.mint();
    runtime.block_on(bench.verify(&seen));
    criterion.bench_function("verification, token seen before", |bencher| {
        bencher.iter(|| runtime.block_on(async { black_box(bench.verify(black_box(&seen)).await) }));
    });
    criterion.bench_function("verification, token never seen", |bencher| {
        bencher.iter_batched(
            || bench.mint(),
            |token| runtime.block_on(async { black_box(bench.verify(&token).await) }),
            BatchSize::SmallInput,
        );
    });
}

/// A verified token without a session against one whose session is known and fresh.
fn standing(criterion: &mut Criterion, runtime: &Runtime, bench: &Bench) {
    let (plain, held) = (bench.mint(), bench.mint());
    let (plain, held) = runtime.block_on(async {
        let (plain, held) = (bench.verify(&plain).await, bench.verify(&held).await);
        let site = "RefArch".parse().unwrap();
        bench.sessions.begin(&site, &held, &answer("refresh")).await;
        (plain, held)
    });
    for (name, token) in [("standing, plain verified token", plain), ("standing, session known and fresh", held)] {
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| {
                runtime.block_on(async { black_box(bench.sessions.standing(black_box(&token)).await.is_ok()) })
            });
        });
    }
}

/// What a request on behalf adds to a plain one: the caller's token, and the shopper's.
fn trusted_systems(criterion: &mut Criterion, runtime: &Runtime, bench: &Bench) {
    let token = bench.simulator.mint_account_manager_token(CALLER, &["sfcc.orders"], "zzrf_001", 3600);
    let tenant = bench.organization.tenant();
    criterion.bench_function("system token, seen before", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async { black_box(bench.systems.verify(black_box(&token), &tenant).await.is_ok()) })
        });
    });
    let whose = Arc::new(OnBehalfOf {
        organization: bench.organization.clone(),
        site: "RefArch".parse().unwrap(),
        idp: ECOM.to_owned(),
        login: SecretString::from(LOGIN),
        guest_of: None,
    });
    runtime.block_on(bench.on_behalf.token(&whose)).unwrap();
    criterion.bench_function("on behalf, token held", |bencher| {
        bencher.iter(|| runtime.block_on(async { black_box(bench.on_behalf.token(black_box(&whose)).await.is_ok()) }));
    });
}

fn answer(refresh_token: &str) -> TokenAnswer {
    TokenAnswer {
        access_token: SecretString::from("unused here: the verified token names it"),
        refresh_token: Some(SecretString::from(refresh_token)),
        expires_in: 1800,
        refresh_token_expires_in: Some(3600),
    }
}

/// Bytes of resident memory that a held session takes beyond those of its tokens.
fn memory(runtime: &Runtime, bench: &Bench) {
    let refresh = "r".repeat(200);
    let token = runtime.block_on(async { bench.verify(&bench.mint()).await });
    let site = "RefArch".parse().unwrap();
    let (before, mut tokens) = (resident_bytes(), 0);
    runtime.block_on(async {
        for number in 0..HELD {
            let text = format!("{number:08}{}", "a".repeat(1_100));
            let usid = format!("00000000-0000-4000-8000-{number:012}").parse().unwrap();
            let shopper = Arc::new(Shopper { usid, ..(*token.shopper).clone() });
            let verified = VerifiedToken { shopper, digest: token_digest(&text) };
            let answer = TokenAnswer { access_token: SecretString::from(text), ..answer(&refresh) };
            tokens += answer.access_token.expose_secret().len() + refresh.len();
            bench.sessions.begin(&site, &verified, &answer).await;
        }
    });
    let used = resident_bytes() - before;
    println!(
        "\nmemory: {HELD} sessions held, {} bytes each beyond {} bytes of tokens",
        (used - tokens) / HELD,
        tokens / HELD
    );
}

/// What the operating system says of this process (proc(5), `statm`: pages of 4 KiB).
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Whole requests through a gateway: what a known session adds, and what a refresh takes.
async fn round_trips() {
    let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
    simulator.set(|behaviour| behaviour.ledger_entries = 0);
    let app = App::build(settings(&simulator.url())).unwrap();
    let (address, admin) = (app.public_addresses().next().unwrap(), app.admin_address());
    let running = tokio::spawn(app.run(std::future::pending()));
    let shop = Shop { client: reqwest::Client::builder().no_proxy().build().unwrap(), address };
    let readyz = format!("http://{admin}/readyz");
    while !shop.client.get(&readyz).send().await.is_ok_and(|answer| answer.status() == 200) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    known_session(&simulator, &shop).await;
    on_behalf(&simulator, &shop).await;
    refresh(&simulator, &shop).await;
    running.abort();
}

/// Requests through a gateway at an address.
struct Shop {
    client: reqwest::Client,
    address: SocketAddr,
}

impl Shop {
    async fn guest(&self) -> String {
        let customers = "customer/shopper-customers/v1/organizations/f_ecom_zzrf_001/customers";
        let client = "11111111-1111-4111-8111-111111111111";
        let url = format!("http://{}/{customers}/actions/login?siteId=RefArch&clientId={client}", self.address);
        let answer = self.client.post(url).body(r#"{"type":"guest"}"#).send().await.unwrap();
        answer.headers()["authorization"].to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned()
    }

    /// One read with this token: how long it took, and the token it gave.
    async fn read(&self, token: &str) -> (Duration, Option<String>) {
        self.read_as(token, None).await
    }

    /// The same, perhaps on behalf of a shopper.
    async fn read_as(&self, token: &str, login: Option<&str>) -> (Duration, Option<String>) {
        let products = "product/shopper-products/v1/organizations/f_ecom_zzrf_001/products";
        let url = format!("http://{}/{products}?ids=a&siteId=RefArch", self.address);
        let mut request = self.client.get(url).bearer_auth(token);
        if let Some(login) = login {
            request = request.header("x-on-behalf-of", login);
        }
        let begin = Instant::now();
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let renewed = answer.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        answer.bytes().await.unwrap();
        (begin.elapsed(), renewed.map(|value| value.trim_start_matches("Bearer ").to_owned()))
    }
}

/// A request whose session is known and fresh against one with a plain verified token, turn by turn.
async fn known_session(simulator: &Simulator, shop: &Shop) {
    const ROUNDS: usize = 5_000;
    let (held, plain) = (shop.guest().await, simulator.mint_shopper_token(ShopperTokenSpec::default()));
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for turn in 0..2 {
            // Each goes first as often as the other.
            if (round + turn) % 2 == 0 {
                with.push(shop.read(&held).await.0);
            } else {
                without.push(shop.read(&plain).await.0);
            }
        }
    }
    let (with, without) = (median(with), median(without));
    let ratio = with.as_secs_f64() / without.as_secs_f64();
    println!(
        "session: a request takes {with:?} with a known, fresh session and {without:?} with a plain verified token: ratio {ratio:.3}"
    );
}

/// A request on behalf of a shopper whose token is held, of a caller with a bearer token, against one with a plain
/// verified token, turn by turn.
async fn on_behalf(simulator: &Simulator, shop: &Shop) {
    const ROUNDS: usize = 5_000;
    let caller = simulator.mint_account_manager_token(CALLER, &["sfcc.orders"], "zzrf_001", 3600);
    let plain = simulator.mint_shopper_token(ShopperTokenSpec::default());
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for turn in 0..2 {
            if (round + turn) % 2 == 0 {
                with.push(shop.read_as(&caller, Some(LOGIN)).await.0);
            } else {
                without.push(shop.read(&plain).await.0);
            }
        }
    }
    let (with, without) = (median(with), median(without));
    let ratio = with.as_secs_f64() / without.as_secs_f64();
    println!(
        "on behalf: a request takes {with:?} on behalf of a shopper whose token is held and {without:?} with a plain verified token: ratio {ratio:.3}"
    );
}

/// From an ended token to the forwarded request, when SLAS takes 50 ms.
async fn refresh(simulator: &Simulator, shop: &Shop) {
    simulator.set(|behaviour| behaviour.shopper_token_seconds = 2);
    let mut tokens = Vec::new();
    for _ in 0..100 {
        tokens.push(shop.guest().await);
    }
    tokio::time::sleep(Duration::from_millis(2500)).await;
    simulator.set(|behaviour| behaviour.shopper_token_seconds = 1800);
    simulator.inject(Fault::on("slas", Effect::Delay { ms: 50 }).flow("token:refresh_token"));
    let (mut ended, mut fresh) = (Vec::new(), Vec::new());
    for token in tokens {
        let (took, renewed) = shop.read(&token).await;
        ended.push(took);
        fresh.push(shop.read(&renewed.expect("a new token")).await.0);
    }
    let (ended, fresh) = (median(ended), median(fresh));
    let until = ended.saturating_sub(fresh);
    println!(
        "refresh: {until:?} from an ended token to the forwarded request when SLAS takes 50 ms ({ended:?} in all, {fresh:?} with a fresh token)"
    );
}

fn median(mut durations: Vec<Duration>) -> Duration {
    durations.sort();
    durations[durations.len() / 2]
}

fn settings(simulator: &str) -> Settings {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/demo.toml");
    let environment = [
        ("SHOPPER_GATEWAY__SERVER__LISTEN", "127.0.0.1:0"),
        ("SHOPPER_GATEWAY__ADMIN__LISTEN", "127.0.0.1:0"),
        ("SHOPPER_GATEWAY__TENANTS__0__API", simulator),
        ("SHOPPER_GATEWAY__TENANTS__0__ACCOUNT_MANAGER__URL", simulator),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Settings::load_with(&path, environment).unwrap().settings
}

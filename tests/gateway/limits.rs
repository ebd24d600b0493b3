//! Overload: queued logins, failed logins, rate limits of callers and clients, and an API that reports its load.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use reqwest::RequestBuilder;
use salesforce_simulator::{Effect, Fault, ResetAt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    scale::{self, figure, ms, percentile},
    world::{
        Answer, CALLER_CLIENT, LOGIN, ORGANIZATION, PASSWORD, PRIVATE_CLIENT, PUBLIC_CLIENT, World, baskets,
        eventually, login_target, products,
    },
};

const FORWARDED_FOR: &str = "x-forwarded-for";
const OVERLOADED: (u16, &str) = (503, "overloaded");
const RATE_LIMITED: (u16, &str) = (429, "caller_rate_limited");

/// A world with some keys of one table.
async fn with(table: &str, keys: &str) -> World {
    World::with(|config| set(config, table, keys)).await
}

/// A gateway that forwards this many requests of an organization at a time, of low priority or not.
async fn with_max_concurrent(requests: usize, queue_timeout: &str) -> World {
    World::with(|config| {
        let limits = format!("max_concurrent_requests = {requests}\nqueue_timeout = \"{queue_timeout}\"");
        set(config, "limits", &limits);
        set(config, "load", "low_priority = []");
    })
    .await
}

fn set(config: &mut toml::Table, table: &str, keys: &str) {
    let entry = config.entry(table).or_insert_with(|| toml::Table::new().into());
    entry.as_table_mut().unwrap().extend(keys.parse::<toml::Table>().unwrap());
}

fn read(world: &World, token: &str) -> RequestBuilder {
    world.get(&products("?ids=a&siteId=RefArch")).bearer_auth(token)
}

fn slas(path: &str) -> String {
    format!("/shopper/auth/v1/organizations/{ORGANIZATION}/oauth2{path}")
}

async fn timed(request: impl Future<Output = Answer>) -> (Answer, Duration) {
    let began = Instant::now();
    let answer = request.await;
    (answer, began.elapsed())
}

fn refused(answers: &[Answer], refusal: (u16, &str)) -> usize {
    let refused = answers.iter().filter(|answer| answer.refusal() == refusal);
    refused.inspect(|answer| assert!(answer.header("retry-after").is_some())).count()
}

/// The durations of consecutive requests with a valid token during a period.
async fn read_durations(world: &World, token: &str, a_while: Duration) -> Vec<Duration> {
    let began = Instant::now();
    let mut reads = Vec::new();
    while began.elapsed() < a_while {
        let (answer, took) = timed(world.send(read(world, token))).await;
        assert_eq!(answer.status, 200);
        reads.push(took);
        // Faster requests would displace others from the simulator's ledger.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    reads
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_logins_are_limited_and_others_rejected_immediately() {
    let (waiting, logins, seconds) = scale::of((16, 40, 4), (256, 1000, 5));
    let world = World::with(|config| {
        set(config, "logins", &format!("max_concurrent = {waiting}"));
        set(config, "timeouts", "exchange = \"10s\"");
    })
    .await;
    let valid = world.guest(PUBLIC_CLIENT).await.token();
    let slow = Duration::from_secs(seconds);
    let before = read_durations(&world, &valid, slow / 2).await;
    world.simulator.inject(Fault::on("slas", Effect::Delay { ms: seconds * 1000 }));
    let all = futures::future::join_all((0..logins).map(|_| timed(world.guest(PRIVATE_CLIENT))));
    let meanwhile = async {
        eventually("they wait", async || world.simulator.count("slas", "token:client_credentials") >= waiting).await;
        let rejections = format!("refusals_total{{code=\"overloaded\"}} {}", logins - waiting);
        eventually("the others are rejected", async || world.metrics().await.contains(&rejections)).await;
        assert!(world.in_flight().await >= waiting, "the others do not wait for SLAS");
        read_durations(&world, &valid, slow / 4).await
    };
    let (all, during) = futures::join!(all, meanwhile);
    let (let_in, refused): (Vec<_>, Vec<_>) = all.into_iter().partition(|(answer, _)| answer.status == 200);
    assert_eq!((let_in.len(), refused.len()), (waiting, logins - waiting));
    let mut waits = Vec::new();
    for (answer, took) in refused {
        assert_eq!(answer.refusal(), OVERLOADED);
        assert!(answer.header("retry-after").is_some());
        waits.push(took);
    }
    let line = format!(
        "{logins} logins at once while SLAS takes {seconds} s: {waiting} wait, the others refused in {} (p50); \
         requests with valid tokens {} before, {} during (p99)",
        ms(percentile(&waits, 50)),
        ms(percentile(&before, 99)),
        ms(percentile(&during, 99)),
    );
    figure("R6", line);
    world.simulator.clear_faults();
    assert_eq!(world.guest(PRIVATE_CLIENT).await.status, 200, "there is room again");
}

#[tokio::test]
async fn on_behalf_logins_count_as_waiting_logins() {
    let world = with("logins", "max_concurrent = 1").await;
    let on_behalf = |login: &str| {
        let request = world.get(&products("?ids=a&siteId=RefArch")).basic_auth(CALLER_CLIENT, Some("caller-secret"));
        world.send(request.header("x-on-behalf-of", login.to_owned()))
    };
    assert_eq!(on_behalf(LOGIN).await.status, 200);
    world.simulator.inject(Fault::on("slas", Effect::Delay { ms: 1500 }));
    let (waits, login, held) = futures::join!(
        on_behalf("second@example.com"),
        async {
            eventually("the other waits", async || world.simulator.count("slas", "trusted-system") == 2).await;
            world.guest(PRIVATE_CLIENT).await
        },
        on_behalf(LOGIN),
    );
    assert_eq!((waits.status.as_u16(), login.refusal()), (200, OVERLOADED));
    assert_eq!(held.status, 200, "a token that is there does not wait");
}

#[tokio::test]
async fn load_shedding_rejects_low_priority_and_never_baskets() {
    let world = World::start().await;
    let token = world.guest(PUBLIC_CLIENT).await.token();
    let basket = async || {
        let request = world
            .post(&baskets("?siteId=RefArch"))
            .bearer_auth(&token)
            .header("content-type", "application/json")
            .body("{}");
        world.send(request).await.status
    };
    let reads = async |count| {
        let reads = (0..count).map(|_| world.send(read(&world, &token)));
        refused(&futures::future::join_all(reads).await, OVERLOADED)
    };
    assert_eq!(reads(20).await, 0);
    world.simulator.set(|behaviour| (behaviour.load, behaviour.load_status) = (Some(85), Some("WARN".into())));
    basket().await;
    let shed = reads(100).await;
    assert!((35..=56).contains(&shed), "about the half: {shed}");
    world.simulator.set(|behaviour| (behaviour.load, behaviour.load_status) = (Some(93), Some("THROTTLE".into())));
    basket().await;
    world.simulator.clear_ledger();
    let shed = reads(100).await;
    assert!(shed >= 90, "{shed}");
    assert!(world.forwarded("shopper-products.getProducts").len() <= 100 - shed, "it does not even go upstream");
    assert_ne!(basket().await, 503);
    assert_eq!(world.guest(PUBLIC_CLIENT).await.status, 200, "nor is a login left out");
    world.simulator.set(|behaviour| (behaviour.load, behaviour.load_status) = (None, None));
    eventually("all is served again", async || reads(10).await == 0).await;
}

#[tokio::test]
async fn goodput_holds_at_twice_the_capacity_and_excess_is_rejected_quickly() {
    let world = with_max_concurrent(8, "50ms").await;
    let token = world.mint(|_| {});
    let upstream = Duration::from_millis(200);
    world.simulator.inject(Fault::on("api", Effect::Delay { ms: upstream.as_millis() as u64 }));
    // Clients repeat their request after each response, and after a refusal a moment later.
    let (world, token) = (&world, &token);
    let load = async |clients: usize| {
        let end = Instant::now() + Duration::from_secs(scale::of(4, 60));
        let client = |_| async move {
            let mut answers = Vec::new();
            while Instant::now() < end {
                answers.push(timed(world.send(read(world, token))).await);
                if answers.last().unwrap().0.status == 503 {
                    // The moment after a refusal.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            answers
        };
        let answers = futures::future::join_all((0..clients).map(client)).await;
        answers.into_iter().flatten().partition::<Vec<_>, _>(|(answer, _)| answer.status == 200)
    };
    let (peak, _) = load(8).await;
    let (served, shed) = load(16).await;
    assert!(served.len() * 10 >= peak.len() * 9, "{} served of {}", served.len(), peak.len());
    assert!(shed.len() > 50, "{}", shed.len());
    let waits: Vec<_> = shed.iter().map(|(_, took)| *took).collect();
    assert!(percentile(&waits, 50) < upstream / 2, "{:?}", percentile(&waits, 50));
    let line = format!(
        "twice the capacity for {} s: goodput {:.1} % of the peak; {} shed, in {} (p50), {} (p90), {} (p99), the queue's \
         50 ms included",
        scale::of(4, 60),
        100.0 * served.len() as f64 / peak.len() as f64,
        shed.len(),
        ms(percentile(&waits, 50)),
        ms(percentile(&waits, 90)),
        ms(percentile(&waits, 99)),
    );
    figure("R18", line);
    for (answer, _) in shed {
        assert_eq!(answer.refusal(), OVERLOADED);
        assert!(answer.header("retry-after").is_some());
    }
}

#[tokio::test]
async fn upstream_failures_are_not_amplified_by_retries() {
    let world = World::start().await;
    let token = world.mint(|_| {});
    let storm = Effect::Status { code: 503, retry_after: None, body: Some("{}".into()) };
    for effect in [storm, Effect::Reset { at: ResetAt::Before }, Effect::Reset { at: ResetAt::MidBody }] {
        // Pooled connections could lead to a retry.
        futures::future::join_all((0..20).map(|_| world.send(read(&world, &token)))).await;
        world.simulator.inject(Fault::on("api", effect.clone()));
        world.simulator.clear_ledger();
        for _ in 0..10 {
            let requests = (0..20).map(|_| async { read(&world, &token).send().await.map(|answer| answer.status()) });
            for answer in futures::future::join_all(requests).await {
                assert!(answer.is_ok_and(|status| status.is_server_error() || status == 200), "{effect:?}");
            }
        }
        let sent = world.forwarded("shopper-products.getProducts").len();
        assert!((200..=240).contains(&sent), "{effect:?}: {sent} for 200 requests");
        figure("R19", format!("{effect:?} to everything: {sent} requests upstream for 200"));
        world.simulator.clear_faults();
    }
}

#[tokio::test]
async fn caller_and_client_rates_are_limited() {
    let world = World::with(|config| {
        let caller = &mut config["callers"].as_array_mut().unwrap()[0];
        caller.as_table_mut().unwrap().insert("requests_per_second".into(), 3.into());
        let client = &mut config["tenants"].as_array_mut().unwrap()[0]["slas_clients"].as_array_mut().unwrap()[0];
        client.as_table_mut().unwrap().insert("requests_per_second".into(), 3.into());
    })
    .await;
    let order = format!("/checkout/orders/v1/organizations/{ORGANIZATION}/orders/1");
    let order = |secret| world.get(&order).basic_auth(CALLER_CLIENT, Some(secret));
    for _ in 0..5 {
        let answer = world.send(order("wrong")).await;
        assert_eq!(answer.refusal().1, "caller_rejected", "who has proved nothing uses up nothing");
    }
    assert_ne!(world.send(order("caller-secret")).await.refusal(), RATE_LIMITED);
    let [limited, other] = [PUBLIC_CLIENT, PRIVATE_CLIENT].map(|client| world.guest(client));
    let (limited, other) = (limited.await.token(), other.await.token());
    for (request, bounded) in
        [(order("caller-secret"), true), (read(&world, &limited), true), (read(&world, &other), false)]
    {
        let began = Instant::now();
        let requests = (0..30).map(|_| world.send(request.try_clone().unwrap()));
        let too_often = refused(&futures::future::join_all(requests).await, RATE_LIMITED);
        let most = 3 + (3.0 * began.elapsed().as_secs_f64()) as usize + 1;
        assert!(if bounded { too_often >= 30 - most.min(30) && too_often > 0 } else { too_often == 0 }, "{too_often}");
    }
    eventually("the caller may again", async || world.send(order("caller-secret")).await.refusal() != RATE_LIMITED)
        .await;
}

/// A password login from an address behind a proxy that is trusted.
fn log_in(world: &World, address: &str, login: &str, password: &str) -> RequestBuilder {
    let request = world.post(&login_target(PUBLIC_CLIENT)).basic_auth(login, Some(password));
    request.header(FORWARDED_FOR, address).body(r#"{"type":"credentials"}"#)
}

async fn behind_a_proxy() -> World {
    let world = World::with(|config| {
        set(config, "server", "trusted_proxies = [\"127.0.0.0/8\"]");
        set(config, "logins", "failed_per_address = 30\nfailed_per_login = 8");
    })
    .await;
    world.simulator.set(|behaviour| behaviour.enforce_windows = false);
    world
}

#[tokio::test]
async fn thousand_password_guesses_of_one_address_are_stopped_before_slas() {
    let world = behind_a_proxy().await;
    let token = world.mint(|_| {});
    let before = read_durations(&world, &token, Duration::from_secs(1)).await;
    // The logins come all at once, or within a minute.
    let (at_once, pause) = scale::of((250, Duration::ZERO), (10, Duration::from_millis(600)));
    let (began, mut refusals, mut good_logins) = (Instant::now(), 0, 0);
    let is_over = Cell::new(false);
    let guessing = async {
        for round in 0..1000 / at_once {
            let guesses = (0..at_once).map(|number| {
                world.send(log_in(&world, "198.51.100.7", &format!("shopper-{round}-{number}@example.com"), "guess"))
            });
            let answers = futures::future::join_all(guesses).await;
            refusals += refused(&answers, RATE_LIMITED);
            // Other clients are served meanwhile, and each login is sent to SLAS.
            if round % (250 / at_once) == 0 {
                let good = world.send(log_in(&world, "198.51.100.8", LOGIN, PASSWORD)).await;
                assert_eq!(good.status, 200, "{}", good.text());
                good_logins += 1;
            }
            // Spreads the logins over a minute at full scale.
            tokio::time::sleep(pause).await;
        }
        is_over.set(true);
    };
    let others = async {
        let mut reads = Vec::new();
        while !is_over.get() {
            reads.extend(read_durations(&world, &token, Duration::from_millis(100)).await);
        }
        reads
    };
    let ((), during) = futures::join!(guessing, others);
    let most = 30 + began.elapsed().as_secs() as usize / 2 + 1;
    let guessed = world.simulator.count("slas", "login") - good_logins;
    assert!(guessed <= most, "{guessed} guesses reached SLAS");
    assert_eq!(refusals, 1000 - guessed);
    let line = format!(
        "1,000 wrong logins of one source in {} s: {guessed} reached SLAS; of others {good_logins} logins and {} reads \
         went well, reads in {} before, {} during (p99)",
        began.elapsed().as_secs(),
        during.len(),
        ms(percentile(&before, 99)),
        ms(percentile(&during, 99)),
    );
    figure("R22", line);
    let others = ["a", "b", "c"].map(|login| world.send(log_in(&world, "198.51.100.7", login, "guess")));
    futures::future::join_all(others).await;
    let right = world.send(log_in(&world, "198.51.100.7", LOGIN, PASSWORD)).await;
    assert_eq!(right.refusal(), RATE_LIMITED, "the source is stopped, whatever it tries");
}

#[tokio::test]
async fn password_guesses_at_one_login_are_limited_per_address_and_in_total() {
    let world = behind_a_proxy().await;
    let guess = async |address: &str| world.send(log_in(&world, address, LOGIN, "guess")).await.refusal().1.to_owned();
    for _ in 0..5 {
        assert_eq!(guess("198.51.100.7").await, "login_rejected");
    }
    assert_eq!(guess("198.51.100.7").await, "caller_rate_limited");
    let owner = async || world.send(log_in(&world, "203.0.113.1", LOGIN, PASSWORD)).await;
    assert_eq!(owner().await.status, 200, "its owner comes from elsewhere");
    let mut more = 0;
    while guess(&format!("2001:db8:{more}::1")).await == "login_rejected" {
        more += 1;
    }
    // Three attempts are left, and one is added every seven and a half seconds.
    assert!((3..=8).contains(&more), "{more} more from everywhere");
    assert_eq!(owner().await.refusal(), RATE_LIMITED, "which is the price");
}

#[tokio::test]
async fn untrusted_forwarded_for_is_ignored_by_login_limits() {
    let world = with("logins", "failed_per_address = 3").await;
    for number in 0..3 {
        let login = format!("shopper-{number}@example.com");
        let answer = world.send(log_in(&world, &format!("198.51.100.{number}"), &login, "guess")).await;
        assert_eq!(answer.refusal().1, "login_rejected");
    }
    let answer = world.send(log_in(&world, "198.51.100.99", "shopper-4@example.com", "guess")).await;
    assert_eq!(answer.refusal(), RATE_LIMITED, "whoever he says that he is");
}

#[tokio::test]
async fn logins_at_slas_paths_count_as_failed_logins() {
    let world = behind_a_proxy().await;
    let form = |address: &str, target: &str, body: &str| {
        let request = world.post(&slas(target)).header(FORWARDED_FOR, address.to_owned());
        request.header("content-type", "application/x-www-form-urlencoded").body(body.to_owned())
    };
    let whose = format!(
        "client_id={PUBLIC_CLIENT}&channel_id=RefArch&redirect_uri=http%3A%2F%2Flocalhost%3A3000%2Fcallback&code_challenge={}",
        "c".repeat(43)
    );
    let login =
        |address: &str, login: &str| form(address, "/login", &whose).basic_auth(login.to_owned(), Some("guess"));
    for _ in 0..5 {
        let answer = world.send(login("198.51.100.7", LOGIN)).await;
        assert_eq!(answer.refusal(), (401, "none"), "SLAS's own: {}", answer.text());
    }
    assert_eq!(world.send(login("198.51.100.7", LOGIN)).await.refusal(), RATE_LIMITED);
    // A guess of a code and a message count for the address.
    for (address, target) in [("198.51.100.20", "/passwordless/token"), ("198.51.100.21", "/passwordless/login")] {
        let mut answers = Vec::new();
        for _ in 0..40 {
            let body = format!("pwdless_login_token=00000000&user_id=shopper-{}", answers.len());
            answers.push(world.send(form(address, target, &body)).await);
        }
        let stopped = refused(&answers, RATE_LIMITED);
        assert!((5..=10).contains(&stopped), "{target}: {stopped}");
    }
    // The key set is public.
    for _ in 0..3 {
        let keys = world.get(&slas("/jwks")).header(FORWARDED_FOR, "198.51.100.20");
        assert_eq!(world.send(keys).await.status, 200);
    }
}

#[tokio::test]
async fn slas_calls_without_concurrency_permit_count_for_address() {
    let world = World::with(|config| {
        set(config, "limits", "max_concurrent_requests = 1\nqueue_timeout = \"10ms\"\nslas_calls_per_address = 3");
        set(config, "load", "low_priority = []");
    })
    .await;
    let token = world.mint(|_| {});
    world.simulator.inject(Fault::on("api", Effect::Delay { ms: 3000 }));
    let occupied = world.send(read(&world, &token));
    let rejected = async {
        eventually("the permit is taken", async || !world.forwarded("shopper-products.getProducts").is_empty()).await;
        let form = [("grant_type", "refresh_token"), ("refresh_token", "r"), ("client_id", PUBLIC_CLIENT)];
        for expected in [OVERLOADED, OVERLOADED, OVERLOADED, RATE_LIMITED, RATE_LIMITED] {
            assert_eq!(world.send(world.post(&slas("/token")).form(&form)).await.refusal(), expected);
        }
    };
    futures::join!(occupied, rejected);
}

#[tokio::test]
async fn login_that_gets_no_concurrency_permit_is_no_failed_login() {
    let mut world = World::with(|config| {
        set(config, "limits", "max_concurrent_requests = 1\nqueue_timeout = \"10ms\"");
        set(config, "logins", "max_concurrent = 1\nfailed_per_address_and_login = 2");
        set(config, "load", "low_priority = []");
    })
    .await;
    let token = world.mint(|_| {});
    let code_challenge = "c".repeat(43);
    let form = |field: &str, value: &str| {
        let redirect_uri = "http://localhost:3000/callback";
        let form = [
            ("client_id", PUBLIC_CLIENT),
            ("channel_id", "RefArch"),
            ("redirect_uri", redirect_uri),
            ("code_challenge", &code_challenge),
            (field, value),
        ];
        form.map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    let requests = |world: &World| {
        [
            world.post(&slas("/login")).form(&form("usid", "")).basic_auth(LOGIN, Some("guess")),
            world.post(&slas("/passwordless/login")).form(&form("user_id", LOGIN)),
            log_in(world, "127.0.0.1", LOGIN, "guess"),
        ]
    };
    world.simulator.inject(Fault::on("api", Effect::Delay { ms: 5000 }));
    world.simulator.inject(Fault::on("slas", Effect::Delay { ms: 5000 }).flow("token:client_credentials"));
    // One request has the only permit of each kind.
    let occupied = async { futures::join!(world.send(read(&world, &token)), world.guest(PRIVATE_CLIENT)) };
    let rejected = async {
        eventually("the permits are taken", async || {
            !world.forwarded("shopper-products.getProducts").is_empty()
                && world.simulator.count("slas", "token:client_credentials") > 0
        })
        .await;
        for _ in 0..5 {
            for request in requests(&world) {
                assert_eq!(world.send(request).await.refusal(), OVERLOADED);
            }
        }
    };
    futures::join!(occupied, rejected);
    world.simulator.clear_faults();
    for request in requests(&world) {
        assert_ne!(world.send(request).await.refusal(), RATE_LIMITED);
    }
    // A body that is complete too late for a permit is not sent either.
    world.gateway.reload(|config| set(config, "logins", "failed_per_address_and_login = 3")).unwrap();
    world.simulator.inject(Fault::on("api", Effect::Delay { ms: 5000 }));
    let basic = "c2hvcHBlckBleGFtcGxlLmNvbTpndWVzcw==";
    let fields = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 3";
    let head =
        format!("POST {} HTTP/1.1\r\nHost: a\r\nAuthorization: Basic {basic}\r\n{fields}\r\n\r\n", slas("/login"));
    let mut logins = Vec::new();
    for sent in 1..=3 {
        let mut login = TcpStream::connect(world.gateway.address).await.unwrap();
        login.write_all(head.as_bytes()).await.unwrap();
        logins.push(login);
        eventually("it is under way", async || world.in_flight().await == sent).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.simulator.clear_ledger();
    let rejected = async {
        eventually("the permit is taken", async || !world.forwarded("shopper-products.getProducts").is_empty()).await;
        for mut login in logins {
            login.write_all(b"a=b").await.unwrap();
            let mut response = [0; 12];
            login.read_exact(&mut response).await.unwrap();
            assert_eq!(&response, b"HTTP/1.1 503");
        }
    };
    futures::join!(world.send(read(&world, &token)), rejected);
    for request in requests(&world) {
        assert_ne!(world.send(request).await.refusal(), RATE_LIMITED);
    }
}

#[tokio::test]
async fn slas_limit_in_client_response_counts_for_tenant() {
    let world = World::start().await;
    // The header fields of SLAS's responses report that the tenant's limit is used up.
    world.simulator.set(|behaviour| behaviour.slas_requests_per_minute = 1);
    let authorize = || world.get(&slas("/authorize?hint=guest"));
    world.send(authorize()).await;
    world.simulator.clear_ledger();
    let (again, login) = (world.send(authorize()).await, world.guest(PUBLIC_CLIENT).await);
    for answer in [again, login] {
        assert_eq!(answer.refusal(), (429, "slas_rate_limited"));
    }
    assert!(world.simulator.ledger().iter().all(|entry| entry.flow != "authorize:guest"));
}

#[tokio::test]
async fn slas_429_to_one_client_does_not_block_others() {
    let world = World::start().await;
    let limited = Effect::Status { code: 429, retry_after: Some("900".into()), body: Some("{}".into()) };
    let message = |user: &str| {
        let form = [("user_id", user), ("channel_id", "RefArch"), ("mode", "sms"), ("client_id", PRIVATE_CLIENT)];
        world.post(&slas("/passwordless/login")).form(&form)
    };
    world.simulator.set(|behaviour| behaviour.enforce_windows = false);
    for user in ["ada", "bob", "eve"] {
        world.simulator.inject(Fault::on("slas", limited.clone()).times(1));
        let answer = world.send(message(user)).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-shopper-gateway-error")), (429, None), "SLAS's own");
        assert_eq!(answer.header("retry-after"), Some("900"));
        assert_eq!(world.guest(PUBLIC_CLIENT).await.status, 200);
        assert_eq!(world.log_in(PRIVATE_CLIENT, LOGIN, PASSWORD).await.status, 200);
        // The gateway does not block the operation: SLAS decides about each request.
        assert_ne!(world.send(message(user)).await.status, 429);
    }
}

#[tokio::test]
async fn slas_429_to_registered_session_login_does_not_block_others() {
    let world = World::with(crate::world::register_sessions).await;
    let limited = Effect::Status { code: 429, retry_after: Some("900".into()), body: Some("{}".into()) };
    world.simulator.inject(Fault::on("slas", limited).times(1));
    let form = [("grant_type", "client_credentials"), ("channel_id", "RefArch"), ("client_id", PRIVATE_CLIENT)];
    assert_eq!(world.send(world.post(&slas("/token")).form(&form)).await.status, 429);
    assert_eq!(world.send(world.post(&slas("/token")).form(&form)).await.status, 200);
    assert_eq!(world.guest(PUBLIC_CLIENT).await.status, 200);
}

#[tokio::test]
async fn reload_keeps_slas_limit_and_failed_logins() {
    let mut world = with("logins", "failed_per_address_and_login = 1").await;
    assert_eq!(world.log_in(PUBLIC_CLIENT, LOGIN, "guess").await.refusal().1, "login_rejected");
    let limited = Effect::Status { code: 429, retry_after: Some("60".into()), body: None };
    world.simulator.inject(Fault::on("slas", limited).flow("authorize:guest").times(1));
    assert_eq!(world.guest(PUBLIC_CLIENT).await.refusal(), (429, "slas_rate_limited"));
    world.gateway.reload(|config| set(config, "limits", "max_concurrent_requests = 3")).unwrap();
    assert_eq!(world.log_in(PUBLIC_CLIENT, LOGIN, PASSWORD).await.refusal(), RATE_LIMITED);
    assert_eq!(world.guest(PUBLIC_CLIENT).await.refusal(), (429, "slas_rate_limited"));
    assert_eq!(world.simulator.count("slas", "authorize:guest"), 1);
    world.gateway.reload(|config| set(config, "logins", "failed_per_address_and_login = 2")).unwrap();
    assert_ne!(world.log_in(PUBLIC_CLIENT, LOGIN, PASSWORD).await.refusal(), RATE_LIMITED, "another bound begins anew");
}

/// Connections on which a request was sent, and from which nothing is read. Each request waits until all earlier ones
/// are `under_way`, because requests at once would be a burst.
async fn unread_connections(world: &World, request: &str, mut under_way: impl AsyncFnMut() -> usize) -> Vec<TcpStream> {
    let mut connections = Vec::new();
    let before = under_way().await;
    for _ in 0..SEATS * 2 {
        let mut connection = TcpStream::connect(world.gateway.address).await.unwrap();
        connection.write_all(request.as_bytes()).await.unwrap();
        connections.push(connection);
        eventually("it is under way", async || under_way().await >= before + connections.len()).await;
    }
    connections
}

const SEATS: usize = 4;

#[tokio::test]
async fn slow_client_takes_no_concurrency_permit() {
    let world = with_max_concurrent(SEATS, "50ms").await;
    let token = world.mint(|_| {});
    let is_served = async |what: &str| {
        for _ in 0..SEATS {
            assert_eq!(world.send(read(&world, &token)).await.status, 200, "{what}");
        }
    };
    let jwks = slas("/jwks");
    let upstream = |path: &str| world.simulator.ledger().iter().filter(|entry| entry.path == path).count();

    // More bytes than the sockets between hold.
    world.simulator.inject(Fault::on("slas", Effect::HugeBody { bytes: 16 * 1024 * 1024 }).flow("jwks"));
    let get = format!("GET {jwks} HTTP/1.1\r\nHost: a\r\n\r\n");
    let unread = unread_connections(&world, &get, async || upstream(&jwks)).await;
    is_served("answers that nobody reads").await;
    drop(unread);

    let (target, fields) = (baskets("?siteId=RefArch"), "Content-Type: application/json\r\nContent-Length: 20");
    let post = format!("POST {target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n{fields}\r\n\r\n");
    eventually("those who did not read are gone", async || world.in_flight().await == 0).await;
    let unsent = unread_connections(&world, &post, async || world.in_flight().await).await;
    is_served("bodies that nobody sends").await;
    drop(unsent);
}

#[tokio::test]
async fn request_with_complete_body_takes_concurrency_permit() {
    let world = with_max_concurrent(1, "10ms").await;
    let token = world.mint(|_| {});
    world.simulator.inject(Fault::on("api", Effect::Delay { ms: 1000 }));
    let post = || world.send(world.post(&baskets("?siteId=RefArch")).bearer_auth(&token).body("{}"));
    let answers = futures::future::join_all((0..3).map(|_| post())).await;
    assert_eq!(refused(&answers, OVERLOADED), 2, "{answers:?}");
}

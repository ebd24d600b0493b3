//! `/metrics`: every name and label that operators rely on, the gateway's own time, and a closed set of series.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use reqwest::{Method, StatusCode};
use salesforce_simulator::{Effect, Fault};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    callers::CALLER_SECRET,
    world::{
        CALLER_CLIENT, LOGIN, ORGANIZATION, OTHER_ORGANIZATION, PASSWORD, PRIVATE_CLIENT, PUBLIC_CLIENT, World,
        baskets, customers, eventually, login_target, products,
    },
};

/// A label and its values.
type Label = (&'static str, &'static [&'static str]);

/// Name without the prefix, labels, and the values of each label. A label without values has names of the configuration
/// or of the policy table, or a number.
const CONTRACT: &[(&str, &[Label])] = &[
    (
        "requests_total",
        &[
            ("tenant", &[ORGANIZATION, OTHER_ORGANIZATION, "none"]),
            ("api", &[]),
            ("operation", &[]),
            ("caller", &["guest", "registered", "slas", "reported", "none", "experience-cloud"]),
            ("status", &[]),
            ("source", &["gateway", "upstream"]),
        ],
    ),
    ("requests_label_overflow_total", &[]),
    ("response_aborts_total", &[("side", &["upstream", "client", "gateway"])]),
    ("request_duration_seconds", &[("le", &[])]),
    ("upstream_duration_seconds", &[("le", &[])]),
    ("overhead_seconds", &[("le", &[])]),
    ("refusals_total", &[("code", &[])]),
    (
        "cors_requests_total",
        &[("tenant", &["none"]), ("result", &["preflight_allowed", "preflight_refused", "allowed", "refused"])],
    ),
    ("caller_rejections_total", &[("reason", &["not_configured", "credentials_refused"])]),
    ("token_verifications_total", &[("result", &["cached", "verified", "rejected"])]),
    ("token_cache_entries", &[("kind", &["system", "on_behalf", "session", "verified"])]),
    (
        "token_requests_total",
        &[("kind", &["system", "on_behalf", "session"]), ("result", &["hit", "miss", "coalesced", "error"])],
    ),
    (
        "token_exchanges_total",
        &[
            ("service", SERVICES),
            ("flow", &[]),
            (
                "outcome",
                &["ok", "conflict", "rate_limited", "rejected", "failed", "timeout", "unreachable", "circuit_open"],
            ),
        ],
    ),
    ("token_exchange_duration_seconds", &[("service", SERVICES), ("flow", &[]), ("le", &[])]),
    (
        "connect_failures_total",
        &[
            ("service", SERVICES),
            (
                "cause",
                &[
                    "unresolved",
                    "refused",
                    "unreachable",
                    "timed_out",
                    "closed",
                    "not_tls",
                    "no_common_protocol",
                    "untrusted",
                    "wrong_name",
                    "expired",
                    "not_yet_valid",
                    "certificate_invalid",
                    "other",
                ],
            ),
        ],
    ),
    ("jwks_refreshes_total", &[("outcome", &["ok", "failed", "throttled"])]),
    ("jwks_age_seconds", &[("tenant", TENANTS), ("issuer", &["slas", "account_manager"])]),
    ("legacy_requests_total", &[("endpoint", &["login", "logout", "trusted_system_login"]), ("client_id", &[])]),
    ("sessions", &[]),
    ("slas_client_refusals_total", &[("tenant", TENANTS), ("client_id", &[])]),
    ("slas_rate_limit_remaining", &[("tenant", TENANTS)]),
    ("circuit_breakers_open", &[("service", SERVICES)]),
    ("config_reloads_total", &[("outcome", &["ok", "failed"])]),
    ("config_last_reload_success_timestamp_seconds", &[]),
    ("build_info", &[("version", &[]), ("commit", &[])]),
    ("ready", &[]),
    ("store_up", &[]),
    ("store_key_mismatch", &[]),
    ("audit_lines_left_out_total", &[]),
    ("connections", &[]),
    (
        "connections_closed_total",
        &[(
            "reason",
            &[
                "header_timeout",
                "handshake_timeout",
                "handshake_failed",
                "flood",
                "connection_limit",
                "per_address_limit",
            ],
        )],
    ),
];
/// Metrics whose series all exist from the start, with value 0.
const COUNTED_FROM_THE_START: [&str; 7] = [
    "connect_failures_total",
    "jwks_refreshes_total",
    "circuit_breakers_open",
    "config_reloads_total",
    "connections_closed_total",
    "response_aborts_total",
    "cors_requests_total",
];
const TENANTS: &[&str] = &[ORGANIZATION, OTHER_ORGANIZATION];
const SERVICES: &[&str] = &["slas", "account_manager", "api"];

type Labels = BTreeMap<String, String>;

/// The series by their names without prefix, and without the suffixes of a histogram's parts.
fn series(text: &str) -> Vec<(String, Labels, f64)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (left, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = left.split_once('{').unwrap_or((left, "}"));
            let name = name.strip_prefix("shopper_gateway_").unwrap_or_else(|| panic!("a name without prefix: {line}"));
            let pairs = labels.strip_suffix('}').unwrap().split("\",").filter(|pair| !pair.is_empty());
            let pairs = pairs.map(|pair| pair.trim_end_matches('"').split_once("=\"").unwrap());
            let labels = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            (name.to_owned(), labels, value.parse().unwrap())
        })
        .collect()
}

fn value(text: &str, name: &str) -> f64 {
    series(text).into_iter().filter(|(own, ..)| own == name).map(|(.., value)| value).sum()
}

/// The metrics after a counter has grown by one.
async fn metrics_after_increment(world: &World, before: &str, name: &str) -> String {
    let mut text = String::new();
    eventually(&format!("{name} is one more"), async || {
        text = world.metrics().await;
        value(&text, name) == value(before, name) + 1.0
    })
    .await;
    text
}

fn order() -> String {
    format!("/checkout/orders/v1/organizations/{ORGANIZATION}/orders?siteId=RefArch")
}

/// Runs every flow once: logins, forwarding, refusals, trusted systems for themselves and on behalf.
async fn every_flow(world: &World) {
    let guest = world.guest(PUBLIC_CLIENT).await.token();
    world.guest(PRIVATE_CLIENT).await;
    let shopper = world.log_in(PUBLIC_CLIENT, LOGIN, PASSWORD).await.token();
    for token in [&guest, &shopper, &"wrong".to_owned()] {
        world.send(world.get(&products("?ids=a&siteId=RefArch")).bearer_auth(token)).await;
    }
    world.send(world.get(&products("?ids=a&siteId=RefArch"))).await;
    let refresh = world.post(&login_target(PUBLIC_CLIENT)).bearer_auth(&guest).body(r#"{"type":"refresh"}"#);
    assert_eq!(world.send(refresh).await.status, StatusCode::OK);
    for _ in 0..2 {
        let system = world.get(&order()).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET));
        assert_eq!(world.send(system).await.status, StatusCode::OK);
        let on_behalf = world.get(&products("?ids=a&siteId=RefArch")).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET));
        assert_eq!(world.send(on_behalf.header("X-On-Behalf-Of", LOGIN)).await.status, StatusCode::OK);
    }
    let trusted = customers("/customers/trusted-system/actions/login?siteId=RefArch");
    let trusted = world.post(&trusted).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET));
    world.send(trusted.body(format!(r#"{{"login":"{LOGIN}","clientId":"{PUBLIC_CLIENT}"}}"#))).await;
    let logout = world.request(Method::DELETE, &customers("/customers/actions/logout?siteId=RefArch"));
    assert_eq!(world.send(logout.bearer_auth(&shopper)).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn metric_names_and_labels_match_contract() {
    let world = World::start().await;
    every_flow(&world).await;
    let text = world.metrics().await;
    let series = series(&text);
    for (name, labels) in CONTRACT {
        let parts = [name.to_string(), format!("{name}_bucket")];
        let of_name: Vec<_> = series.iter().filter(|(own, ..)| parts.contains(own)).collect();
        assert!(!of_name.is_empty(), "{name} is missing in:\n{text}");
        for (_, own, _) in of_name {
            let expected: BTreeSet<_> = labels.iter().map(|(label, _)| *label).collect();
            assert_eq!(own.keys().map(String::as_str).collect::<BTreeSet<_>>(), expected, "labels of {name}");
            for (label, words) in *labels {
                let word = own[*label].as_str();
                assert!(words.is_empty() || words.contains(&word), "{name}: {label} is {word}");
            }
        }
    }
    let listed: BTreeSet<_> = CONTRACT.iter().map(|(name, _)| *name).collect();
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE shopper_gateway_"));
    let families: BTreeSet<_> = families.filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(families, listed, "what is shown, and what is on the list");
    for (name, labels) in CONTRACT.iter().filter(|(name, _)| COUNTED_FROM_THE_START.contains(name)) {
        for (label, words) in *labels {
            let shown: BTreeSet<_> =
                series.iter().filter(|(own, ..)| own == name).map(|(_, own, _)| own[*label].as_str()).collect();
            assert_eq!(shown, words.iter().copied().collect(), "{name}: {label}");
        }
    }
    let entries: BTreeMap<_, _> = series
        .iter()
        .filter(|(name, ..)| name == "token_cache_entries")
        .map(|(_, labels, value)| (labels["kind"].as_str(), *value))
        .collect();
    // One token for the requests on behalf, and one that the trusted system received.
    assert_eq!(entries["on_behalf"], 2.0, "{entries:?}");
    assert!(entries["system"] >= 1.0 && entries["session"] >= 2.0 && entries["verified"] >= 4.0, "{entries:?}");
}

#[tokio::test]
async fn counters_start_at_0_before_first_event() {
    let world = World::start().await;
    let of = async |name: &str| -> BTreeSet<Labels> {
        let text = world.metrics().await;
        series(&text).into_iter().filter(|(own, ..)| own == name).map(|(_, labels, _)| labels).collect()
    };
    let names = [
        "token_exchanges_total",
        "refusals_total",
        "legacy_requests_total",
        "response_aborts_total",
        "slas_client_refusals_total",
    ];
    let before = [of(names[0]).await, of(names[1]).await, of(names[2]).await, of(names[3]).await, of(names[4]).await];
    every_flow(&world).await;
    for (name, before) in names.into_iter().zip(before) {
        assert!(!before.is_empty(), "{name}");
        assert_eq!(of(name).await, before, "{name}");
    }
}

#[tokio::test]
async fn hanging_api_is_measured_after_client_gave_up() {
    const PATIENCE: Duration = Duration::from_millis(300);
    let world = World::start().await;
    let guest = world.guest(PUBLIC_CLIENT).await.token();
    eventually("the login is counted", async || world.in_flight().await == 0).await;
    let before = world.metrics().await;
    world.simulator.inject(Fault::on("api", Effect::Hang));
    let gone = world.get(&products("?ids=a&siteId=RefArch")).bearer_auth(&guest).timeout(PATIENCE).send().await;
    assert!(gone.unwrap_err().is_timeout());
    let text = metrics_after_increment(&world, &before, "upstream_duration_seconds_count").await;
    let waited = value(&text, "upstream_duration_seconds_sum") - value(&before, "upstream_duration_seconds_sum");
    assert!(waited > PATIENCE.as_secs_f64() / 2.0, "{waited} s");
}

#[tokio::test]
async fn upload_time_does_not_count_as_api_time() {
    const SLOW: Duration = Duration::from_millis(800);
    let world = World::start().await;
    let guest = world.guest(PUBLIC_CLIENT).await.token();
    eventually("the login is counted", async || world.in_flight().await == 0).await;
    let before = world.metrics().await;
    let mut stream = TcpStream::connect(world.gateway.address).await.unwrap();
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {guest}\r\nContent-Type: application/json\r\n\
         Content-Length: 2\r\nConnection: close\r\n\r\n{{",
        baskets("?siteId=RefArch")
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The upload's duration, which is the subject.
    tokio::time::sleep(SLOW).await;
    stream.write_all(b"}").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let text = metrics_after_increment(&world, &before, "request_duration_seconds_count").await;
    let sum = |of: &str| value(&text, of) - value(&before, of);
    let (total, of_api) = (sum("request_duration_seconds_sum"), sum("upstream_duration_seconds_sum"));
    // The gateway's own time does not depend on the delays of both.
    assert!(total - of_api > SLOW.as_secs_f64() * 0.9, "{of_api} s of {total} s are the API's");
}

#[tokio::test]
async fn truncated_response_is_counted_by_side() {
    let world = World::start().await;
    let guest = world.guest(PUBLIC_CLIENT).await.token();
    world.simulator.inject(Fault::on("api", Effect::Truncate));
    let answer = world.get(&products("?ids=a&siteId=RefArch")).bearer_auth(&guest).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(answer.bytes().await.is_err(), "it is whole");
    eventually("it is counted", async || {
        let text = world.metrics().await;
        let broken = series(&text).into_iter().filter(|(name, ..)| name == "response_aborts_total");
        broken.map(|(_, labels, value)| (labels["side"].clone(), value)).collect::<BTreeMap<_, _>>()
            == BTreeMap::from([("client".into(), 0.0), ("gateway".into(), 0.0), ("upstream".into(), 1.0)])
    })
    .await;
}

#[tokio::test]
async fn client_chosen_values_add_no_series() {
    let world = World::start().await;
    every_flow(&world).await;
    // Each of the following refusals has a series.
    let attack = async |number: usize| {
        let chosen = format!("planted-{number}");
        let requests = [
            world.post(&login_target(&chosen)).body(r#"{"type":"guest"}"#),
            world.get(&format!("/{chosen}/v1/organizations/{ORGANIZATION}/{chosen}")),
            world.get(&products(&format!("?ids=a&siteId={chosen}"))).bearer_auth(&chosen),
            world.get(&format!("/product/shopper-products/v1/organizations/f_ecom_zzrf_{number:05}/products?ids=a")),
            world.request(Method::from_bytes(format!("X{number}").as_bytes()).unwrap(), &products("?ids=a")),
            world.get(&order()).basic_auth(&chosen, Some(&chosen)),
            world
                .get(&products("?ids=a&siteId=RefArch"))
                .header("X-On-Behalf-Of", &chosen)
                .header("correlation-id", &chosen),
        ];
        for request in requests {
            let status = world.send(request).await.status;
            assert!(status.is_client_error(), "{status}");
        }
    };
    attack(0).await;
    // A request is counted when its answer has been sent.
    eventually("all are counted", async || world.in_flight().await == 0).await;
    let before = series(&world.metrics().await).len();
    futures::future::join_all((0..8).map(async |worker| {
        for number in 0..1440 / 8 {
            attack(1 + worker * 1000 + number).await;
        }
    }))
    .await;
    let text = world.metrics().await;
    assert!(value(&text, "requests_total") > 10_000.0, "{}", value(&text, "requests_total"));
    assert!(!text.contains("planted") && !text.contains("_00001"), "a value of the caller's choice is in the metrics");
    assert_eq!(series(&text).len(), before);
}

#[tokio::test]
async fn time_of_other_services_does_not_count_as_gateway_time() {
    const LATE: Duration = Duration::from_millis(400);
    let world = World::start().await;
    let delay = || Effect::Delay { ms: u64::try_from(LATE.as_millis()).unwrap() };
    world.simulator.inject(Fault::on("slas", delay()));
    world.simulator.inject(Fault::on("account_manager", delay()));
    world.simulator.inject(Fault::on("api", delay()));
    let guest = world.guest(PUBLIC_CLIENT).await.token();
    let requests = [
        world.get(&products("?ids=a&siteId=RefArch")).bearer_auth(&guest),
        world.get(&order()).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET)),
        world
            .get(&products("?ids=a&siteId=RefArch"))
            .basic_auth(CALLER_CLIENT, Some(CALLER_SECRET))
            .header("X-On-Behalf-Of", LOGIN),
    ];
    for request in requests {
        assert_eq!(world.send(request).await.status, StatusCode::OK);
    }
    // A request is counted when its answer has been sent.
    let mut text = String::new();
    eventually("all four are counted", async || {
        text = world.metrics().await;
        value(&text, "overhead_seconds_count") == 4.0
    })
    .await;
    let (total, own) = (value(&text, "request_duration_seconds_sum"), value(&text, "overhead_seconds_sum"));
    // A guest's login takes two calls. The others wait for the API, and the caller's requests also for token requests.
    assert!(total > 7.0 * LATE.as_secs_f64(), "{total}");
    // The rest is a share that does not grow with the delay of the services.
    assert!(own < total / 3.0, "own time {own} s of {total} s");
}

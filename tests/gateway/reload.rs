//! Changes while the gateway runs: a new configuration, a new certificate, a new program.

use std::{
    fs,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use reqwest::{Client, StatusCode};
use salesforce_simulator::{Effect, Fault, Seed, Simulator};

use crate::{
    callers::CALLER_SECRET,
    replica::Replica,
    world::{
        CALLER_CLIENT, LOGIN, ORGANIZATION, PUBLIC_CLIENT, World, eventually, expired, install_cryptography, products,
    },
};

fn orders() -> String {
    format!("/checkout/orders/v1/organizations/{ORGANIZATION}/orders?siteId=RefArch")
}

fn search() -> String {
    products("?ids=793775362380M&siteId=RefArch")
}

#[tokio::test]
async fn reload_keeps_tokens_and_applies_changes() {
    let mut world = World::start().await;
    world.simulator.set(|behaviour| behaviour.shopper_token_seconds = 3);
    let token = world.guest(PUBLIC_CLIENT).await.token();
    let basic = |world: &World, target: &str| world.get(target).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET));
    assert_eq!(world.send(basic(&world, &orders())).await.status, StatusCode::OK);
    let on_behalf = basic(&world, &search()).header("X-On-Behalf-Of", LOGIN);
    assert_eq!(world.send(on_behalf).await.status, StatusCode::OK);
    // From now on no key or token can be fetched.
    let down = || Effect::Status { code: 503, retry_after: None, body: None };
    world.simulator.inject(Fault::on("account_manager", down()));
    world.simulator.inject(Fault::on("slas", down()).flow("trusted-system"));
    world.simulator.inject(Fault::on("slas", down()).flow("jwks"));

    let waiting = world.gateway.reload(|config| {
        config["callers"][0]["operations"] = toml::Value::Array(vec!["shopper-*".into(), "orders.getOrders".into()]);
    });
    assert_eq!(waiting.unwrap(), Vec::<&str>::new());
    assert_eq!(world.send(basic(&world, &orders())).await.status, StatusCode::OK, "the system token is kept");
    expired(&world.forwarded_token("shopper-products.getProducts")).await;
    let answer = world.send(world.get(&search()).bearer_auth(&token)).await;
    assert_eq!(answer.status, StatusCode::OK, "the session is kept: {}", answer.text());
    let on_behalf = basic(&world, &search()).header("X-On-Behalf-Of", LOGIN);
    assert_eq!(world.send(on_behalf).await.status, StatusCode::OK, "and the one on behalf");
    let one = orders().replace("?", "/1?");
    assert_eq!(world.send(basic(&world, &one)).await.refusal(), (403, "caller_not_allowed"), "the change is in force");

    world.gateway.reload(|config| config["callers"] = toml::Value::Array(Vec::new())).unwrap();
    assert_eq!(world.send(basic(&world, &orders())).await.refusal(), (401, "caller_rejected"));
    assert_eq!(world.send(world.get(&search()).bearer_auth(&token)).await.status, StatusCode::OK);
    let metrics = world.metrics().await;
    assert!(metrics.contains(r#"shopper_gateway_config_reloads_total{outcome="ok"} 2"#), "{metrics}");
}

#[tokio::test]
async fn reload_names_keys_that_need_restart() {
    let mut world = World::start().await;
    let waiting = world.gateway.reload(|config| {
        config["server"]["threads"] = 3.into();
        config.insert("sessions".into(), "capacity = 5\nidle_timeout = '5m'".parse::<toml::Table>().unwrap().into());
    });
    assert_eq!(waiting.unwrap(), ["server.threads", "sessions.capacity"]);
}

#[tokio::test]
async fn reload_of_invalid_configuration_changes_nothing() {
    let mut world = World::start().await;
    let token = world.guest(PUBLIC_CLIENT).await.token();
    let refused = world.gateway.reload(|config| {
        config["callers"][0]["operations"] = toml::Value::Array(vec!["no-such-api.*".into()]);
    });
    assert!(refused.is_err());
    assert_eq!(world.send(world.get(&search()).bearer_auth(&token)).await.status, StatusCode::OK);
    let order = world.get(&orders()).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET));
    assert_eq!(world.send(order).await.status, StatusCode::OK);
    assert!(world.metrics().await.contains(r#"shopper_gateway_config_reloads_total{outcome="failed"} 1"#));
}

/// Sends requests one after the other, on a few connections, until it is stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    failed: Arc<parking_lot::Mutex<Vec<String>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    pub fn start(client: impl Fn() -> Client, url: &str, token: &str) -> Self {
        let load = Self { stop: Arc::default(), sent: Arc::default(), failed: Arc::default(), tasks: Vec::new() };
        let tasks = (0..4).map(|_| {
            let (stop, sent, failed) = (Arc::clone(&load.stop), Arc::clone(&load.sent), Arc::clone(&load.failed));
            let request = client().get(url).bearer_auth(token);
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let request = request.try_clone().unwrap();
                    // A client may retry an idempotent request on a closed connection.
                    let answer = match request.try_clone().unwrap().send().await {
                        Ok(answer) => Ok(answer),
                        Err(_) => request.send().await,
                    };
                    sent.fetch_add(1, Ordering::Relaxed);
                    match answer {
                        Ok(answer) if answer.status() == StatusCode::OK => {}
                        Ok(answer) => failed.lock().push(answer.status().to_string()),
                        Err(error) => failed.lock().push(format!("{error:?}")),
                    }
                }
            })
        });
        let tasks = tasks.collect();
        Self { tasks, ..load }
    }

    pub async fn until(&self, more: usize) {
        let goal = self.sent.load(Ordering::Relaxed) + more;
        eventually("requests go on", async || self.sent.load(Ordering::Relaxed) >= goal).await;
    }

    pub async fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        (self.sent.load(Ordering::Relaxed), self.failed.lock().clone())
    }
}

async fn simulator() -> Simulator {
    install_cryptography();
    salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap()
}

fn client() -> Client {
    Client::builder().no_proxy().build().unwrap()
}

pub async fn metric(replica: &Replica, line: &str) -> bool {
    let metrics = client().get(format!("http://{}/metrics", replica.admin)).send().await;
    match metrics {
        Ok(metrics) => metrics.text().await.unwrap_or_default().contains(line),
        Err(_) => false,
    }
}

#[tokio::test]
async fn sighup_under_load_loses_no_request() {
    let simulator = simulator().await;
    let replica = Replica::start(&simulator.url(), |_| {}).await;
    let token = simulator.mint_shopper_token(salesforce_simulator::ShopperTokenSpec::default());
    let load = Load::start(client, &format!("http://{}{}", replica.address, search()), &token);
    let good = fs::read_to_string(replica.configuration()).unwrap();
    for round in 1..=5 {
        load.until(50).await;
        replica.signal("HUP");
        let line = format!(r#"config_reloads_total{{outcome="ok"}} {round}"#);
        eventually("the configuration is taken over", async || metric(&replica, &line).await).await;
        fs::write(replica.configuration(), "[server\n").unwrap();
        replica.signal("HUP");
        let line = format!(r#"config_reloads_total{{outcome="failed"}} {round}"#);
        eventually("the wrong one is noted", async || metric(&replica, &line).await).await;
        fs::write(replica.configuration(), &good).unwrap();
    }
    let (sent, failed) = load.end().await;
    assert!(failed.is_empty(), "{} of {sent}: {:?}", failed.len(), failed.first());
}

#[tokio::test]
async fn process_handover_under_load_loses_no_request() {
    let simulator = simulator().await;
    let mut replica = Replica::start(&simulator.url(), |_| {}).await;
    let token = simulator.mint_shopper_token(salesforce_simulator::ShopperTokenSpec::default());
    let load = Load::start(client, &format!("http://{}{}", replica.address, search()), &token);
    load.until(50).await;
    replica.signal("QUIT");
    assert_eq!(replica.wait().await, Some(0), "the old process has ended");
    load.until(50).await;
    let (sent, failed) = load.end().await;
    assert!(failed.is_empty(), "{} of {sent}: {:?}", failed.len(), failed.first());
    terminate_successor(&replica).await;
}

#[tokio::test]
async fn failed_process_handover_leaves_old_process_serving() {
    let simulator = simulator().await;
    let replica = Replica::start(&simulator.url(), |_| {}).await;
    let token = simulator.mint_shopper_token(salesforce_simulator::ShopperTokenSpec::default());
    let load = Load::start(client, &format!("http://{}{}", replica.address, search()), &token);
    fs::write(replica.configuration(), "[server\n").unwrap();
    replica.signal("QUIT");
    load.until(300).await;
    let (sent, failed) = load.end().await;
    assert!(failed.is_empty(), "{} of {sent}: {:?}", failed.len(), failed.first());
    assert!(metric(&replica, "shopper_gateway_build_info").await);
}

/// A client that opens a connection for each request, so that the accepting process responds.
fn client_without_pool() -> Client {
    Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap()
}

/// Starts a successor process that cannot fetch SLAS's keys, and returns after its first attempt.
async fn start_successor_without_keys(simulator: &Simulator, replica: &Replica) {
    let down = Effect::Status { code: 503, retry_after: None, body: None };
    simulator.inject(Fault::on("slas", down).flow("jwks"));
    let before = simulator.count("slas", "jwks");
    replica.signal("QUIT");
    eventually("the new process asks for keys", async || simulator.count("slas", "jwks") > before).await;
}

#[tokio::test]
async fn new_process_accepts_nothing_until_ready() {
    let simulator = simulator().await;
    let mut replica = Replica::start(&simulator.url(), |_| {}).await;
    let token = simulator.mint_shopper_token(salesforce_simulator::ShopperTokenSpec::default());
    start_successor_without_keys(&simulator, &replica).await;
    let url = format!("http://{}{}", replica.address, search());
    let load = Load::start(client_without_pool, &url, &token);
    load.until(300).await;
    let readyz = format!("http://{}/readyz", replica.admin);
    for _ in 0..50 {
        assert_eq!(client().get(&readyz).send().await.unwrap().status(), StatusCode::OK);
    }
    simulator.clear_faults();
    assert_eq!(replica.wait().await, Some(0), "the new process is ready, and has taken over");
    load.until(50).await;
    let (sent, failed) = load.end().await;
    assert!(failed.is_empty(), "{} of {sent}: {:?}", failed.len(), failed.first());
    terminate_successor(&replica).await;
}

#[tokio::test]
async fn stop_does_not_wait_for_process_handover() {
    let simulator = simulator().await;
    for signal in ["TERM", "INT"] {
        let mut replica = Replica::start(&simulator.url(), |_| {}).await;
        start_successor_without_keys(&simulator, &replica).await;
        replica.signal("HUP");
        let refused = r#"config_reloads_total{outcome="failed"} 1"#;
        eventually("the new configuration is refused meanwhile", async || metric(&replica, refused).await).await;
        replica.signal("QUIT");
        replica.signal(signal);
        assert_eq!(replica.wait().await, Some(0));
        let path = replica.configuration();
        eventually("the new process has ended too", async || {
            !Command::new("pgrep").args(["-f", path.to_str().unwrap()]).status().unwrap().success()
        })
        .await;
        simulator.clear_faults();
    }
}

/// Ends the successor process, which is no child of this one. Its command line names this configuration file.
async fn terminate_successor(replica: &Replica) {
    let path = replica.configuration();
    let pattern = path.to_str().unwrap().to_owned();
    let found = Command::new("pkill").args(["-TERM", "-f", &pattern]).status().unwrap();
    assert!(found.success(), "somebody serves");
    eventually("it has ended", async || !metric(replica, "shopper_gateway_build_info").await).await;
}

#[tokio::test]
async fn both_client_secrets_are_tried_during_replacement() {
    let world = World::with(|config| {
        let tenant = &mut config["tenants"][0];
        let account_manager = tenant["account_manager"].as_table_mut().unwrap();
        let secret = account_manager.insert("client_secret".into(), "not-yet-known".into()).unwrap();
        account_manager.insert("previous_client_secret".into(), secret);
        let client = tenant["slas_clients"][1].as_table_mut().unwrap();
        let secret = client.insert("client_secret".into(), "not-yet-known".into()).unwrap();
        client.insert("previous_client_secret".into(), secret);
    })
    .await;
    let answer = world.guest(crate::world::PRIVATE_CLIENT).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let on_behalf = world.get(&search()).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET)).header("X-On-Behalf-Of", LOGIN);
    assert_eq!(world.send(on_behalf).await.status, StatusCode::OK);
    let tries = world.simulator.count("slas", "token:client_credentials");
    assert_eq!(tries, 2, "the new one first");
}

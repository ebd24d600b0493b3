//! Shoppers that read their baskets repeatedly, and report a basket of another shopper.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use reqwest::Client;

use crate::Outcome;

pub const ORGANIZATION: &str = "organizations/f_ecom_zzrf_001";
const CLIENT: &str = "11111111-1111-4111-8111-111111111111";

/// A guest with a basket.
pub struct Shopper {
    token: Mutex<String>,
    /// Half of them never take a new token, as an old app does.
    takes_new: bool,
    basket: String,
}

/// Results of the requests.
#[derive(Default)]
pub struct Tally {
    pub sent: AtomicUsize,
    /// Requests that failed at the first attempt.
    pub tried_again: AtomicUsize,
    /// Responses that belong to another shopper or to none.
    pub wrong: AtomicUsize,
    /// Requests that also failed at the second attempt: when, and how.
    pub failed: Mutex<Vec<(Instant, String)>>,
    /// Milliseconds that a request took, and how many did.
    slow: Mutex<BTreeMap<u64, usize>>,
    /// Tokens that were seen, to be looked for in logs.
    pub tokens: Mutex<Vec<String>>,
}

/// Requests under way until it ends.
pub struct Load {
    pub tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    /// Gateways that a load balancer has taken out.
    pub out: Arc<Vec<AtomicBool>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    start: Instant,
}

impl Shopper {
    /// Logs in by the deprecated login, and begins a basket.
    pub async fn arrive(client: &Client, gateway: SocketAddr, number: usize) -> Outcome<Self> {
        let customers = format!("/customer/shopper-customers/v1/{ORGANIZATION}/customers");
        let url = format!("http://{gateway}{customers}/actions/login?siteId=RefArch&clientId={CLIENT}");
        let answer = client.post(url).body(r#"{"type":"guest"}"#).send().await?.error_for_status()?;
        let token = bearer(&answer).ok_or("a login without a token")?;
        let url = format!("http://{gateway}/checkout/shopper-baskets/v1/{ORGANIZATION}/baskets?siteId=RefArch");
        let basket = client.post(url).bearer_auth(&token).body("{}").send().await?.error_for_status()?;
        let basket: serde_json::Value = serde_json::from_slice(&basket.bytes().await?)?;
        let basket = basket["basketId"].as_str().ok_or("a basket without an id")?.to_owned();
        Ok(Self { token: Mutex::new(token), takes_new: number.is_multiple_of(2), basket })
    }

    /// The token that it has now.
    pub fn token(&self) -> String {
        self.token.lock().clone()
    }

    /// Some shoppers.
    pub async fn several(gateway: SocketAddr, number: usize) -> Outcome<Arc<Vec<Self>>> {
        let client = Client::builder().no_proxy().build()?;
        let mut all = Vec::new();
        for start in (0..number).step_by(16) {
            let some = (start..number.min(start + 16)).map(|number| Self::arrive(&client, gateway, number));
            for shopper in futures::future::join_all(some).await {
                all.push(shopper?);
            }
        }
        Ok(Arc::new(all))
    }

    /// Result of reading a basket once.
    async fn look(&self, client: &Client, gateway: SocketAddr, tally: &Tally) -> Result<(), String> {
        let path = format!("/checkout/shopper-baskets/v1/{ORGANIZATION}/baskets/{}?siteId=RefArch", self.basket);
        let token = self.token.lock().clone();
        let answer = client.get(format!("http://{gateway}{path}")).bearer_auth(token).send().await;
        let answer = answer.map_err(|error| if error.is_connect() { "no connection" } else { "broken" }.to_owned())?;
        let (status, new) = (answer.status(), bearer(&answer));
        let code = answer.headers().get("x-shopper-gateway-error").and_then(|code| code.to_str().ok());
        let code = code.unwrap_or("of Salesforce").to_owned();
        let body = answer.text().await.map_err(|_| "broken off".to_owned())?;
        if let Some(new) = new {
            tally.tokens.lock().push(new.clone());
            if self.takes_new {
                *self.token.lock() = new;
            }
        }
        if !status.is_success() {
            return Err(format!("{} {code}", status.as_u16()));
        }
        if !body.contains(&self.basket) {
            tally.wrong.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn bearer(answer: &reqwest::Response) -> Option<String> {
    let value = answer.headers().get("authorization")?.to_str().ok()?;
    Some(value.strip_prefix("Bearer ")?.to_owned())
}

impl Load {
    /// Load on these gateways with this number of connections, at full speed or at a fixed request rate.
    pub fn start(shoppers: &Arc<Vec<Shopper>>, gateways: &[SocketAddr], connections: usize, rate: Option<f64>) -> Self {
        let (tally, stop) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
        let out = Arc::new(gateways.iter().map(|_| AtomicBool::new(false)).collect::<Vec<_>>());
        let next = Arc::new(AtomicUsize::new(0));
        let between = rate.map(|rate| Duration::from_secs_f64(connections as f64 / rate));
        let tasks = (0..connections).map(|_| {
            let (shoppers, tally, stop) = (Arc::clone(shoppers), Arc::clone(&tally), Arc::clone(&stop));
            let (out, next, gateways) = (Arc::clone(&out), Arc::clone(&next), gateways.to_vec());
            tokio::spawn(async move {
                let Ok(client) = Client::builder().no_proxy().timeout(Duration::from_secs(20)).build() else { return };
                let mut due = tokio::time::Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(shopper) = shoppers.get(number % shoppers.len()) else { return };
                    let usable: Vec<_> =
                        (0..gateways.len()).filter(|gateway| !out[*gateway].load(Ordering::Relaxed)).collect();
                    // With two gateways, the second try is on the other one.
                    let gateway = |attempt: usize| gateways[usable[(number / 7 + attempt) % usable.len()]];
                    let start = Instant::now();
                    let mut outcome = shopper.look(&client, gateway(0), &tally).await;
                    if outcome.is_err() {
                        tally.tried_again.fetch_add(1, Ordering::Relaxed);
                        outcome = shopper.look(&client, gateway(1), &tally).await;
                    }
                    tally.sent.fetch_add(1, Ordering::Relaxed);
                    let took = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
                    *tally.slow.lock().entry(took).or_default() += 1;
                    if let Err(how) = outcome {
                        tally.failed.lock().push((start, how));
                    }
                    if let Some(between) = between {
                        due = (due + between).max(tokio::time::Instant::now() - between);
                        tokio::time::sleep_until(due).await;
                    }
                }
            })
        });
        let tasks = tasks.collect();
        Self { tally, stop, out, tasks, start: Instant::now() }
    }

    /// Stops, and returns how many requests there were a second.
    pub async fn end(self) -> f64 {
        let seconds = self.start.elapsed().as_secs_f64();
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            // A worker ends by itself.
            let _ = task.await;
        }
        self.tally.sent.load(Ordering::Relaxed) as f64 / seconds
    }
}

impl Tally {
    /// The time that 99 % of the requests did not exceed, milliseconds.
    pub fn p99(&self) -> u64 {
        let slow = self.slow.lock();
        let all: usize = slow.values().sum();
        let mut left = all.div_ceil(100);
        for (took, number) in slow.iter().rev() {
            left = left.saturating_sub(*number);
            if left == 0 {
                return *took;
            }
        }
        0
    }

    /// Failures, and what they were.
    pub fn failures(&self) -> (usize, String) {
        let failed = self.failed.lock();
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, how) in failed.iter() {
            *kinds.entry(how).or_default() += 1;
        }
        let kinds: Vec<_> = kinds.iter().map(|(how, number)| format!("{number} × {how}")).collect();
        (failed.len(), kinds.join(", "))
    }
}

//! The delay of a request whose token has expired.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use salesforce_simulator::{Effect, Fault, Seed, Simulator};
use shopper_gateway::app::App;

use crate::parts::settings;

/// Through a whole gateway.
pub async fn measure() {
    let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
    simulator.set(|behaviour| {
        behaviour.ledger_entries = 0;
        behaviour.slas_requests_per_minute = u32::MAX;
    });
    let app = App::build(settings(&simulator.url())).unwrap();
    let (address, admin) = (app.public_addresses().next().unwrap(), app.admin_address());
    let running = tokio::spawn(app.run(std::future::pending()));
    let shop = Shop { client: reqwest::Client::builder().no_proxy().build().unwrap(), address };
    let readyz = format!("http://{admin}/readyz");
    while !shop.client.get(&readyz).send().await.is_ok_and(|answer| answer.status() == 200) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
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
        assert_eq!(answer.status(), 200, "{answer:?}");
        answer.headers()["authorization"].to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned()
    }

    /// One read with this token: how long it took, and the token it gave.
    async fn read(&self, token: &str) -> (Duration, Option<String>) {
        let products = "product/shopper-products/v1/organizations/f_ecom_zzrf_001/products";
        let url = format!("http://{}/{products}?ids=a&siteId=RefArch", self.address);
        let begin = Instant::now();
        let answer = self.client.get(url).bearer_auth(token).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let renewed = answer.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        answer.bytes().await.unwrap();
        (begin.elapsed(), renewed.map(|value| value.trim_start_matches("Bearer ").to_owned()))
    }
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

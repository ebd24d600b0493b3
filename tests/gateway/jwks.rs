//! Key sets while their issuers do not respond: starts, restarts, rotations, outages and unknown key ids.

mod outages;
mod restarts;
mod rotations;

use reqwest::{Client, StatusCode};
use salesforce_simulator::{Effect, Fault, Seed, ShopperTokenSpec, Simulator};
use serde_json::Value;

use crate::world::{CALLER_CLIENT, Gateway, ORGANIZATION, eventually, install_cryptography, products};

const SERVED: (u16, Option<&str>) = (200, None);
const UNAVAILABLE: (u16, Option<&str>) = (503, Some("keys_unavailable"));
const INVALID: (u16, Option<&str>) = (401, Some("token_invalid"));
/// Where the key sets of the first organization are.
const JWKS: &str = "/shopper/auth/v1/organizations/f_ecom_zzrf_001/oauth2/jwks";

fn status(code: u16) -> Effect {
    Effect::Status { code, retry_after: None, body: None }
}

/// A simulated Salesforce, for several gateways one after the other.
struct Issuers {
    simulator: Simulator,
    client: Client,
}

impl Issuers {
    async fn start() -> Self {
        Self::start_at("127.0.0.1:0").await
    }

    async fn start_at(address: &str) -> Self {
        install_cryptography();
        let simulator = salesforce_simulator::start(address.parse().unwrap(), Seed::default()).await.unwrap();
        Self { simulator, client: Client::builder().no_proxy().build().unwrap() }
    }

    /// Makes both issuers' key set endpoints fail.
    fn stop_serving_keys(&self, effect: &Effect) {
        for service in ["slas", "account_manager"] {
            self.simulator.inject(Fault::on(service, effect.clone()));
        }
    }

    /// The number of requests for the first organization's key set.
    fn fetches(&self) -> usize {
        self.simulator.ledger().iter().filter(|entry| entry.path == JWKS).count()
    }

    fn shopper_token(&self, change: impl FnOnce(&mut ShopperTokenSpec)) -> String {
        let mut spec = ShopperTokenSpec::default();
        change(&mut spec);
        self.simulator.mint_shopper_token(spec)
    }

    fn shopper_with_kid(&self, kid: &str) -> String {
        self.shopper_token(|spec| spec.kid = Some(kid.to_owned()))
    }

    fn system_token(&self) -> String {
        self.simulator.mint_account_manager_token(CALLER_CLIENT, &["sfcc.orders"], "zzrf_001", 600)
    }

    /// Status and error code of a gateway's response to a shopper's token.
    async fn present(&self, gateway: &Gateway, token: &str) -> (u16, Option<&'static str>) {
        self.ask(gateway, &products("?ids=a&siteId=RefArch"), token).await
    }

    /// The same for a system's token; the requested order does not exist.
    async fn present_system(&self, gateway: &Gateway, token: &str) -> (u16, Option<&'static str>) {
        let order = format!("/checkout/orders/v1/organizations/{ORGANIZATION}/orders/1?siteId=RefArch");
        self.ask(gateway, &order, token).await
    }

    async fn ask(&self, gateway: &Gateway, target: &str, token: &str) -> (u16, Option<&'static str>) {
        let request = self.client.get(format!("http://{}{target}", gateway.address)).bearer_auth(token);
        let answer = request.send().await.unwrap();
        let code = answer.headers().get("x-shopper-gateway-error").map(|code| code.to_str().unwrap());
        let known =
            [UNAVAILABLE, INVALID].into_iter().find_map(|(_, known)| known.filter(|known| Some(*known) == code));
        assert_eq!(known, code, "another refusal than this test knows");
        if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
            assert!(answer.headers().contains_key("retry-after"));
            assert!(!answer.headers().contains_key("www-authenticate"));
        }
        (answer.status().as_u16(), known)
    }

    async fn readiness(&self, gateway: &Gateway) -> (StatusCode, Value) {
        let url = format!("http://{}/readyz", gateway.admin);
        let answer = self.client.get(url).send().await.unwrap();
        (answer.status(), answer.json_body().await)
    }

    async fn is_ready(&self, gateway: &Gateway) -> bool {
        let answer = self.client.get(format!("http://{}/readyz", gateway.admin)).send().await;
        answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
    }

    /// The key sets that a gateway lacks, as `tenant/issuer`.
    async fn missing_key_sets(&self, gateway: &Gateway) -> Vec<String> {
        let missing = self.readiness(gateway).await.1["keys_missing"].clone();
        let name = |ring: &Value| format!("{}/{}", ring["tenant"].as_str().unwrap(), ring["issuer"].as_str().unwrap());
        missing.as_array().unwrap().iter().map(name).collect()
    }

    /// A gateway that is running, ready or not.
    async fn start_gateway(&self, change: impl FnOnce(&mut toml::Table)) -> Gateway {
        let gateway = Gateway::start(&self.simulator.url(), change).await;
        let livez = format!("http://{}/livez", gateway.admin);
        eventually("the gateway is alive", async || self.client.get(&livez).send().await.is_ok()).await;
        gateway
    }

    /// A gateway with the keys of every issuer.
    async fn start_ready_gateway(&self, change: impl FnOnce(&mut toml::Table)) -> Gateway {
        let gateway = self.start_gateway(change).await;
        eventually("it has all keys", async || self.missing_key_sets(&gateway).await.is_empty()).await;
        gateway
    }

    async fn metric(&self, gateway: &Gateway, line: &str) -> Option<f64> {
        let url = format!("http://{}/metrics", gateway.admin);
        let text = self.client.get(url).send().await.unwrap().text().await.unwrap();
        text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
    }
}

trait JsonBody {
    async fn json_body(self) -> Value;
}

impl JsonBody for reqwest::Response {
    async fn json_body(self) -> Value {
        serde_json::from_slice(&self.bytes().await.unwrap()).unwrap()
    }
}

//! Gateways in this process, with one simulated Salesforce, and with or without Redis.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Client, Method, RequestBuilder, Response, redirect::Policy};
use salesforce_simulator::{Effect, Fault, Seed, Simulator};
use serde_json::Value;

use crate::{
    redis::{Redis, in_redis},
    world::{
        Gateway, LOGIN, ORGANIZATION, PASSWORD, PRIVATE_CLIENT, PUBLIC_CLIENT, customers, eventually,
        install_cryptography, login_target, products,
    },
};

const REDIRECT: &str = "http://localhost:3000/callback";

/// The store that the gateways share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shared {
    Redis,
    Memory,
}

pub struct Fleet {
    pub simulator: Simulator,
    pub gateways: Vec<Gateway>,
    redis: Option<Redis>,
    pub client: Client,
}

/// The tokens of a login at SLAS.
#[derive(Debug, Clone)]
pub struct Tokens {
    pub access: String,
    pub refresh: String,
    pub usid: String,
}

impl Fleet {
    pub async fn start(count: usize, shared: Shared, change: impl Fn(&mut toml::Table)) -> Self {
        install_cryptography();
        let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
        simulator.set(|behaviour| {
            behaviour.enforce_windows = false;
            behaviour.slas_requests_per_minute = 1_000_000;
            behaviour.ledger_entries = 0;
        });
        // A refresh takes some time, during which a logout may come.
        simulator.inject(Fault::on("slas", Effect::Delay { ms: 15 }).flow("token:refresh_token"));
        let redis = match shared {
            Shared::Redis => Some(Redis::start().await),
            Shared::Memory => None,
        };
        let client = Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
        let mut fleet = Self { simulator, gateways: Vec::new(), redis, client };
        for _ in 0..count {
            let gateway = fleet.new_gateway(&change).await;
            fleet.gateways.push(gateway);
        }
        fleet
    }

    /// One more gateway of the fleet, ready.
    pub async fn new_gateway(&self, change: impl Fn(&mut toml::Table)) -> Gateway {
        let gateway = Gateway::start(&self.simulator.url(), |config| {
            for tenant in config["tenants"].as_array_mut().unwrap() {
                tenant.as_table_mut().unwrap().insert("slas_requests_per_minute".into(), 1_000_000.into());
            }
            // All shoppers have one address.
            config.insert("limits".into(), "slas_calls_per_address = 0".parse::<toml::Table>().unwrap().into());
            // The simulator may be slow on a busy machine.
            config.insert("timeouts".into(), "exchange = \"10s\"".parse::<toml::Table>().unwrap().into());
            config.insert("logins".into(), "guests_per_address = 0".parse::<toml::Table>().unwrap().into());
            if let Some(redis) = &self.redis {
                in_redis(config, &redis.url());
            }
            change(config);
        })
        .await;
        eventually("the gateway is ready", async || {
            let readyz = self.client.get(format!("http://{}/readyz", gateway.admin)).send().await;
            readyz.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        gateway
    }

    /// Sends a request, and repeats it if the gateway had no permit for a SLAS call. The gateway waits half a second for permits
    /// from the store. On a busy machine Redis can take longer, and the client gets 429. Nothing has been sent to SLAS then.
    async fn send(&self, request: RequestBuilder) -> Response {
        for _ in 0..20 {
            let answer = request.try_clone().unwrap().send().await.unwrap();
            if answer.headers().get("x-shopper-gateway-error").is_none_or(|code| code != "slas_rate_limited") {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the gateway never gets permits for SLAS calls");
    }

    fn url(&self, gateway: usize, target: &str) -> String {
        format!("http://{}{target}", self.gateways[gateway].address)
    }

    /// The status of a read with this token.
    pub async fn status(&self, gateway: usize, token: &str) -> u16 {
        let url = self.url(gateway, &products("?ids=a&siteId=RefArch"));
        self.client.get(url).bearer_auth(token).send().await.unwrap().status().as_u16()
    }

    /// A guest by the deprecated login.
    pub async fn log_in(&self, gateway: usize) -> String {
        let url = self.url(gateway, &login_target(PUBLIC_CLIENT));
        let answer = self.send(self.client.post(url).body(r#"{"type":"guest"}"#)).await;
        assert_eq!(answer.status(), 200);
        bearer(&answer).unwrap()
    }

    /// The deprecated refresh; `None` if it was refused.
    pub async fn refresh(&self, gateway: usize, token: &str) -> Option<String> {
        let url = self.url(gateway, &login_target(PUBLIC_CLIENT));
        let answer = self.send(self.client.post(url).bearer_auth(token).body(r#"{"type":"refresh"}"#)).await;
        let status = answer.status().as_u16();
        assert!(matches!(status, 200 | 401), "{status}: {}", answer.text().await.unwrap());
        (status == 200).then(|| bearer(&answer).unwrap())
    }

    /// The deprecated logout.
    pub async fn log_out(&self, gateway: usize, token: &str) -> u16 {
        let url = self.url(gateway, &customers("/customers/actions/logout?siteId=RefArch"));
        self.send(self.client.request(Method::DELETE, url).bearer_auth(token)).await.status().as_u16()
    }

    /// A registered shopper's login at SLAS through a gateway, optionally with an existing USID.
    pub async fn log_in_at_slas(&self, gateway: usize, usid: Option<&str>) -> Tokens {
        let verifier = format!("verifier-{}", uuid());
        let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes()));
        let named = [("client_id", PRIVATE_CLIENT), ("channel_id", "RefArch"), ("redirect_uri", REDIRECT)];
        let goes_on = usid.map(|usid| ("usid", usid));
        let mut form = named.to_vec();
        form.push(("code_challenge", challenge.as_str()));
        form.extend(goes_on);
        let url = self.url(gateway, &slas("login"));
        let redirect = self.send(self.client.post(url).basic_auth(LOGIN, Some(PASSWORD)).form(&form)).await;
        let location = redirect.headers()["location"].to_str().unwrap();
        let code = location.split(['?', '&']).find_map(|pair| pair.strip_prefix("code=")).unwrap().to_owned();
        let mut form = named.to_vec();
        form.extend([("grant_type", "authorization_code_pkce"), ("code", &code), ("code_verifier", &verifier)]);
        form.extend(goes_on);
        self.tokens(gateway, &form).await.unwrap()
    }

    /// The caller's own refresh at SLAS through a gateway; `None` if it was refused.
    pub async fn refresh_at_slas(&self, gateway: usize, refresh: &str) -> Option<Tokens> {
        let form = [
            ("grant_type", "refresh_token"),
            ("channel_id", "RefArch"),
            ("client_id", PRIVATE_CLIENT),
            ("refresh_token", refresh),
        ];
        self.tokens(gateway, &form).await
    }

    /// The same with a credential of the caller's own.
    pub async fn refresh_at_slas_as(&self, gateway: usize, refresh: &str, secret: &str) -> u16 {
        let form = [("grant_type", "refresh_token"), ("channel_id", "RefArch"), ("refresh_token", refresh)];
        let request = self.client.post(self.url(gateway, &slas("token"))).basic_auth(PRIVATE_CLIENT, Some(secret));
        self.send(request.form(&form)).await.status().as_u16()
    }

    /// A guest's login at SLAS through a gateway, optionally with an existing USID.
    pub async fn guest_at_slas(&self, gateway: usize, usid: Option<&str>) -> Tokens {
        let mut form =
            vec![("grant_type", "client_credentials"), ("channel_id", "RefArch"), ("client_id", PRIVATE_CLIENT)];
        form.extend(usid.map(|usid| ("usid", usid)));
        self.tokens(gateway, &form).await.unwrap()
    }

    /// SLAS's revocation of a refresh token through a gateway.
    pub async fn revoke(&self, gateway: usize, refresh: &str, secret: &str) -> u16 {
        let request = self.client.post(self.url(gateway, &slas("revoke"))).basic_auth(PRIVATE_CLIENT, Some(secret));
        self.send(request.form(&[("token", refresh)])).await.status().as_u16()
    }

    async fn tokens(&self, gateway: usize, form: &[(&str, &str)]) -> Option<Tokens> {
        let answer = self.send(self.client.post(self.url(gateway, &slas("token"))).form(form)).await;
        let status = answer.status().as_u16();
        assert!(matches!(status, 200 | 400 | 401), "{status}: {:?}", answer.headers().get("x-shopper-gateway-error"));
        let document: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        let text = |name: &str| document[name].as_str().unwrap_or_default().to_owned();
        (status == 200).then(|| Tokens {
            access: text("access_token"),
            refresh: text("refresh_token"),
            usid: text("usid"),
        })
    }

    /// SLAS's logout through a gateway.
    pub async fn log_out_at_slas(&self, gateway: usize, access: &str, refresh: &str, hint: Option<&str>) -> u16 {
        let mut query = vec![("client_id", PRIVATE_CLIENT), ("channel_id", "RefArch"), ("refresh_token", refresh)];
        query.extend(hint.map(|hint| ("hint", hint)));
        let request = self.client.get(self.url(gateway, &slas("logout"))).query(&query).bearer_auth(access);
        self.send(request).await.status().as_u16()
    }
}

/// A new text, long enough for a code verifier (RFC 7636, 4.1).
fn uuid() -> String {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    URL_SAFE_NO_PAD.encode(bytes)
}

fn slas(rest: &str) -> String {
    format!("/shopper/auth/v1/organizations/{ORGANIZATION}/oauth2/{rest}")
}

fn bearer(answer: &Response) -> Option<String> {
    let value = answer.headers().get("authorization")?.to_str().unwrap();
    Some(value.strip_prefix("Bearer ").unwrap().to_owned())
}

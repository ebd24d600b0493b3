//! A client of the simulator: an HTTP client, and helpers for the common requests.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use salesforce_simulator::{Seed, Simulator};
use serde_json::{Value, json};

pub(crate) const ORGANIZATION: &str = "f_ecom_zzrf_001";
pub(crate) const PUBLIC: &str = "11111111-1111-4111-8111-111111111111";
pub(crate) const PRIVATE: &str = "22222222-2222-4222-8222-222222222222";
pub(crate) const STRICT: &str = "33333333-3333-4333-8333-333333333333";
pub(crate) const SECRET: &str = "private-client-secret";
pub(crate) const REDIRECT: &str = "http://localhost:3000/callback";
pub(crate) const LOGIN: &str = "shopper@example.com";
pub(crate) const PASSWORD: &str = "Passw0rd!shopper";
pub(crate) const PRODUCT: &str = "701642812398M";
pub(crate) const BASKETS: &str = "/checkout/shopper-baskets/v1/organizations/f_ecom_zzrf_001/baskets";
pub(crate) const ORDERS: &str = "/checkout/shopper-orders/v1/organizations/f_ecom_zzrf_001/orders";
pub(crate) const CUSTOMERS: &str = "/customer/shopper-customers/v1/organizations/f_ecom_zzrf_001/customers";

/// A status and the JSON that came with it (`null` for none).
pub(crate) type Reply = (StatusCode, Value);

pub(crate) struct Caller {
    pub(crate) simulator: Simulator,
    pub(crate) http: reqwest::Client,
}

/// A new PKCE pair.
pub(crate) struct Pkce {
    pub(crate) verifier: String,
    pub(crate) challenge: String,
}

pub(crate) fn pkce() -> Pkce {
    let verifier = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
    let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes()));
    Pkce { verifier, challenge }
}

/// A code on its way back to the storefront.
pub(crate) struct Code {
    pub(crate) code: String,
    pub(crate) usid: String,
    pub(crate) location: String,
}

pub(crate) fn code_of(response: &Response) -> Code {
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let parsed = reqwest::Url::parse(&location).unwrap();
    let of = |name: &str| parsed.query_pairs().find(|(key, _)| key == name).unwrap().1.into_owned();
    Code { code: of("code"), usid: of("usid"), location }
}

pub(crate) async fn read(response: Response) -> Reply {
    let status = response.status();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

pub(crate) fn text<'v>(document: &'v Value, name: &str) -> &'v str {
    document[name].as_str().unwrap_or_else(|| panic!("no {name} in {document}"))
}

/// The claims of a token, unverified.
pub(crate) fn claims(token: &str) -> Value {
    part(token, 1)
}

pub(crate) fn part(token: &str, place: usize) -> Value {
    let encoded = token.split('.').nth(place).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(encoded).unwrap()).unwrap()
}

impl Caller {
    pub(crate) async fn new() -> Self {
        // The second test of a process finds the provider installed.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap();
        Self { simulator, http }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.simulator.url()))
    }

    pub(crate) fn slas(&self, method: Method, endpoint: &str) -> RequestBuilder {
        self.request(method, &format!("/shopper/auth/v1/organizations/{ORGANIZATION}/oauth2/{endpoint}"))
    }

    pub(crate) fn token(&self, form: &[(&str, &str)]) -> RequestBuilder {
        self.slas(Method::POST, "token").form(form)
    }

    pub(crate) async fn authorize(&self, client: &str, challenge: &str) -> Response {
        let query = [
            ("client_id", client),
            ("channel_id", "RefArch"),
            ("response_type", "code"),
            ("redirect_uri", REDIRECT),
            ("hint", "guest"),
            ("code_challenge", challenge),
        ];
        self.slas(Method::GET, "authorize").query_pairs(&query).send().await.unwrap()
    }

    pub(crate) fn login(&self, client: &str, challenge: &str, more: &[(&str, &str)]) -> RequestBuilder {
        let mut form = vec![
            ("client_id", client),
            ("channel_id", "RefArch"),
            ("code_challenge", challenge),
            ("redirect_uri", REDIRECT),
        ];
        form.extend_from_slice(more);
        self.slas(Method::POST, "login").form(&form)
    }

    pub(crate) fn exchange(&self, client: &str, code: &Code, verifier: &str) -> RequestBuilder {
        self.token(&[
            ("grant_type", "authorization_code_pkce"),
            ("client_id", client),
            ("channel_id", "RefArch"),
            ("code", &code.code),
            ("code_verifier", verifier),
            ("redirect_uri", REDIRECT),
            ("usid", &code.usid),
        ])
    }

    /// A guest of the public client.
    pub(crate) async fn guest(&self) -> Value {
        let pkce = pkce();
        let code = code_of(&self.authorize(PUBLIC, &pkce.challenge).await);
        let (status, tokens) = read(self.exchange(PUBLIC, &code, &pkce.verifier).send().await.unwrap()).await;
        assert_eq!(status, StatusCode::OK, "{tokens}");
        tokens
    }

    /// The seeded shopper at the public client. More form fields, such as `usid`.
    pub(crate) async fn registered_with(&self, login: &str, password: &str, more: &[(&str, &str)]) -> Value {
        self.simulator.set(|behaviour| behaviour.enforce_windows = false);
        let pkce = pkce();
        let response = self.login(PUBLIC, &pkce.challenge, more).basic_auth(login, Some(password)).send().await;
        let code = code_of(&response.unwrap());
        let (status, tokens) = read(self.exchange(PUBLIC, &code, &pkce.verifier).send().await.unwrap()).await;
        assert_eq!(status, StatusCode::OK, "{tokens}");
        tokens
    }

    pub(crate) async fn registered(&self) -> Value {
        self.registered_with(LOGIN, PASSWORD, &[]).await
    }

    pub(crate) async fn refresh(&self, client: &str, token: &str, secret: Option<&str>) -> Reply {
        let request = self.token(&[
            ("grant_type", "refresh_token"),
            ("refresh_token", token),
            ("client_id", client),
            ("channel_id", "RefArch"),
        ]);
        let request = match secret {
            Some(secret) => request.basic_auth(client, Some(secret)),
            None => request,
        };
        read(request.send().await.unwrap()).await
    }

    /// Calls an API with a bearer token and, unless it is null, a JSON body.
    pub(crate) async fn api(&self, method: Method, path: &str, token: &str, body: Value) -> Reply {
        let request = self.request(method, path).bearer_auth(token);
        let request = if body.is_null() { request } else { request.json(&body) };
        read(request.send().await.unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> Reply {
        self.api(Method::GET, path, token, Value::Null).await
    }

    /// A new basket with one product; its id.
    pub(crate) async fn basket(&self, token: &str) -> String {
        let body = json!({"productItems": [{"productId": PRODUCT, "quantity": 1}]});
        let (status, basket) = self.api(Method::POST, BASKETS, token, body).await;
        assert_eq!(status, StatusCode::OK, "{basket}");
        text(&basket, "basketId").to_owned()
    }
}

/// base64 of user and password, for headers without a scheme.
pub(crate) fn bare_basic(user: &str, password: &str) -> String {
    STANDARD.encode(format!("{user}:{password}"))
}

/// Adds query parameters without another feature of the HTTP client.
pub(crate) trait QueryPairs {
    fn query_pairs(self, pairs: &[(&str, &str)]) -> Self;
}

impl QueryPairs for RequestBuilder {
    fn query_pairs(self, pairs: &[(&str, &str)]) -> Self {
        let (client, request) = self.build_split();
        let mut request = request.unwrap();
        request.url_mut().query_pairs_mut().extend_pairs(pairs);
        RequestBuilder::from_parts(client, request)
    }
}

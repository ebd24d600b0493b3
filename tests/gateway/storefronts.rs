//! Storefronts whose sessions are in cookies: the paths of PWA Kit, from a browser's side.

mod attacks;
mod sessions;

use std::collections::BTreeMap;

use reqwest::{Client, Method, RequestBuilder, redirect::Policy};

use crate::world::{Answer, LOGIN, ORGANIZATION, PASSWORD, PRIVATE_CLIENT, PUBLIC_CLIENT, World, products};

const PRODUCTS: &str = "?siteId=RefArch&ids=P1";
const REDIRECT: &str = "http://localhost:3000/callback";
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// A storefront of `RefArch` with the private client.
const PWA_KIT: &str = r#"cookies = "pwa-kit""#;
const REFERENCE: &str = r#"cookies = "reference""#;

async fn world(keys: &str) -> World {
    world_of(PRIVATE_CLIENT, keys).await
}

async fn world_of(client: &str, keys: &str) -> World {
    let entry: toml::Table = format!("site = \"RefArch\"\nclient_id = \"{client}\"\n{keys}").parse().unwrap();
    let mut world = World::with(|config| {
        let tenant = config["tenants"].as_array_mut().unwrap()[0].as_table_mut().unwrap();
        tenant.insert("storefronts".into(), toml::Value::Array(vec![entry.into()]));
    })
    .await;
    world.client = Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
    world
}

/// A browser with a page of the gateway's own origin.
struct Browser<'w> {
    world: &'w World,
    client: &'static str,
    prefix: &'static str,
    jar: BTreeMap<String, String>,
}

impl<'w> Browser<'w> {
    fn new(world: &'w World) -> Self {
        Self { world, client: PRIVATE_CLIENT, prefix: "/mobify/slas/private", jar: BTreeMap::new() }
    }

    fn public(world: &'w World) -> Self {
        Self { client: PUBLIC_CLIENT, prefix: "/mobify/slas/public", ..Self::new(world) }
    }

    fn cookies(&self) -> String {
        let pairs = self.jar.iter().map(|(name, value)| format!("{name}={value}"));
        pairs.collect::<Vec<_>>().join("; ")
    }

    fn request(&self, method: Method, target: &str) -> RequestBuilder {
        let request = self.world.request(method, target).header("x-site-id", "RefArch");
        let request = request.header("sec-fetch-site", "same-origin");
        if self.jar.is_empty() { request } else { request.header("cookie", self.cookies()) }
    }

    async fn send(&mut self, request: RequestBuilder) -> Answer {
        let answer = self.world.send(request).await;
        for cookie in set_cookies(&answer) {
            let (pair, _) = cookie.split_once(';').unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            if value.is_empty() {
                self.jar.remove(name);
            } else {
                self.jar.insert(name.to_owned(), value.to_owned());
            }
        }
        answer
    }

    fn slas(&self, rest: &str) -> String {
        format!("{}/shopper/auth/v1/organizations/{ORGANIZATION}/oauth2/{rest}", self.prefix)
    }

    /// A guest or, with a login, a registered shopper, as PWA Kit logs them in.
    async fn log_in(&mut self, is_registered: bool) -> Answer {
        if self.client == PRIVATE_CLIENT && !is_registered {
            let form = [("grant_type", "client_credentials"), ("channel_id", "RefArch"), ("client_id", self.client)];
            return self.send(self.request(Method::POST, &self.slas("token")).form(&form)).await;
        }
        let fields = [
            ("client_id", self.client),
            ("channel_id", "RefArch"),
            ("redirect_uri", REDIRECT),
            ("code_challenge", CHALLENGE),
        ];
        let request = if is_registered {
            let request = self.request(Method::POST, &self.slas("login"));
            request.basic_auth(LOGIN, Some(PASSWORD)).form(&fields)
        } else {
            let request = self.request(Method::GET, &self.slas("authorize"));
            request.query(&[&fields[..], &[("response_type", "code"), ("hint", "guest")]].concat())
        };
        let redirect = self.send(request).await;
        let location = redirect.header("location").unwrap_or_else(|| panic!("{}", redirect.text()));
        let code = location.split(['?', '&']).find_map(|pair| pair.strip_prefix("code=")).unwrap().to_owned();
        let form = [
            ("grant_type", "authorization_code_pkce"),
            ("client_id", self.client),
            ("channel_id", "RefArch"),
            ("redirect_uri", REDIRECT),
            ("code", &code),
            ("code_verifier", VERIFIER),
        ];
        self.send(self.request(Method::POST, &self.slas("token")).form(&form)).await
    }

    /// The refresh of a page, which cannot read the refresh cookie.
    fn refresh(&self) -> RequestBuilder {
        let form = [
            ("grant_type", "refresh_token"),
            ("refresh_token", ""),
            ("client_id", self.client),
            ("channel_id", "RefArch"),
        ];
        self.request(Method::POST, &self.slas("token")).header("x-grant-type", "refresh_token").form(&form)
    }

    fn read(&self) -> RequestBuilder {
        self.request(Method::GET, &format!("/mobify/proxy/api{}", products(PRODUCTS)))
    }

    /// The logout of an SDK, which sends an empty refresh token.
    fn logout(&self) -> RequestBuilder {
        let query = [("client_id", self.client), ("channel_id", "RefArch"), ("refresh_token", "")];
        self.request(Method::GET, &self.slas("logout")).query(&query)
    }
}

fn set_cookies(answer: &Answer) -> Vec<&str> {
    answer.headers.get_all("set-cookie").iter().map(|cookie| cookie.to_str().unwrap()).collect()
}

fn names(answer: &Answer) -> Vec<&str> {
    set_cookies(answer).into_iter().map(|cookie| cookie.split('=').next().unwrap()).collect()
}

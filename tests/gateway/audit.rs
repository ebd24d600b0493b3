//! The audit log as an operator's collector reads it: a file of JSON lines, written by the real process.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

use reqwest::{Client, Method, RequestBuilder};
use salesforce_simulator::{Seed, ShopperTokenSpec, Simulator};
use serde_json::{Value, json};

use crate::{
    callers::CALLER_SECRET,
    replica::Replica,
    world::{
        CALLER_CLIENT, LOGIN, ORGANIZATION, PASSWORD, PRIVATE_CLIENT, PUBLIC_CLIENT, customers, eventually,
        install_cryptography, login_target, products,
    },
};

const TRUSTED: &str = "/customers/trusted-system/actions/login?siteId=RefArch";

/// The prefix of the ids of requests that only flush the log.
const FLUSH_MARKER: &str = "settled-";

/// A process whose audit log is a file, and which logs nothing else.
struct AuditedGateway {
    simulator: Simulator,
    replica: Replica,
    client: Client,
    file: PathBuf,
    requests: AtomicUsize,
    _folder: tempfile::TempDir,
}

impl AuditedGateway {
    async fn start() -> Self {
        install_cryptography();
        let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
        simulator.set(|behaviour| behaviour.enforce_windows = false);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.jsonl");
        let replica = Replica::start_logging("off", &simulator.url(), |config| {
            let log = format!("audit_file = \"{}\"", file.display());
            config.insert("log".into(), log.parse::<toml::Table>().unwrap().into());
            let proxies = toml::Value::Array(vec!["127.0.0.0/8".into()]);
            config["server"].as_table_mut().unwrap().insert("trusted_proxies".into(), proxies);
        })
        .await;
        let client = Client::builder().no_proxy().build().unwrap();
        Self { simulator, replica, client, file, requests: AtomicUsize::new(0), _folder: folder }
    }

    /// A request from a new client address each time, so that no address has too many lines of refusals.
    fn request(&self, method: Method, target: &str) -> RequestBuilder {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        self.request_from(&format!("198.51.{}.{}", number / 256, number % 256), method, target)
    }

    fn request_from(&self, address: &str, method: Method, target: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("http://{}{target}", self.replica.address));
        request.header("x-forwarded-for", address)
    }

    fn post(&self, target: &str, body: impl ToString) -> RequestBuilder {
        self.request(Method::POST, target).header("content-type", "application/json").body(body.to_string())
    }

    fn get(&self, target: &str) -> RequestBuilder {
        self.request(Method::GET, target)
    }

    fn system_token(&self, client: &str) -> String {
        let scopes = ["sfcc.shopper-customers.login", "sfcc.orders"];
        self.simulator.mint_account_manager_token(client, &scopes, "zzrf_001", 600)
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.file).unwrap()
    }

    /// Returns when the lines of all earlier requests are written. A separate thread writes them in order.
    async fn flush(&self) {
        let id = format!("{FLUSH_MARKER}{}", self.requests.fetch_add(1, Ordering::Relaxed));
        let search = products("?ids=a&siteId=RefArch");
        let last = self.get(&search).header("X-On-Behalf-Of", LOGIN).header("correlation-id", &id);
        assert_eq!(last.send().await.unwrap().status(), 403);
        eventually("the last line is written", async || self.text().contains(&format!("\"{id}\""))).await;
    }

    /// All lines. The test fails if a line is no JSON object.
    fn lines(&self) -> Vec<Value> {
        let text = self.text();
        assert!(text.is_empty() || text.ends_with('\n'));
        let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let lines = text.lines().map(line).inspect(|line: &Value| assert!(line.is_object(), "{line}"));
        lines.filter(|line| !line["correlation_id"].as_str().unwrap_or_default().starts_with(FLUSH_MARKER)).collect()
    }

    /// The lines of one request.
    fn lines_of(&self, correlation_id: &str) -> Vec<Value> {
        self.lines().into_iter().filter(|line| line["correlation_id"] == correlation_id).collect()
    }
}

fn trusted_login(login: &str) -> Value {
    json!({"login": login, "clientId": PUBLIC_CLIENT})
}

#[tokio::test]
async fn audit_log_has_one_line_per_event_and_no_others() {
    let audited = AuditedGateway::start().await;
    let (caller, stranger) = (audited.system_token(CALLER_CLIENT), audited.system_token("nobody"));
    let login = login_target(PUBLIC_CLIENT);
    let search = products("?ids=a&siteId=RefArch");
    let orders = format!("/checkout/orders/v1/organizations/{ORGANIZATION}/orders?siteId=RefArch");
    let credentials = json!({"type": "credentials"});
    let log_in = || audited.post(&login, &credentials);

    let profile = log_in().basic_auth(LOGIN, Some(PASSWORD)).send().await.unwrap();
    let shopper = profile.headers()["authorization"].to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned();
    let profile: Value = serde_json::from_str(&profile.text().await.unwrap()).unwrap();
    let customer = profile["customerId"].as_str().unwrap().to_owned();
    let agent = audited.simulator.mint_shopper_token(ShopperTokenSpec {
        login: LOGIN.into(),
        origin: "ecom".into(),
        registered_customer_id: Some(customer.clone()),
        marks: vec![("taob".into(), "ta_ext_on_behalf_of".into()), ("agent".into(), "agent@example.com".into())],
        ..Default::default()
    });
    // On behalf of the same shopper, from a trusted system that calls SLAS itself.
    let elsewhere = audited.simulator.mint_shopper_token(ShopperTokenSpec {
        login: LOGIN.into(),
        origin: "ecom".into(),
        registered_customer_id: Some(customer.clone()),
        marks: vec![("tsob".into(), "ts_ext_on_behalf_of".into())],
        ..Default::default()
    });
    let given = audited.post(&customers(TRUSTED), trusted_login(LOGIN)).bearer_auth(&caller).send().await.unwrap();
    let given = given.headers()["authorization"].to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned();
    audited.flush().await;
    let before = audited.lines().len();
    assert_eq!(before, 2, "{}", audited.text());

    let (system, on_behalf, log_in_operation) =
        ("experience-cloud", "shopper-products.getProducts", "shopper-customers.authorizeCustomer");
    let trusted_operation = "shopper-customers.authorizeTrustedSystem";
    // A request, and the event, actor, operation and result in its line.
    let cases = [
        (audited.post(&login, json!({"type": "guest"})), "login", PUBLIC_CLIENT, log_in_operation, "ok"),
        (log_in().basic_auth(LOGIN, Some(PASSWORD)), "login", PUBLIC_CLIENT, log_in_operation, "ok"),
        (log_in().basic_auth(LOGIN, Some("wrong")), "login", PUBLIC_CLIENT, log_in_operation, "login_rejected"),
        (
            log_in().basic_auth(LOGIN.to_uppercase(), Some("wrong")),
            "login",
            PUBLIC_CLIENT,
            log_in_operation,
            "login_rejected",
        ),
        (log_in(), "login", PUBLIC_CLIENT, log_in_operation, "login_rejected"),
        (
            audited.post(&customers(TRUSTED), trusted_login(LOGIN)).bearer_auth(&caller),
            "login",
            system,
            trusted_operation,
            "ok",
        ),
        (
            audited.post(&customers(TRUSTED), trusted_login("nobody@example.com")).bearer_auth(&caller),
            "login",
            system,
            trusted_operation,
            "shopper_unknown",
        ),
        (
            audited.get(&search).bearer_auth(&caller).header("X-On-Behalf-Of", LOGIN),
            "on_behalf",
            system,
            on_behalf,
            "ok",
        ),
        (
            audited.get(&search).bearer_auth(&caller).header("X-On-Behalf-Of", "nobody@example.com"),
            "on_behalf",
            system,
            on_behalf,
            "shopper_unknown",
        ),
        (audited.get(&search).bearer_auth(&agent), "agent", "agent@example.com", on_behalf, "ok"),
        (audited.get(&search).bearer_auth(&elsewhere), "on_behalf", PUBLIC_CLIENT, on_behalf, "ok"),
        (audited.get(&search).bearer_auth(&given), "on_behalf", system, on_behalf, "ok"),
        (
            audited.get(&search).bearer_auth(&shopper).header("X-On-Behalf-Of", LOGIN),
            "caller_refused",
            "unknown",
            on_behalf,
            "caller_not_allowed",
        ),
        (
            audited.get(&search).header("X-On-Behalf-Of", LOGIN),
            "caller_refused",
            "unknown",
            on_behalf,
            "caller_not_allowed",
        ),
        (
            audited.get(&search).bearer_auth(&stranger).header("X-On-Behalf-Of", LOGIN),
            "caller_refused",
            "nobody",
            on_behalf,
            "caller_rejected",
        ),
        (
            audited.get(&orders).bearer_auth(&stranger),
            "caller_refused",
            "nobody",
            "orders.getOrders",
            "caller_rejected",
        ),
        (
            audited.get(&orders).basic_auth("stranger", Some("x")),
            "caller_refused",
            "unknown",
            "orders.getOrders",
            "caller_rejected",
        ),
        (
            audited.get(&orders).basic_auth(CALLER_CLIENT, Some("wrong")),
            "caller_refused",
            system,
            "orders.getOrders",
            "caller_rejected",
        ),
        (
            audited.get(&format!("/product/catalogs/v1/organizations/{ORGANIZATION}/catalogs")).bearer_auth(&caller),
            "caller_refused",
            system,
            "catalogs.getCatalogs",
            "caller_not_allowed",
        ),
    ];
    let expected = cases.len();
    for (number, (request, event, who, operation, result)) in cases.into_iter().enumerate() {
        let id = format!("case-{number}");
        request.header("correlation-id", &id).send().await.unwrap();
        audited.flush().await;
        let lines = audited.lines_of(&id);
        assert_eq!(lines.len(), 1, "{id}: {lines:?}");
        let told = |field: &str| lines[0][field].as_str().unwrap_or_default().to_owned();
        let shown = ["event", "who", "operation", "result", "organization"].map(told);
        assert_eq!(shown, [event, who, operation, result, ORGANIZATION], "{id}");
        let site = (operation != "catalogs.getCatalogs").then_some("RefArch");
        assert_eq!(lines[0]["site"].as_str(), site, "{id}");
        assert!(lines[0]["timestamp"].is_string());
        let says_whom = matches!(event, "on_behalf" | "agent") || (event == "login" && number != 4);
        assert_eq!(lines[0]["shopper"].is_string(), says_whom, "{id}: {}", lines[0]);
    }
    // These are no audit events: shoppers' own requests, refreshes, and a trusted system's calls for itself.
    for request in [
        audited.get(&search).bearer_auth(&shopper),
        audited.get(&search),
        audited.get(&search).bearer_auth("a.b.c"),
        audited.get("/unknown"),
        audited.post(&login, json!({"type": "refresh"})).bearer_auth(&shopper),
        audited.get(&orders).bearer_auth(&caller),
        audited.get(&orders).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET)),
    ] {
        request.send().await.unwrap();
    }
    audited.flush().await;
    assert_eq!(audited.lines().len(), before + expected, "{}", audited.text());

    // One shopper has one pseudonym for every kind of login; a refused login has that of its login id.
    let shopper_of =
        |number: usize| audited.lines_of(&format!("case-{number}"))[0]["shopper"].as_str().unwrap().to_owned();
    for number in [5, 7, 9] {
        assert_eq!(shopper_of(number), shopper_of(1), "case-{number}");
    }
    assert_eq!(shopper_of(2), shopper_of(3), "a login id has no case");
    assert_eq!(shopper_of(6), shopper_of(8));
    assert_ne!(shopper_of(0), shopper_of(1));

    let text = audited.text().to_lowercase();
    for secret in [LOGIN, "nobody@example.com", &customer, PASSWORD, CALLER_SECRET, &shopper, &caller] {
        assert!(!text.contains(&secret.to_lowercase()), "{secret} stands in the audit log");
    }
}

#[tokio::test]
async fn audit_line_of_token_with_both_delegations_is_on_behalf() {
    let audited = AuditedGateway::start().await;
    let token = audited.simulator.mint_shopper_token(ShopperTokenSpec {
        login: LOGIN.into(),
        origin: "ecom".into(),
        registered_customer_id: Some("abcdefghijklmnopqrstuvwxyz".into()),
        marks: ["tsob", "taob", "agent"].map(|mark| (mark.into(), "x".into())).into(),
        ..Default::default()
    });
    audited.get(&products("?ids=a&siteId=RefArch")).bearer_auth(&token).send().await.unwrap();
    audited.flush().await;
    let [line] = &audited.lines()[..] else { panic!("{}", audited.text()) };
    assert_eq!((&line["event"], &line["who"]), (&"on_behalf".into(), &PUBLIC_CLIENT.into()), "{line}");
}

#[tokio::test]
async fn audit_line_is_one_json_object_for_any_caller_input() {
    let audited = AuditedGateway::start().await;
    let caller = audited.system_token(CALLER_CLIENT);
    let search = products("?ids=a&siteId=RefArch");
    let odd = [
        "a\"b\\",
        "{\"event\":\"admin\"}",
        "ünïcödé-\u{1F600}",
        "\u{2028}\u{2029}x",
        "%0d%0aevent: x",
        "'; --",
        "\u{202e}x",
    ];
    let mut sent = 0;
    for text in odd {
        for id in [text.to_owned(), text.replace(|c: char| !c.is_ascii(), "x")] {
            let request = audited.get(&search).bearer_auth(&caller).header("X-On-Behalf-Of", text);
            request.header("correlation-id", id).send().await.unwrap();
            let login = audited.post(&login_target(PUBLIC_CLIENT), json!({"type": "credentials"}));
            login.basic_auth(text, Some(text)).send().await.unwrap();
            let trusted = audited.post(&customers(TRUSTED), trusted_login(text)).bearer_auth(&caller);
            trusted.send().await.unwrap();
            sent += 3;
        }
    }
    // Line ends cannot be in a field; in a body and in Basic they can.
    for text in ["a\r\n{\"event\":\"admin\"}", "a\nb", "a\u{0}b", "a\u{85}b"] {
        audited.post(&customers(TRUSTED), trusted_login(text)).bearer_auth(&caller).send().await.unwrap();
        let login = audited.post(&login_target(PUBLIC_CLIENT), json!({"type": "credentials"}));
        login.basic_auth(text, Some("x")).send().await.unwrap();
        let system = format!("/checkout/orders/v1/organizations/{ORGANIZATION}/orders?siteId=RefArch");
        audited.get(&system).basic_auth(text, Some("x")).send().await.unwrap();
        // RFC 7617 forbids ASCII's control characters in Basic: only the last is a credential of an unknown caller.
        sent += if text.contains('\u{85}') { 3 } else { 2 };
    }
    audited.flush().await;
    for line in audited.lines() {
        assert!(matches!(line["event"].as_str(), Some("login" | "on_behalf" | "caller_refused")), "{line}");
        let id = line["correlation_id"].as_str().unwrap();
        assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte)), "{id}");
    }
    assert_eq!(audited.lines().len(), sent, "{}", audited.text());
}

#[tokio::test]
async fn audit_lines_of_concurrent_requests_do_not_mix() {
    let audited = AuditedGateway::start().await;
    let caller = audited.system_token(CALLER_CLIENT);
    let search = products("?ids=a&siteId=RefArch");
    let requests = (0..400).map(|number| {
        let request = audited.get(&search).bearer_auth(&caller).header("X-On-Behalf-Of", LOGIN);
        request.header("correlation-id", format!("at-once-{number}")).send()
    });
    for answer in futures::future::join_all(requests).await {
        assert_eq!(answer.unwrap().status(), 200);
    }
    audited.flush().await;
    let mut ids: Vec<String> =
        audited.lines().iter().map(|line| line["correlation_id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), audited.lines().len()), (400, 400));
}

#[tokio::test]
async fn audit_line_of_login_at_slas_has_its_outcome() {
    let audited = AuditedGateway::start().await;
    let token = format!("/shopper/auth/v1/organizations/{ORGANIZATION}/oauth2/token");
    let guest = [("grant_type", "client_credentials"), ("channel_id", "RefArch")];
    let ask = async |secret: &str, form: &[(&str, &str)], id: &str| {
        let request = audited.request(Method::POST, &token).basic_auth(PRIVATE_CLIENT, Some(secret)).form(form);
        let answer = request.header("correlation-id", id).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (status, body) = ask("private-client-secret", &guest, "good").await;
    assert_eq!(status, 200);
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(ask("wrong", &guest, "wrong").await.0, 401);
    for (id, result) in [("good", "ok"), ("wrong", "rejected")] {
        eventually("the line is written", async || !audited.lines_of(id).is_empty()).await;
        let lines = audited.lines_of(id);
        assert_eq!(lines.len(), 1, "{lines:?}");
        let line = &lines[0];
        assert_eq!(
            (&line["event"], &line["who"], &line["result"]),
            (&json!("login"), &json!(PRIVATE_CLIENT), &json!(result))
        );
        assert_eq!(line["operation"], "auth.getAccessToken");
    }
    for secret in
        ["private-client-secret", answer["access_token"].as_str().unwrap(), answer["refresh_token"].as_str().unwrap()]
    {
        assert!(!audited.text().contains(secret));
    }
}

#[tokio::test]
async fn trusted_system_writes_are_audited_and_its_reads_are_not() {
    let audited = AuditedGateway::start().await;
    let caller = audited.system_token(CALLER_CLIENT);
    let reset = customers("/customers/password/actions/create-reset-token?siteId=RefArch");
    let order = format!("/checkout/orders/v1/organizations/{ORGANIZATION}/orders/no-such/status");
    let customer =
        format!("/customer/customers/v1/organizations/{ORGANIZATION}/customer-lists/RefArch/customers/00012345");
    let (system, event) = ("experience-cloud", "system_write");
    let reset_of = |login: &str| audited.post(&reset, json!({"login": login}));
    for (number, (request, event, who, operation, result)) in [
        (reset_of(LOGIN).bearer_auth(&caller), event, system, "shopper-customers.getResetPasswordToken", "ok"),
        (
            reset_of(LOGIN).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET)),
            event,
            system,
            "shopper-customers.getResetPasswordToken",
            "ok",
        ),
        (
            reset_of("nobody@example.com").bearer_auth(&caller),
            event,
            system,
            "shopper-customers.getResetPasswordToken",
            "rejected",
        ),
        // The token lacks the scope.
        (
            audited.request(Method::PUT, &order).body("{}").bearer_auth(&caller),
            event,
            system,
            "orders.updateOrderStatus",
            "scope_missing",
        ),
        (
            audited.request(Method::DELETE, &customer).bearer_auth(&caller),
            "caller_refused",
            system,
            "customers.deleteCustomerFromCustomerList",
            "caller_not_allowed",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("write-{number}");
        request.header("correlation-id", &id).send().await.unwrap();
        audited.flush().await;
        let lines = audited.lines_of(&id);
        assert_eq!(lines.len(), 1, "{id}: {}", audited.text());
        let told = ["event", "who", "operation", "result"].map(|field| lines[0][field].as_str().unwrap_or_default());
        assert_eq!(told, [event, who, operation, result], "{id}");
        assert_eq!(lines[0]["shopper"].is_string(), number == 4, "whom the path names: {}", lines[0]);
    }
    assert!(!audited.text().contains("00012345") && !audited.text().contains(LOGIN));
    let before = audited.lines().len();
    let orders = format!("/checkout/orders/v1/organizations/{ORGANIZATION}/orders?siteId=RefArch");
    audited.get(&orders).bearer_auth(&caller).send().await.unwrap();
    audited.flush().await;
    assert_eq!(audited.lines().len(), before);
}

#[tokio::test]
async fn audit_line_of_rejected_caller_has_reason() {
    let audited = AuditedGateway::start().await;
    let orders = format!("/checkout/orders/v1/organizations/{ORGANIZATION}/orders?siteId=RefArch");
    for (id, user, reason) in [("known", CALLER_CLIENT, "credentials_refused"), ("unknown", "nobody", "not_configured")]
    {
        let request = audited.get(&orders).basic_auth(user, Some("wrong")).header("correlation-id", id);
        assert_eq!(request.send().await.unwrap().status(), 401);
        audited.flush().await;
        let line = &audited.lines_of(id)[0];
        assert_eq!(
            (line["result"].as_str(), line["reason"].as_str()),
            (Some("caller_rejected"), Some(reason)),
            "{line}"
        );
    }
}

#[tokio::test]
async fn audit_of_rejection_flood_is_summarized_and_hides_no_action() {
    let audited = AuditedGateway::start().await;
    let caller = audited.system_token(CALLER_CLIENT);
    let search = products("?ids=a&siteId=RefArch");
    let act = |id: &str| {
        let request = audited.request_from("2001:db8::1", Method::GET, &search).bearer_auth(&caller);
        request.header("X-On-Behalf-Of", LOGIN).header("correlation-id", id.to_owned()).send()
    };
    assert_eq!(act("before").await.unwrap().status(), 200);
    let flood = (0..1500).map(|number| {
        // Refusals of one /64 network, and then operations of a trusted system from the same network.
        let address = format!("2001:db8::{number:x}");
        let request = audited.request_from(&address, Method::GET, &search).header("X-On-Behalf-Of", LOGIN);
        request.header("correlation-id", format!("flood-{number}")).send()
    });
    let began = std::time::Instant::now();
    let answers = futures::future::join_all(flood);
    let acts = async {
        for number in 0..20 {
            assert_eq!(act(&format!("act-{number}")).await.unwrap().status(), 200);
        }
    };
    let (answers, ()) = futures::join!(answers, acts);
    assert!(answers.into_iter().all(|answer| answer.unwrap().status() == 403));
    let count_of = |lines: &[Value], event: &str| lines.iter().filter(|line| line["event"] == event).count();
    let left_out = |lines: &[Value]| -> u64 {
        lines
            .iter()
            .filter(|line| line["event"] == "refusals_left_out")
            .map(|line| line["lines"].as_u64().unwrap())
            .sum()
    };
    eventually("every refusal is a line or counted", async || {
        let lines = audited.lines();
        count_of(&lines, "caller_refused") as u64 + left_out(&lines) == 1500
    })
    .await;
    let lines = audited.lines();
    let seconds = began.elapsed().as_secs() as usize + 2;
    assert!(
        count_of(&lines, "caller_refused") <= 10 * seconds,
        "{} in {seconds} s",
        count_of(&lines, "caller_refused")
    );
    assert!(count_of(&lines, "refusals_left_out") <= seconds);
    assert_eq!(count_of(&lines, "on_behalf"), 21, "what was done is never left out");
    let metrics = format!("http://{}/metrics", audited.replica.admin);
    let metrics = audited.client.get(metrics).send().await.unwrap().text().await.unwrap();
    let counted = format!("shopper_gateway_audit_lines_left_out_total {}", left_out(&lines));
    assert!(metrics.contains(&counted), "{counted}");
}

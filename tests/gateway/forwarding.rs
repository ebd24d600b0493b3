//! The requests that reach Salesforce, and the responses that return.

use reqwest::Method;

use salesforce_simulator::{Effect, Fault};

use crate::world::{PUBLIC_CLIENT, World, baskets, eventually, products};

#[tokio::test]
async fn request_is_forwarded_unchanged() {
    let world = World::start().await;
    let token = world.guest(PUBLIC_CLIENT).await.token();
    let request = world
        .post(&baskets("?siteId=RefArch&locale=en-US"))
        .bearer_auth(&token)
        .header("content-type", "application/json")
        .header("x-custom", "kept")
        .header("correlation-id", "abc-123")
        .body(r#"{ "currency" : "USD" }"#);
    let answer = world.send(request).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("correlation-id"), Some("abc-123"));

    let entries = world.forwarded("shopper-baskets-v1.createBasket");
    let [entry] = entries.as_slice() else { panic!("{entries:?}") };
    assert_eq!(entry.body, r#"{ "currency" : "USD" }"#);
    assert_eq!(entry.query, "siteId=RefArch&locale=en-US");
    assert_eq!(entry.header("authorization"), Some(format!("Bearer {token}").as_str()));
    assert_eq!(entry.header("x-custom"), Some("kept"));
    assert_eq!(entry.header("correlation-id"), Some("abc-123"));
    assert_eq!(entry.header("host"), Some(world.simulator.address().to_string().as_str()));
    assert_eq!(entry.header("via"), Some("1.1 shopper-gateway"));
}

#[tokio::test]
async fn invalid_correlation_id_is_replaced() {
    let world = World::start().await;
    for bad in ["a b", "\"}", &"x".repeat(200), ""] {
        let answer = world.send(world.get(&products("")).header("correlation-id", bad)).await;
        let id = answer.header("correlation-id").unwrap();
        assert_eq!(id.len(), 36, "{bad:?} became {id:?}");
    }
}

#[tokio::test]
async fn spoofed_headers_are_removed() {
    let world = World::start().await;
    let token = world.guest(PUBLIC_CLIENT).await.token();
    let lies = [
        "x-forwarded-for",
        "x_forwarded_host",
        "forwarded",
        "x-real-ip",
        "x-original-url",
        "x-shopper-gateway-internal",
        "x-http-method-override",
        "x-dw-http-method-override",
        "x_dw_http_method_override",
        "cf-connecting-ip",
        "true-client-ip",
        "fastly-client-ip",
        "x_client_ip",
        "ssl-client-verify",
        "ssl_client_cert",
        "x-ssl-client-cert",
        "remote-user",
        "sfdc_user_id",
        "sfdc-user-id",
        "x-sfdc-customer-id",
        "proxy-authorization",
    ];
    let mut request = world.get(&products("?ids=a&siteId=RefArch")).bearer_auth(token);
    for name in lies {
        request = request.header(name, "lie");
    }
    assert_eq!(world.send(request).await.status, 200);
    let entry = world.forwarded("shopper-products.getProducts").pop().unwrap();
    for (name, value) in &entry.headers {
        assert_ne!(value, "lie", "{name} arrived");
    }
}

#[tokio::test]
async fn documented_salesforce_headers_are_forwarded() {
    let world = World::start().await;
    let token = world.guest(PUBLIC_CLIENT).await.token();
    let documented =
        ["sfdc_dwsid", "sfdc_verbose", "sfdc_user_agent", "x-mobify", "accept-language", "x-merchants-own"];
    let mut request = world.get(&products("?ids=a&siteId=RefArch")).bearer_auth(token);
    for name in documented {
        request = request.header(name, "mine");
    }
    assert_eq!(world.send(request).await.status, 200);
    let entry = world.forwarded("shopper-products.getProducts").pop().unwrap();
    for name in documented {
        assert_eq!(entry.header(name), Some("mine"), "{name}");
    }
}

#[tokio::test]
async fn on_behalf_requires_permission() {
    let world = World::start().await;
    let token = world.guest(PUBLIC_CLIENT).await.token();
    for name in ["X-On-Behalf-Of", "x_on_behalf_of", "X-ON-BEHALF-OF-IDP", "x-on_behalf-of"] {
        let request =
            world.get(&products("?ids=a&siteId=RefArch")).bearer_auth(&token).header(name, "someone@example.com");
        assert_eq!(world.send(request).await.refusal(), (403, "caller_not_allowed"), "{name}");
    }
    assert!(world.forwarded("shopper-products.getProducts").is_empty());
}

#[tokio::test]
async fn large_body_streams_up_to_limit() {
    let world = World::with(|config| {
        let limits: toml::Table = "body = 200000".parse().unwrap();
        config.insert("limits".into(), limits.into());
    })
    .await;
    let token = world.guest(PUBLIC_CLIENT).await.token();
    let send = |length: usize| {
        let request = world.request(Method::POST, &baskets("?siteId=RefArch")).bearer_auth(&token);
        let body = format!("{{\"c_note\":\"{}\"}}", "n".repeat(length));
        world.send(request.header("content-type", "application/json").body(body))
    };
    assert_eq!(send(150_000).await.status, 200);
    assert_eq!(send(200_001).await.refusal(), (413, "request_too_large"));

    // The same without a declared length.
    let chunk = "a".repeat(50_000);
    let mut chunked = format!(
        "POST {} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nTransfer-Encoding: chunked\r\n\r\n",
        baskets("?siteId=RefArch")
    );
    for _ in 0..5 {
        chunked.push_str(&format!("{:x}\r\n{chunk}\r\n", chunk.len()));
    }
    chunked.push_str("0\r\n\r\n");
    let answer = world.raw(chunked.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("request_too_large"), "{answer}");
}

#[tokio::test]
async fn stop_finishes_requests_in_flight() {
    let world = World::start().await;
    let token = world.guest(PUBLIC_CLIENT).await.token();
    world.simulator.inject(Fault::on("api", Effect::Delay { ms: 1500 }));
    let request = world.get(&products("?ids=a&siteId=RefArch")).bearer_auth(&token);
    let (client, address) = (world.client.clone(), world.gateway.address);
    let in_flight = tokio::spawn(request.send());
    let simulator = world.simulator;
    eventually("the request is upstream", async || simulator.count("api", "shopper-products.getProducts") == 1).await;
    world.gateway.stop().await;
    let answer = in_flight.await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["connection"], "close");
    assert!(client.get(format!("http://{address}/")).send().await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn report_mode_forwards_no_system_secret() {
    let world = World::with(|config| {
        config.insert("policy".into(), "mode = \"report\"".parse::<toml::Table>().unwrap().into());
    })
    .await;
    let orders = "/checkout/orders/v1/organizations/f_ecom_zzrf_001/orders";
    let request = world.get(orders).basic_auth("bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb", Some("another-secret"));
    world.send(request).await;
    let forwarded = world.forwarded("orders.getOrders").pop().expect("forwarded, though refused");
    assert_eq!(forwarded.header("authorization"), None);
}

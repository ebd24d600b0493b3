//! An API whose name does not resolve, or that closes the connection within a large response.

use reqwest::Client;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::world::{World, baskets, products};

/// More bytes than any buffer on the way holds.
const LARGE: usize = 16 * 1024 * 1024;

fn set_report_mode(config: &mut toml::Table) {
    config.insert("policy".into(), "mode = 'report'".parse::<toml::Table>().unwrap().into());
}

/// A world in report mode whose first organization has its API at `url`.
async fn forwarding_to(url: &str) -> World {
    let url = url.to_owned();
    crate::world::install_cryptography();
    let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), salesforce_simulator::Seed::default())
        .await
        .unwrap();
    let gateway = crate::world::Gateway::start(&simulator.url(), |config| {
        set_report_mode(config);
        config["tenants"][0]["api"] = url.into();
    })
    .await;
    World { simulator, gateway, client: Client::builder().no_proxy().build().unwrap() }
}

#[tokio::test]
async fn unresolvable_api_host_returns_502() {
    // `.invalid` is reserved for this (RFC 6761, 6.4).
    let world = forwarding_to("http://api.shop.invalid").await;
    let search = products("?ids=a&siteId=RefArch");
    for request in [world.get(&search), world.post(&baskets("?siteId=RefArch")).body("{}")] {
        let answer = world.send(request).await;
        super::check("unresolved", &answer, (502, "upstream_unavailable"));
        assert!(!answer.text().contains("shop.invalid"), "{}", answer.text());
    }
    // SLAS has the same host, so operations that need it fail too, with an error that does not blame the caller.
    let login = world.guest(crate::world::PUBLIC_CLIENT).await;
    super::check("unresolved", &login, (503, "slas_unavailable"));
    let strange = world.send(world.get(&search).bearer_auth(world.mint(|_| {}))).await;
    assert!(strange.status.is_server_error(), "{}", strange.text());
    let enforcing = World::start().await;
    assert_eq!(enforcing.send(enforcing.get(&search).bearer_auth(enforcing.mint(|_| {}))).await.status, 200);
}

#[tokio::test]
async fn unresolvable_jwks_host_returns_503() {
    let world = forwarding_to("http://api.shop.invalid").await;
    let mut enforced = world;
    enforced
        .gateway
        .reload(|config| {
            config.remove("policy");
        })
        .unwrap();
    let token = enforced.mint(|_| {});
    let answer = enforced.send(enforced.get(&products("?ids=a&siteId=RefArch")).bearer_auth(token)).await;
    super::check("unresolved", &answer, (503, "keys_unavailable"));
}

/// An API that responds with the beginning of a large body, and then resets or closes the connection.
async fn api_that_breaks_off(chunked: bool, reset: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                let framing = if chunked {
                    format!("Transfer-Encoding: chunked\r\n\r\n{LARGE:x}\r\n")
                } else {
                    format!("Content-Length: {LARGE}\r\n\r\n")
                };
                let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{framing}").as_bytes()).await;
                // The reader may have closed the connection.
                let _ = stream.write_all(&vec![b'a'; LARGE / 2]).await;
                if reset {
                    stream.set_zero_linger().unwrap();
                }
            });
        }
    });
    url
}

#[tokio::test]
async fn truncated_large_response_never_looks_complete() {
    for chunked in [true, false] {
        for reset in [true, false] {
            let world = forwarding_to(&api_that_breaks_off(chunked, reset).await).await;
            let builder = || Client::builder().no_proxy();
            for client in [builder().build().unwrap(), builder().http2_prior_knowledge().build().unwrap()] {
                let url = format!("http://{}{}", world.gateway.address, products("?ids=a&siteId=RefArch"));
                let answer = client.get(url).send().await.unwrap();
                assert_eq!(answer.status(), 200);
                let body = answer.bytes().await;
                assert!(body.is_err(), "chunked: {chunked}, reset: {reset}: {} bytes as if whole", body.unwrap().len());
            }
        }
    }
}

/// An API that responds to the first request of a connection, reads the second, and closes. Reports both.
async fn api_that_closes_at_second_request() -> (String, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (seen, requests) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let seen = seen.clone();
            tokio::spawn(async move {
                for round in 0..2 {
                    let mut head = vec![0; 4096];
                    let Ok(read) = stream.read(&mut head).await else { return };
                    if read == 0 {
                        return;
                    }
                    let line = String::from_utf8_lossy(&head[..read]).lines().next().unwrap_or_default().to_owned();
                    if line.contains("oauth2") {
                        return;
                    }
                    // The test may have ended.
                    let _ = seen.send(line);
                    if round == 0 {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await;
                    }
                }
            });
        }
    });
    (url, requests)
}

#[tokio::test]
async fn post_on_closed_reused_connection_is_not_sent_again() {
    let (url, mut requests) = api_that_closes_at_second_request().await;
    let world = forwarding_to(&url).await;
    let search = products("?ids=a&siteId=RefArch");
    assert_eq!(world.send(world.get(&search)).await.status, 200);
    let order = world.send(world.post(&baskets("?siteId=RefArch")).body("{}")).await;
    super::check("closed", &order, (502, "upstream_unavailable"));
    let sent: Vec<String> = std::iter::from_fn(|| requests.try_recv().ok()).collect();
    assert_eq!(sent.iter().filter(|line| line.starts_with("POST")).count(), 1, "{sent:?}");
    // A GET may be retried on another connection.
    for _ in 0..2 {
        assert_eq!(world.send(world.get(&search)).await.status, 200);
    }
}

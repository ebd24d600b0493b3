//! TLS on both sides: the listener, and an API that is another gateway's listener.

pub mod authority;
mod callers;
mod counting_proxy;
mod reloads;

use std::{collections::BTreeMap, fs, path::Path, process::Command, time::Duration};

use reqwest::{Client, Response, StatusCode, Version};
use shopper_gateway::{app::App, config::Settings};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use self::{
    authority::{Authority, text},
    counting_proxy::CountingProxy,
};
use crate::world::{
    Gateway, PUBLIC_CLIENT, World, baskets, configuration, install_cryptography, login_target, products,
};

fn tls(config: &mut toml::Table, listener: toml::Table) {
    config["server"].as_table_mut().unwrap().insert("tls".into(), listener.into());
}

fn url(gateway: &Gateway, target: &str) -> String {
    format!("https://localhost:{}{target}", gateway.address.port())
}

/// Performs the deprecated guest login, and returns its token.
async fn guest(client: &Client, gateway: &Gateway) -> (Response, String) {
    let request = client.post(url(gateway, &login_target(PUBLIC_CLIENT))).body(r#"{"type":"guest"}"#);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let token = answer.headers()["authorization"].to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned();
    (answer, token)
}

#[tokio::test]
async fn listener_negotiates_http_1_and_http_2() {
    let authority = Authority::new();
    let world = World::with(|config| tls(config, authority.server().listener())).await;
    let either = authority.trusted().build().unwrap();
    let only_1 = authority.trusted().http1_only().build().unwrap();
    for (client, version) in [(either, Version::HTTP_2), (only_1, Version::HTTP_11)] {
        let (answer, token) = guest(&client, &world.gateway).await;
        assert_eq!(answer.version(), version);
        let basket = client.post(url(&world.gateway, &baskets("?siteId=RefArch"))).bearer_auth(token);
        let answer = basket.body(r#"{"currency":"USD"}"#).send().await.unwrap();
        assert_eq!((answer.version(), answer.status()), (version, StatusCode::OK));
        let entry = world.forwarded("shopper-baskets-v1.createBasket").pop().unwrap();
        assert_eq!(entry.body, r#"{"currency":"USD"}"#);
    }

    // The client checks the server's name, and the listener does not respond to plain HTTP.
    let stranger = Authority::new().trusted().build().unwrap();
    assert!(stranger.get(url(&world.gateway, "/")).send().await.unwrap_err().is_connect());
    assert!(!world.raw(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.contains("HTTP/1.1"));
}

/// The expiry of a certificate or revocation list, from `openssl`.
fn not_after(file: &Path) -> i64 {
    let is_list = fs::read_to_string(file).unwrap().contains("X509 CRL");
    let asked = if is_list { ["crl", "-nextupdate"] } else { ["x509", "-enddate"] };
    let end = format!("date +%s -d \"$(openssl {} -noout {} -in {} | cut -d= -f2)\"", asked[0], asked[1], text(file));
    let end = String::from_utf8(Command::new("sh").args(["-c", &end]).output().unwrap().stdout).unwrap();
    end.trim().parse().unwrap()
}

/// The series of certificates' expiry, by the labels `certificate` and `tenant`.
fn expiry_metrics(metrics: &str) -> BTreeMap<(String, String), i64> {
    let series = metrics.lines().filter_map(|line| {
        let (labels, end) =
            line.strip_prefix("shopper_gateway_certificate_expiry_timestamp_seconds{")?.split_once("} ")?;
        let values: Vec<_> = labels.split('"').skip(1).step_by(2).map(str::to_owned).collect();
        let [certificate, tenant] = values.as_slice() else { panic!("{line}") };
        Some(((certificate.clone(), tenant.clone()), end.parse().unwrap()))
    });
    series.collect()
}

#[tokio::test]
async fn metrics_show_expiry_of_all_certificates() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (issued, list) = (authority.server(), clients.revocation_list(None));
    let world = World::with(|config| {
        let mut listener = issued.listener();
        listener.insert("client_ca".into(), text(&clients.certificate).into());
        listener.insert("client_crl".into(), text(&list).into());
        tls(config, listener);
        let tenant = config["tenants"][0].as_table_mut().unwrap();
        tenant.insert("api_ca".into(), text(&authority.certificate).into());
    })
    .await;
    let expected = [
        (("listener", "none"), &issued.certificate),
        (("client_ca", "none"), &clients.certificate),
        (("client_crl", "none"), &list),
        (("api_ca", "f_ecom_zzrf_001"), &authority.certificate),
    ];
    let expected = expected.map(|((file, tenant), path)| ((file.to_owned(), tenant.to_owned()), not_after(path)));
    assert_eq!(expiry_metrics(&world.metrics().await), BTreeMap::from(expected));

    let plain = World::start().await;
    assert!(expiry_metrics(&plain.metrics().await).is_empty(), "without TLS nothing ends");
}

#[tokio::test]
async fn tls_versions_before_1_2_are_rejected() {
    const ALERT: u8 = 21;
    const HANDSHAKE: u8 = 22;
    const PROTOCOL_VERSION: u8 = 70;
    let authority = Authority::new();
    let world = World::with(|config| tls(config, authority.server().listener())).await;
    for (minor, expected) in [(1, ALERT), (2, ALERT), (3, HANDSHAKE)] {
        let mut stream = TcpStream::connect(world.gateway.address).await.unwrap();
        stream.write_all(&client_hello(minor)).await.unwrap();
        let mut answer = [0; 7];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer[0], expected, "TLS 1.{}: {answer:?}", minor - 1);
        if expected == ALERT {
            assert_eq!(answer[6], PROTOCOL_VERSION);
        }
    }
}

/// The ClientHello of a client with TLS up to 1.`minor - 1`, and ciphers of all these versions.
fn client_hello(minor: u8) -> Vec<u8> {
    let with_length = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
    let extension = |kind: u8, body: &[u8]| [&[0, kind][..], &with_length(body)].concat();
    let extensions = [
        extension(10, &with_length(&[0, 23])), // supported_groups: secp256r1
        extension(11, &[1, 0]),                // ec_point_formats: uncompressed
        extension(13, &with_length(&[4, 3])),  // signature_algorithms: ecdsa_secp256r1_sha256
        extension(23, &[]),                    // extended_master_secret
    ];
    let ciphers = [0xc0, 0x2b, 0xc0, 0x09]; // ECDHE-ECDSA with AES-128, in GCM and in CBC
    let hello =
        [&[3, minor][..], &[7; 32], &[0], &with_length(&ciphers), &[1, 0], &with_length(&extensions.concat())].concat();
    let message = [&[1, 0][..], &with_length(&hello)].concat();
    [&[22, 3, 1][..], &with_length(&message)].concat()
}

#[tokio::test]
async fn client_certificate_is_optional_and_must_be_of_known_authority() {
    let (authority, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let world = World::with(|config| {
        let mut listener = authority.server().listener();
        listener.insert("client_ca".into(), text(&clients.certificate).into());
        tls(config, listener);
    })
    .await;
    for http1 in [false, true] {
        let trusted = || if http1 { authority.trusted().http1_only() } else { authority.trusted() };
        guest(&trusted().build().unwrap(), &world.gateway).await;
        guest(&trusted().identity(clients.client().identity()).build().unwrap(), &world.gateway).await;

        let before = world.simulator.ledger().len();
        let stranger = trusted().identity(strangers.client().identity()).build().unwrap();
        let refused = stranger.post(url(&world.gateway, &login_target(PUBLIC_CLIENT))).body("{}").send().await;
        // The client gets the alert, unless the end of the connection overtakes it.
        assert!(refused.is_err(), "{refused:?}");
        let cut = "connections_closed_total{reason=\"handshake_failed\"}";
        crate::world::eventually("it is counted", async || {
            world.metrics().await.contains(&format!("{cut} {}", 1 + usize::from(http1)))
        })
        .await;
        assert_eq!(world.simulator.ledger().len(), before);
    }
}

/// The error of a gateway that starts with these TLS files.
async fn start_error(listener: toml::Table) -> String {
    install_cryptography();
    let mut config: toml::Table = configuration("http://127.0.0.1:9").parse().unwrap();
    tls(&mut config, listener);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    fs::write(&path, config.to_string()).unwrap();
    match Settings::load_with(&path, []) {
        Err(errors) => errors.to_string(),
        Ok(loaded) => App::build(loaded.settings).unwrap_err().to_string(),
    }
}

#[tokio::test]
async fn unusable_tls_files_are_reported_at_start() {
    let authority = Authority::new();
    let elsewhere = Authority::new();
    let (good, other) = (authority.server(), elsewhere.server());
    let folder = tempfile::tempdir().unwrap();
    let written = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&path, mode).unwrap();
        path
    };
    let begin = "-----BEGIN CERTIFICATE-----\n";
    let empty = written("empty.pem", b"");
    let noise = written("noise.pem", b"\xff\xfe no PEM");
    let cut = written("cut.pem", begin.as_bytes());
    let hollow = written("hollow.pem", format!("{begin}AAAA\n-----END CERTIFICATE-----\n").as_bytes());
    let hollow_key = written("hollow.key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    let missing = folder.path().join("missing.pem");

    let cases: [(&str, &[&Path]); 3] = [
        ("certificate", &[&missing, &empty, &noise, &cut, &hollow, &good.private_key, folder.path()]),
        ("private_key", &[&missing, &empty, &noise, &hollow_key, &good.certificate, &other.private_key]),
        ("client_ca", &[&missing, &empty, &noise, &cut, &hollow, &good.private_key]),
    ];
    for (key, files) in cases {
        for file in files {
            let mut listener = good.listener();
            listener.insert(key.into(), text(file).into());
            // The mode of the private key's file is not tested here.
            let own = fs::metadata(file).is_ok_and(|found| found.is_file());
            if own {
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
                fs::set_permissions(file, mode).unwrap();
            }
            let error = start_error(listener).await;
            let mismatch = error.starts_with("server.tls: certificate and private_key do not fit together: ");
            let named = error.contains(&format!("server.tls.{key}: ")) && !error.contains("do not fit");
            let of_a_pair = **file == *other.private_key || **file == *hollow || **file == *hollow_key;
            assert!(named || (mismatch && of_a_pair && key != "client_ca"), "{key} = {}: {error}", file.display());
            assert!(!error.contains("AAAA") && !error.contains("PRIVATE KEY"), "{error}");
        }
    }
}

/// A gateway with TLS in front of a simulator, and a proxy that counts the connections to it.
struct Fixture {
    authority: Authority,
    world: World,
    relay: CountingProxy,
}

impl Fixture {
    async fn start() -> Self {
        let authority = Authority::new();
        let world = World::with(|config| tls(config, authority.server().listener())).await;
        let relay = CountingProxy::to(world.gateway.address).await;
        Self { authority, world, relay }
    }

    /// A second gateway in front of the first, which trusts `authority`.
    async fn front(&self, authority: &Authority, change: impl FnOnce(&mut toml::Table)) -> Gateway {
        self.front_at("localhost", authority, change).await
    }

    /// The same with this form of the host name.
    async fn front_at(&self, host: &str, authority: &Authority, change: impl FnOnce(&mut toml::Table)) -> Gateway {
        let api = format!("https://{host}:{}", self.relay.address.port());
        let simulator = self.world.simulator.url();
        Gateway::start(&simulator, |config| {
            for tenant in config["tenants"].as_array_mut().unwrap() {
                let tenant = tenant.as_table_mut().unwrap();
                tenant.insert("api".into(), api.clone().into());
                tenant.insert("api_ca".into(), text(&authority.certificate).into());
            }
            change(config);
        })
        .await
    }

    async fn ready(&self, gateway: &Gateway) -> bool {
        let readyz = self.world.client.get(format!("http://{}/readyz", gateway.admin)).send().await.unwrap();
        readyz.status() == StatusCode::OK
    }
}

#[tokio::test]
async fn api_behind_tls_is_verified_and_shares_connections() {
    let behind = Fixture::start().await;
    // Each worker thread has its own connections.
    let one_thread = |config: &mut toml::Table| {
        config["server"].as_table_mut().unwrap().insert("threads".into(), 1.into());
    };
    let front = behind.front(&behind.authority, one_thread).await;
    crate::world::eventually("the front is ready", async || behind.ready(&front).await).await;
    let simulator = &behind.world.simulator;
    let token = behind.world.mint(|spec| {
        spec.scopes = Some(vec!["sfcc.shopper-products".into(), "sfcc.shopper-baskets-orders.rw".into()]);
    });
    let client = Client::builder().no_proxy().build().unwrap();
    let basket = || {
        let request = client.post(format!("http://{}{}", front.address, baskets("?siteId=RefArch")));
        request.bearer_auth(&token).header("cookie", "a=1").header("cookie", "b=2").body(r#"{"currency":"USD"}"#)
    };

    let read =
        || client.get(format!("http://{}{}", front.address, products("?ids=a&siteId=RefArch"))).bearer_auth(&token);

    let before = behind.relay.connections();
    let answer = basket().send().await.unwrap();
    assert_eq!((answer.version(), answer.status()), (Version::HTTP_11, StatusCode::OK));
    assert!(!answer.headers().contains_key("transfer-encoding") || !answer.headers().contains_key("content-length"));
    let entry = behind.world.forwarded("shopper-baskets-v1.createBasket").pop().unwrap();
    assert_eq!((entry.body.as_str(), entry.header("cookie")), (r#"{"currency":"USD"}"#, Some("a=1; b=2")));
    assert_eq!(entry.header("host"), Some(simulator.address().to_string().as_str()));

    // Requests one after another, and at once, are streams of one connection or of a few.
    for _ in 0..20 {
        assert_eq!(read().send().await.unwrap().status(), 200);
    }
    assert_eq!(behind.relay.connections() - before, 1);
    let at_once = futures::future::join_all((0..60).map(|_| read().send())).await;
    assert!(at_once.into_iter().all(|answer| answer.unwrap().status() == 200));
    assert!(behind.relay.connections() - before <= 4, "{} connections", behind.relay.connections() - before);
}

#[tokio::test]
async fn api_host_with_trailing_dot_is_verified_without_dot() {
    let behind = Fixture::start().await;
    let front = behind.front_at("localhost.", &behind.authority, |_| {}).await;
    crate::world::eventually("the front is ready", async || behind.ready(&front).await).await;
    let client = Client::builder().no_proxy().build().unwrap();
    let request = client.get(format!("http://{}{}", front.address, products("?ids=a&siteId=RefArch")));
    assert_eq!(request.bearer_auth(behind.world.mint(|_| {})).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn unverified_api_gets_no_request() {
    let behind = Fixture::start().await;
    let stranger = Authority::new();
    let front = behind.front(&stranger, |_| {}).await;
    let client = Client::builder().no_proxy().build().unwrap();
    let send = async |target: &str| {
        let request = client.get(format!("http://{}{target}", front.address));
        let answer = request.bearer_auth(behind.world.mint(|_| {})).send().await.unwrap();
        let code = answer.headers()["x-shopper-gateway-error"].to_str().unwrap().to_owned();
        (answer.status().as_u16(), code)
    };
    let before = behind.world.simulator.ledger().len();
    assert_eq!(send(&products("/a1")).await, (503, "keys_unavailable".to_owned()));
    let jwks = "/shopper/auth/v1/organizations/f_ecom_zzrf_001/oauth2/jwks";
    assert_eq!(send(jwks).await, (502, "upstream_unavailable".to_owned()));
    assert!(!behind.ready(&front).await);
    let arrived = behind.world.simulator.ledger().split_off(before);
    assert!(arrived.iter().all(|entry| entry.service != "api"), "{arrived:?}");
}

#[tokio::test]
async fn connections_are_not_shared_across_certificate_authorities() {
    let behind = Fixture::start().await;
    let stranger = Authority::new();
    let front = behind
        .front(&behind.authority, |config| {
            let other = config["tenants"][1].as_table_mut().unwrap();
            other.insert("api_ca".into(), text(&stranger.certificate).into());
        })
        .await;
    let client = Client::builder().no_proxy().build().unwrap();
    let jwks = async |organization: &str| {
        let target = format!("/shopper/auth/v1/organizations/{organization}/oauth2/jwks");
        client.get(format!("http://{}{target}", front.address)).send().await.unwrap().status().as_u16()
    };
    assert_eq!(jwks("f_ecom_zzrf_001").await, 200);
    assert_eq!(jwks("f_ecom_zzrf_002").await, 502);
    assert_eq!(jwks("f_ecom_zzrf_001").await, 200);
}

#[tokio::test]
async fn unfinished_handshakes_do_not_block_others() {
    let authority = Authority::new();
    let world = World::with(|config| tls(config, authority.server().listener())).await;
    let mut idle = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(world.gateway.address).await.unwrap();
        stream.write_all(&client_hello(3)[..20]).await.unwrap();
        idle.push(stream);
    }
    let answered = tokio::time::timeout(Duration::from_secs(20), async {
        guest(&authority.trusted().build().unwrap(), &world.gateway).await
    });
    answered.await.unwrap();
    drop(idle);
}

//! Trusted systems that authenticate by a client certificate.

use std::sync::Arc;

use reqwest::{Client, RequestBuilder};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
        version::{TLS12, TLS13},
    },
};

use super::{
    authority::{Authority, Issued, text},
    tls, url,
};
use crate::{
    callers::CALLER_SECRET,
    world::{CALLER_CLIENT, LOGIN, ORGANIZATION, World, eventually, products},
};

const SUBJECT: &str = "/C=DE/O=Example, Inc./CN=Zoë's orders";
const NAME: &str = "URI:spiffe://example.com/oms";
const OWN_CLIENT: &str = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa";

/// A gateway with TLS that also authenticates callers by client certificates.
struct Fixture {
    authority: Authority,
    clients: Authority,
    world: World,
}

impl Fixture {
    async fn start() -> Self {
        let (authority, clients) = (Authority::new(), Authority::new());
        let world = World::with(|config| {
            let mut listener = authority.server().listener();
            listener.insert("client_ca".into(), text(&clients.certificate).into());
            tls(config, listener);
            config["tenants"][0]["account_manager"]["scopes"] = toml::Value::Array(vec!["sfcc.orders".into()]);
            let callers = config["callers"].as_array_mut().unwrap();
            for (name, key, value) in [
                ("by-subject", "certificate_subject", r"cn=Zoë's orders,O=Example\, Inc.,C=DE"),
                ("by-name", "certificate_san", NAME),
            ] {
                let mut caller = callers[0].as_table().unwrap().clone();
                caller.remove("account_manager_client_id");
                caller.insert("name".into(), name.into());
                caller.insert(key.into(), value.into());
                caller.insert(
                    "operations".into(),
                    toml::Value::Array(vec!["orders.*".into(), "products.*".into(), "shopper-*".into()]),
                );
                callers.push(caller.into());
            }
        })
        .await;
        Self { authority, clients, world }
    }

    /// A client of each version of HTTP with this client certificate.
    fn clients_with(&self, certificate: &Issued) -> [Client; 2] {
        let with = || self.authority.trusted().identity(certificate.identity());
        [with().build().unwrap(), with().http1_only().build().unwrap()]
    }

    fn get(&self, client: &Client, target: &str) -> RequestBuilder {
        client.get(url(&self.world.gateway, target))
    }
}

pub(super) fn orders() -> String {
    format!("/checkout/orders/v1/organizations/{ORGANIZATION}/orders?siteId=RefArch")
}

fn search() -> String {
    products("?ids=a&siteId=RefArch")
}

#[tokio::test]
async fn client_certificate_authenticates_its_caller() {
    let certified = Fixture::start().await;
    let (world, clients) = (&certified.world, &certified.clients);
    for (caller, certificate) in [
        ("by-subject", clients.client_named(SUBJECT, "DNS:other.example")),
        ("by-name", clients.client_named("/CN=other", &format!("DNS:other.example, {NAME}"))),
    ] {
        for client in certified.clients_with(&certificate) {
            world.simulator.clear_ledger();
            let answer = world.send(certified.get(&client, &orders())).await;
            assert_eq!(answer.status, 200, "{caller}: {}", answer.text());
            assert_eq!(answer.header("authorization"), None, "the gateway's own token stays here");
            let claims = crate::on_behalf::claims(&world.forwarded("orders.getOrders")[0]);
            assert!(claims.contains(OWN_CLIENT) && claims.contains("sfcc.orders"), "{claims}");

            // The scopes are those of the gateway's own client, independent of the caller's permissions.
            let catalogs = format!("/product/products/v1/organizations/{ORGANIZATION}/products/1");
            let answer = world.send(certified.get(&client, &catalogs)).await;
            assert_eq!(answer.refusal(), (403, "scope_missing"));

            let answer = world.send(certified.get(&client, &search()).header("X-On-Behalf-Of", LOGIN)).await;
            assert_eq!(answer.status, 200, "{caller}: {}", answer.text());
            let claims = crate::on_behalf::claims(&world.forwarded("shopper-products.getProducts")[0]);
            assert!(claims.contains("tsob:") && claims.contains(LOGIN), "{claims}");
        }
        // A request is counted when its answer has been sent.
        let told = async || world.metrics().await.contains(&format!("caller=\"{caller}\""));
        eventually("the caller's name is told", told).await;
    }
    let exchanges = world.simulator.count("account_manager", "access_token");
    assert!(exchanges <= 1, "the own token is got once: {exchanges}");
}

#[tokio::test]
async fn certificate_of_no_or_several_callers_is_rejected() {
    let certified = Fixture::start().await;
    let (world, clients) = (&certified.world, &certified.clients);
    for certificate in [
        clients.client_named("/CN=nobody", "DNS:nobody.example"),
        // A certificate that matches two callers.
        clients.client_named(SUBJECT, NAME),
        // A part of the name, another order, and another kind of name.
        clients.client_named("/CN=Zoë's orders", "DNS:nobody.example"),
        clients.client_named("/CN=Zoë's orders/O=Example, Inc./C=DE", "DNS:nobody.example"),
        clients.client_named("/CN=nobody", "URI:spiffe://example.com/OMS"),
        clients.client_named("/CN=nobody", "URI:spiffe://example.com/oms/"),
        clients.client_named(r"/CN=URI:spiffe:\/\/example.com\/oms", "DNS:nobody.example"),
    ] {
        for client in certified.clients_with(&certificate) {
            let answer = world.send(certified.get(&client, &orders())).await;
            assert_eq!(answer.refusal(), (401, "caller_rejected"));
            let answer = world.send(certified.get(&client, &search()).header("X-On-Behalf-Of", LOGIN)).await;
            assert_eq!(answer.refusal(), (401, "caller_rejected"));
            let answer = world.send(certified.get(&client, &search())).await;
            assert_eq!(answer.refusal(), (401, "token_missing"), "a shopper's request is no caller's");
        }
    }
    let without = certified.authority.trusted().build().unwrap();
    assert_eq!(world.send(certified.get(&without, &orders())).await.refusal(), (401, "token_missing"));
    assert_eq!(world.simulator.count("account_manager", "access_token"), 0);
    assert!(world.forwarded("orders.getOrders").is_empty());
}

#[tokio::test]
async fn authorization_header_takes_precedence_over_certificate() {
    let certified = Fixture::start().await;
    let world = &certified.world;
    let certificate = certified.clients.client_named(SUBJECT, "DNS:other.example");
    let shopper = world.mint(|_| {});
    let of_caller = world.simulator.mint_account_manager_token(CALLER_CLIENT, &["sfcc.products"], "zzrf_001", 600);
    let nobody = world.simulator.mint_account_manager_token("nobody", &["sfcc.orders"], "zzrf_001", 600);
    for client in certified.clients_with(&certificate) {
        let get = || certified.get(&client, &orders());
        for (request, refusal) in [
            (get().bearer_auth(&shopper), (403, "token_kind_wrong")),
            (get().bearer_auth(&nobody), (401, "caller_rejected")),
            (get().bearer_auth(&of_caller), (403, "scope_missing")),
            (get().basic_auth(CALLER_CLIENT, Some("wrong")), (401, "caller_rejected")),
            (get().basic_auth("nobody", Some("wrong")), (401, "caller_rejected")),
            (get().header("authorization", "Bearer"), (401, "token_invalid")),
            (get().header("authorization", ""), (401, "token_invalid")),
            (get().header("authorization", "Negotiate abc"), (401, "token_invalid")),
            (get().bearer_auth(&shopper).header("X-On-Behalf-Of", LOGIN), (403, "caller_not_allowed")),
        ] {
            let answer = world.send(request).await;
            assert_eq!(answer.refusal(), refusal, "{}", answer.text());
        }
        // A shopper token on a connection with a client certificate is treated as a shopper's.
        let answer = world.send(certified.get(&client, &search()).bearer_auth(&shopper)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let forwarded = world.forwarded("shopper-products.getProducts").pop().unwrap();
        assert_eq!(forwarded.header("authorization"), Some(format!("Bearer {shopper}").as_str()));
        let answer = world.send(get().basic_auth(CALLER_CLIENT, Some(CALLER_SECRET))).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let claims = crate::on_behalf::claims(&world.forwarded("orders.getOrders").pop().unwrap());
        assert!(claims.contains(CALLER_CLIENT), "{claims}");
    }
}

#[tokio::test]
async fn resumed_tls_session_keeps_its_caller() {
    let certified = Fixture::start().await;
    let certificate = certified.clients.client_named(SUBJECT, "DNS:other.example");
    for version in [&TLS13, &TLS12] {
        let known = connector(&certified.authority, Some(&certificate), version);
        let unknown = connector(&certified.authority, None, version);
        for (connector, status) in [(&known, "200"), (&unknown, "401")] {
            let mut resumed = 0;
            for _ in 0..3 {
                let (kind, answer) = ask(connector, &certified.world).await;
                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{version:?} {kind:?}: {answer}");
                resumed += usize::from(kind == HandshakeKind::Resumed);
            }
            assert_eq!(resumed, 2, "{version:?}: the test resumes");
        }
    }
}

/// A client that resumes its TLS sessions.
pub(super) fn connector(
    authority: &Authority,
    certificate: Option<&Issued>,
    version: &'static SupportedProtocolVersion,
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&authority.certificate).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_protocol_versions(&[version]).with_root_certificates(roots);
    let config = match certificate {
        Some(Issued { certificate, private_key }) => {
            let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(private_key).unwrap()).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    TlsConnector::from(Arc::new(config))
}

/// One system operation on a connection of its own.
async fn ask(connector: &TlsConnector, world: &World) -> (HandshakeKind, String) {
    let stream = TcpStream::connect(world.gateway.address).await.unwrap();
    let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
    let request = format!("GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", orders());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The way in which the gateway closes is not tested here.
    let _ = stream.read_to_end(&mut answer).await;
    (stream.get_ref().1.handshake_kind().unwrap(), String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn revoked_certificate_fails_handshake_after_reload() {
    let (authority, clients, others) = (Authority::new(), Authority::new(), Authority::new());
    let listener = |list: &std::path::Path| {
        let mut listener = authority.server().listener();
        listener.insert("client_ca".into(), text(&clients.certificate).into());
        listener.insert("client_crl".into(), text(list).into());
        listener
    };
    let list = clients.revocation_list(None);
    let mut world = World::with(|config| {
        tls(config, listener(&list));
        config["tenants"][0]["account_manager"]["scopes"] = toml::Value::Array(vec!["sfcc.orders".into()]);
        let caller = config["callers"][0].as_table_mut().unwrap();
        caller.remove("account_manager_client_id");
        caller.insert("certificate_san".into(), NAME.into());
    })
    .await;
    let names = format!("DNS:other.example, {NAME}");
    let (kept, revoked) = (clients.client_named("/CN=kept", &names), clients.client_named("/CN=revoked", &names));
    let ask = async |world: &World, certificate: &Issued| {
        // A new client each time, so that no earlier connection is used.
        let client = authority.trusted().identity(certificate.identity()).http1_only().build().unwrap();
        client.get(url(&world.gateway, &orders())).send().await.map(|answer| answer.status().as_u16()).ok()
    };
    assert_eq!((ask(&world, &kept).await, ask(&world, &revoked).await), (Some(200), Some(200)));

    let list = clients.revocation_list(Some(&revoked));
    world.gateway.reload(|config| tls(config, listener(&list))).unwrap();
    assert_eq!((ask(&world, &kept).await, ask(&world, &revoked).await), (Some(200), None));
    let without = authority.trusted().build().unwrap();
    let answer = without.get(url(&world.gateway, &orders())).send().await.unwrap();
    assert_eq!(answer.status(), 401, "a client without a certificate is served as before");

    // A revocation list of another authority covers no certificate; an unreadable one changes nothing.
    world.gateway.reload(|config| tls(config, listener(&others.revocation_list(None)))).unwrap();
    assert_eq!(ask(&world, &kept).await, None);
    let noise = std::env::temp_dir().join(format!("no-list-{}", std::process::id()));
    std::fs::write(&noise, "nothing of use").unwrap();
    let refused = world.gateway.reload(|config| tls(config, listener(&noise))).unwrap_err().to_string();
    std::fs::remove_file(&noise).unwrap();
    assert!(refused.contains("server.tls.client_crl"), "{refused}");
}

//! Connections to Redis, and a distinct error for each cause of failure.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    time::Duration,
};

use redis::cmd;
use shopper_gateway::{
    config::{RedisAddress, RedisLogin, RedisStore as Configured, RedisTls, RedisTopology},
    observability::metrics::Metrics,
    store::{LookupResult, Outage, SessionStore, UnavailableCause as Cause, redis::RedisStore},
};

use crate::{
    redis::Redis,
    store::{configured, login, redis_store, session, tls_trusting},
    tls::authority::{Authority, Issued, text},
    world::{eventually, install_cryptography},
};

/// A host that has no address: RFC 2606, section 2.
const UNROUTABLE: &str = "no-such-host.invalid";

fn tcp(host: &str, port: u16) -> RedisAddress {
    RedisAddress::Tcp(host.into(), port)
}

fn single_server(address: RedisAddress) -> Configured {
    configured(RedisTopology::Standalone(address))
}

fn behind_sentinels(sentinels: Vec<RedisAddress>, login: RedisLogin, tls: Option<RedisTls>) -> Configured {
    configured(RedisTopology::Sentinel { sentinels, master: "shop".into(), login, tls })
}

/// A closed port.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The cause for which a store with these settings is unusable.
async fn outage(settings: &Configured) -> Option<Outage> {
    let store = redis_store(settings);
    let _ = store.find(&[1; 32]).await;
    store.state().outage
}

async fn cause(settings: &Configured) -> Option<Cause> {
    outage(settings).await.map(|outage| outage.cause)
}

async fn assert_connects(settings: &Configured) {
    let store = redis_store(settings);
    eventually("the store takes a session", async || store.insert(session(1), 1).await.is_ok()).await;
    assert!(matches!(store.find(&[1; 32]).await.unwrap(), LookupResult::Session(..)));
}

/// A server with TLS at a port of its own, beside the plain one.
async fn tls_server(authority: &Authority, issued: &Issued, client_certificates: &str) -> (Redis, u16) {
    let port = free_port();
    let arguments = tls_arguments(authority, issued, port, client_certificates);
    (Redis::start_with(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await, port)
}

fn tls_arguments(authority: &Authority, issued: &Issued, port: u16, client_certificates: &str) -> Vec<String> {
    let [certificate, key, ca] =
        [&issued.certificate, &issued.private_key, &authority.certificate].map(|path| text(path));
    let port = port.to_string();
    let pairs = [
        ("--tls-port", port.as_str()),
        ("--tls-cert-file", certificate),
        ("--tls-key-file", key),
        ("--tls-ca-cert-file", ca),
        ("--tls-auth-clients", client_certificates),
    ];
    pairs.iter().flat_map(|(name, value)| [(*name).to_owned(), (*value).to_owned()]).collect()
}

#[tokio::test]
async fn wrong_missing_or_unexpected_password_is_reported() {
    let guarded = Redis::start_with(&["--requirepass", "right"]).await;
    let of = |login: RedisLogin| Configured { login, ..single_server(guarded.address()) };
    assert_connects(&of(login(None, "right"))).await;
    assert_eq!(cause(&of(login(None, "wrong"))).await, Some(Cause::PasswordRefused));
    assert_eq!(cause(&of(login(Some("nobody"), "right"))).await, Some(Cause::PasswordRefused));
    assert_eq!(cause(&of(RedisLogin::default())).await, Some(Cause::PasswordMissing));
    let open = Redis::start().await;
    let of = Configured { login: login(None, "right"), ..single_server(open.address()) };
    assert_eq!(cause(&of).await, Some(Cause::PasswordUnexpected));
    let cluster = Redis::cluster().await;
    cluster.run::<()>(cmd("CONFIG").arg("SET").arg("requirepass").arg("right")).await;
    let of = |login: RedisLogin| Configured { login, ..configured(RedisTopology::Cluster(vec![cluster.address()])) };
    assert_connects(&of(login(None, "right"))).await;
    assert_eq!(cause(&of(login(None, "wrong"))).await, Some(Cause::PasswordRefused));
    assert_eq!(cause(&of(RedisLogin::default())).await, Some(Cause::PasswordMissing));
}

#[tokio::test]
async fn unreachable_unknown_or_wrong_kind_of_address_is_reported() {
    let redis = Redis::start().await;
    let cluster = Redis::cluster().await;
    assert_eq!(cause(&single_server(tcp("127.0.0.1", free_port()))).await, Some(Cause::ConnectionRefused));
    assert_eq!(cause(&single_server(tcp(UNROUTABLE, 6379))).await, Some(Cause::NameUnresolved));
    let of_cluster = |address: RedisAddress| configured(RedisTopology::Cluster(vec![address]));
    assert_eq!(cause(&of_cluster(tcp("127.0.0.1", free_port()))).await, Some(Cause::ConnectionRefused));
    assert_eq!(cause(&of_cluster(tcp(UNROUTABLE, 6379))).await, Some(Cause::NameUnresolved));
    assert_eq!(cause(&of_cluster(redis.address())).await, Some(Cause::TopologyWrong));
    assert_eq!(
        cause(&Configured { database: 1, ..single_server(cluster.address()) }).await,
        Some(Cause::TopologyWrong)
    );
    assert_eq!(
        cause(&Configured { database: 999, ..single_server(redis.address()) }).await,
        Some(Cause::DatabaseUnknown)
    );
    assert_eq!(
        cause(&behind_sentinels(vec![redis.address()], RedisLogin::default(), None)).await,
        Some(Cause::NotSentinel)
    );
}

#[tokio::test]
async fn silent_server_times_out() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let settings = Configured {
        timeout: Duration::from_millis(50),
        login: login(None, "x"),
        ..single_server(tcp("127.0.0.1", listener.local_addr().unwrap().port()))
    };
    let store = redis_store(&settings);
    eventually("the store says so", async || {
        let _ = store.find(&[1; 32]).await;
        store.state().outage == Some(Outage::of_redis(Cause::TimedOut))
    })
    .await;
}

#[tokio::test]
async fn server_with_too_many_connections_is_reported() {
    let redis = Redis::start().await;
    let client = redis::Client::open(redis.url()).unwrap();
    let mut held = client.get_multiplexed_async_connection().await.unwrap();
    cmd("CONFIG").arg("SET").arg("maxclients").arg(1).query_async::<()>(&mut held).await.unwrap();
    assert_eq!(cause(&single_server(redis.address())).await, Some(Cause::TooManyClients));
}

#[tokio::test]
async fn untrusted_or_misnamed_certificate_is_reported() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (redis, port) = tls_server(&authority, &authority.server(), "no").await;
    let of = |host: &str, port: u16, authority: &Authority| Configured {
        tls: Some(tls_trusting(authority)),
        ..single_server(tcp(host, port))
    };
    assert_connects(&of("localhost", port, &authority)).await;
    assert_eq!(cause(&of("localhost", port, &stranger)).await, Some(Cause::CertificateUntrusted));
    assert_eq!(
        cause(&of("127.0.0.2", port, &authority)).await,
        Some(Cause::ConnectionRefused),
        "control: bound to one"
    );
    let quick = |settings: Configured| Configured { timeout: Duration::from_millis(50), ..settings };
    let without_tls = redis_store(&quick(of("localhost", redis.port, &authority)));
    eventually("the store says that no TLS is spoken there", async || {
        let _ = without_tls.find(&[1; 32]).await;
        without_tls.state().outage == Some(Outage::of_redis(Cause::TlsNotSpoken))
    })
    .await;
    let with_tls = redis_store(&quick(single_server(tcp("localhost", port))));
    eventually("the store says that a TLS port closes", async || {
        let _ = with_tls.find(&[1; 32]).await;
        with_tls.state().outage == Some(Outage::of_redis(Cause::ConnectionLost))
    })
    .await;
    let elsewhere = authority.server_for("elsewhere", "DNS:redis.example");
    let (_elsewhere, port) = tls_server(&authority, &elsewhere, "no").await;
    assert_eq!(cause(&of("localhost", port, &authority)).await, Some(Cause::CertificateName));
    let in_cluster = |port: u16, authority: &Authority| Configured {
        tls: Some(tls_trusting(authority)),
        ..configured(RedisTopology::Cluster(vec![tcp("localhost", port)]))
    };
    assert_eq!(cause(&in_cluster(port, &authority)).await, Some(Cause::CertificateName));
    assert_eq!(cause(&in_cluster(port, &stranger)).await, Some(Cause::CertificateUntrusted));
}

#[tokio::test]
async fn client_certificate_is_read_again_for_each_connection() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (mut redis, port) = tls_server(&authority, &authority.server(), "yes").await;
    let with = |issued: Option<(PathBuf, PathBuf)>| {
        let tls = RedisTls { client_certificate: issued, ..tls_trusting(&authority) };
        Configured { tls: Some(tls), ..single_server(tcp("localhost", port)) }
    };
    let (own, other) = (authority.client(), stranger.client());
    let files = |issued: &Issued| Some((issued.certificate.clone(), issued.private_key.clone()));
    assert_connects(&with(files(&own))).await;
    for refused in [with(None), with(files(&other))] {
        let store = redis_store(&refused);
        eventually("the store says that its certificate is refused", async || {
            let _ = store.find(&[1; 32]).await;
            store.state().outage == Some(Outage::of_redis(Cause::ClientCertificateRefused))
        })
        .await;
    }

    // A certificate that is replaced in its place, as cert-manager does, is used by the next connection.
    let folder = tempfile::tempdir().unwrap();
    let place = (folder.path().join("client.pem"), folder.path().join("client.key"));
    let put = |issued: &Issued| {
        std::fs::copy(&issued.certificate, &place.0).unwrap();
        std::fs::copy(&issued.private_key, &place.1).unwrap();
    };
    put(&other);
    let store = redis_store(&with(Some(place.clone())));
    assert!(store.find(&[1; 32]).await.is_err());
    put(&own);
    eventually("the store is reached", async || store.find(&[1; 32]).await.is_ok()).await;

    // Files as Windows editors write them.
    let windows = |file: &Path, name: &str| {
        let text = format!("\u{feff}{}", std::fs::read_to_string(file).unwrap().replace('\n', "\r\n"));
        std::fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name)
    };
    let pair = (windows(&own.certificate, "windows.pem"), windows(&own.private_key, "windows.key"));
    let tls = RedisTls { ca: Some(windows(&authority.certificate, "windows-ca.pem")), client_certificate: Some(pair) };
    assert_connects(&Configured { tls: Some(tls), ..single_server(tcp("localhost.", port)) }).await;
    redis.kill();
}

#[test]
fn unusable_file_error_names_config_key() {
    install_cryptography();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (own, other) = (authority.client(), stranger.client());
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name)
    };
    let (empty, missing) = (write("empty", ""), folder.path().join("missing"));
    let broken = write("broken", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let good = authority.certificate.clone();
    let pair = |certificate: &Path, key: &Path| Some((certificate.to_owned(), key.to_owned()));
    for (ca, client_certificate, key) in [
        (&empty, None, "store.ca: "),
        (&missing, None, "store.ca: "),
        (&broken, None, "store.ca: "),
        (&good, pair(&empty, &own.private_key), "store.certificate: "),
        (&good, pair(&own.certificate, &empty), "store.private_key: "),
        (&good, pair(&own.certificate, &other.private_key), "store.private_key: "),
    ] {
        let tls = RedisTls { ca: Some(ca.clone()), client_certificate };
        let settings = Configured { tls: Some(tls), ..single_server(tcp("localhost", 1)) };
        let error = RedisStore::new(&settings, &Metrics::new("test", "test").unwrap()).unwrap_err().to_string();
        assert!(error.starts_with(key), "{error}");
    }
    let fits = RedisTls { ca: Some(good), client_certificate: pair(&own.certificate, &own.private_key) };
    redis_store(&Configured { tls: Some(fits), ..single_server(tcp("localhost", 1)) });
}

#[tokio::test]
async fn unix_socket_works_and_missing_one_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("redis.sock");
    let _redis = Redis::start_with(&["--unixsocket", text(&path), "--unixsocketperm", "700"]).await;
    let of = |path: &Path| single_server(RedisAddress::Unix(path.to_owned()));
    assert_connects(&Configured { database: 2, ..of(&path) }).await;
    assert_eq!(cause(&of(&folder.path().join("other.sock"))).await, Some(Cause::SocketMissing));
    std::fs::write(folder.path().join("file"), "").unwrap();
    assert_eq!(cause(&of(&folder.path().join("file"))).await, Some(Cause::ConnectionRefused));
}

#[tokio::test]
async fn ipv6_works_standalone_in_cluster_and_through_sentinels() {
    let loopback = ["--bind", "127.0.0.1 ::1"];
    let redis = Redis::start_with(&loopback).await;
    assert_connects(&single_server(tcp("::1", redis.port))).await;
    let port = redis.port;
    let sentinel = Redis::sentinel_with(&redis, "bind 127.0.0.1 ::1\nprotected-mode no").await;
    assert_connects(&behind_sentinels(vec![tcp("::1", sentinel.port)], RedisLogin::default(), None)).await;
    let named = Redis::sentinel_with(&redis, &format!("sentinel monitor six ::1 {port} 1")).await;
    let mut settings = behind_sentinels(vec![named.address()], RedisLogin::default(), None);
    if let RedisTopology::Sentinel { master, .. } = &mut settings.topology {
        *master = "six".into();
    }
    assert_connects(&settings).await;
    let cluster = Redis::cluster_with(&["--bind", "::1 127.0.0.1", "--cluster-announce-ip", "::1"]).await;
    assert_connects(&configured(RedisTopology::Cluster(vec![tcp("::1", cluster.port)]))).await;
}

#[tokio::test]
async fn sentinels_with_password_are_authenticated() {
    let master = Redis::start_with(&["--requirepass", "of-redis"]).await;
    let shop = "sentinel auth-pass shop of-redis";
    let open = Redis::sentinel_with(&master, shop).await;
    let same = Redis::sentinel_with(&master, &format!("{shop}\nrequirepass of-redis")).await;
    let own = Redis::sentinel_with(&master, &format!("{shop}\nrequirepass of-sentinel")).await;
    let rules = "user gateway on >of-user +sentinel|get-master-addr-by-name +client +auth\nuser default off";
    let user = Redis::sentinel_with(&master, &format!("{shop}\n{rules}")).await;
    let of = |sentinel: &Redis, own: RedisLogin| Configured {
        login: login(None, "of-redis"),
        ..behind_sentinels(vec![sentinel.address()], own, None)
    };
    assert_connects(&of(&open, RedisLogin::default())).await;
    assert_connects(&of(&same, RedisLogin::default())).await;
    assert_connects(&of(&own, login(None, "of-sentinel"))).await;
    assert_connects(&of(&user, login(Some("gateway"), "of-user"))).await;
    let refused = Some(Outage::of_sentinel(Cause::PasswordRefused));
    assert_eq!(outage(&of(&own, login(None, "wrong"))).await, refused);
    assert_eq!(outage(&of(&own, RedisLogin::default())).await, refused, "the password of Redis");
    let mut none = of(&own, RedisLogin::default());
    none.login = RedisLogin::default();
    assert_eq!(outage(&none).await, Some(Outage::of_sentinel(Cause::PasswordMissing)));
    let of_redis = Configured { login: login(None, "wrong"), ..of(&open, RedisLogin::default()) };
    assert_eq!(outage(&of_redis).await, Some(Outage::of_redis(Cause::PasswordRefused)), "the Sentinel takes all");
}

#[tokio::test]
async fn unreachable_sentinels_and_unknown_master_are_reported() {
    let master = Redis::start().await;
    let sentinel = Redis::sentinel(&master).await;
    let of = |sentinels: Vec<RedisAddress>, name: &str| {
        let mut settings = behind_sentinels(sentinels, RedisLogin::default(), None);
        if let RedisTopology::Sentinel { master, .. } = &mut settings.topology {
            *master = name.into();
        }
        settings
    };
    let down = || tcp("127.0.0.1", free_port());
    assert_connects(&of(vec![down(), tcp(UNROUTABLE, 1), sentinel.address()], "shop")).await;
    assert_eq!(outage(&of(vec![sentinel.address()], "other")).await, Some(Outage::of_sentinel(Cause::MasterUnknown)));
    assert_eq!(
        outage(&of(vec![down(), sentinel.address()], "other")).await,
        Some(Outage::of_sentinel(Cause::MasterUnknown))
    );
    assert_eq!(outage(&of(vec![down()], "shop")).await, Some(Outage::of_sentinel(Cause::ConnectionRefused)));
    assert_eq!(outage(&of(vec![tcp(UNROUTABLE, 1)], "shop")).await, Some(Outage::of_sentinel(Cause::NameUnresolved)));
    // A Sentinel whose packets are dropped does not consume the time limit of the others.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = tcp("127.0.0.1", listener.local_addr().unwrap().port());
    assert_connects(&of(vec![silent.clone(), sentinel.address()], "shop")).await;
    let mut unknown = of(vec![silent, sentinel.address()], "other");
    unknown.timeout = Duration::from_millis(100);
    let store = redis_store(&unknown);
    eventually("the Sentinel that answers says why", async || {
        let _ = store.find(&[1; 32]).await;
        store.state().outage == Some(Outage::of_sentinel(Cause::MasterUnknown))
    })
    .await;
}

#[tokio::test]
async fn sentinels_have_separate_tls_settings() {
    let (of_redis, of_sentinels) = (Authority::new(), Authority::new());
    let (master, port) = tls_server(&of_redis, &of_redis.server(), "no").await;
    let issued = of_sentinels.server();
    let (plain, tls) = (free_port(), free_port());
    let own = tls_arguments(&of_sentinels, &issued, tls, "no")
        .chunks(2)
        .map(|pair| format!("{} {}\n", &pair[0][2..], pair[1]))
        .collect::<String>();
    let sentinel = Redis::sentinel_with(&master, &own).await;
    // Redis without TLS, Sentinels with TLS and an authority of their own.
    let sentinels = vec![tcp("localhost", tls)];
    assert_connects(&behind_sentinels(sentinels.clone(), RedisLogin::default(), Some(tls_trusting(&of_sentinels))))
        .await;
    let wrong = behind_sentinels(sentinels, RedisLogin::default(), Some(tls_trusting(&of_redis)));
    assert_eq!(outage(&wrong).await, Some(Outage::of_sentinel(Cause::CertificateUntrusted)));
    // The reverse case.
    let secure = Redis::sentinel_with(&master, &format!("sentinel monitor secure 127.0.0.1 {port} 1")).await;
    let mut settings = behind_sentinels(vec![secure.address()], RedisLogin::default(), None);
    settings.tls = Some(tls_trusting(&of_redis));
    if let RedisTopology::Sentinel { master, .. } = &mut settings.topology {
        *master = "secure".into();
    }
    assert_connects(&settings).await;
    drop((sentinel, plain));
}

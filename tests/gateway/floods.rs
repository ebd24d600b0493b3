//! HTTP/2 attacks by frames that are cheap to send and expensive to process.
//!
//! No attack disturbs a well-behaved client on another connection, and none lets the gateway's memory grow without
//! bound.

pub mod raw_http2;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::Client;
use salesforce_simulator::{Seed, ShopperTokenSpec, Simulator};

use self::raw_http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, RST_STREAM, RawHttp2Client, SETTINGS,
    WINDOW_UPDATE, frame, get, post,
};
use crate::{
    replica::Replica,
    scale::figure,
    world::{eventually, install_cryptography, products},
};

/// Maximum duration of an attack that the gateway ends.
const MAX_ATTACK: Duration = Duration::from_secs(30);
/// Duration of other attacks.
const ATTACK_DURATION: Duration = Duration::from_secs(3);
/// Connections of an attack.
const ATTACKERS: usize = 4;
/// The memory that an attack may take.
const MEMORY_BYTES: u64 = 32 * 1024 * 1024;
const MEBIBYTE: u64 = 1024 * 1024;

struct Fixture {
    replica: Replica,
    _simulator: Simulator,
    url: String,
    token: String,
}

impl Fixture {
    async fn start() -> Self {
        install_cryptography();
        let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
        let replica = Replica::start(&simulator.url(), |_| {}).await;
        let url = format!("http://{}{}", replica.address, products("/793775362380M?siteId=RefArch"));
        let token = simulator.mint_shopper_token(ShopperTokenSpec::default());
        Self { replica, _simulator: simulator, url, token }
    }

    /// Runs attackers, each on a connection, beside a well-behaved client. `repeat` returns the frames that are
    /// sent together; the next ones follow after a moment. Returns the number of connections that the gateway closed.
    async fn attack<const PARTS: usize>(
        &self,
        what: &str,
        longest: Duration,
        begin: Vec<u8>,
        repeat: impl Fn(u32) -> [Vec<u8>; PARTS] + Send + Sync + 'static,
    ) -> usize {
        let good = Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
        let good_http1 = Client::builder().no_proxy().build().unwrap();
        let ask = async || {
            let answer = good.get(&self.url).bearer_auth(&self.token).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{what}");
            answer.bytes().await.unwrap();
        };
        for _ in 0..50 {
            ask().await;
        }
        let before = self.replica.resident_bytes();
        let over = Arc::new(AtomicBool::new(false));
        let (ended, repeat) = (Arc::new(AtomicUsize::new(0)), Arc::new(repeat));
        let mut attackers = Vec::new();
        for _ in 0..ATTACKERS {
            let mut peer = RawHttp2Client::connect(self.replica.address).await;
            let (begin, repeat, over, ended) =
                (begin.clone(), Arc::clone(&repeat), Arc::clone(&over), Arc::clone(&ended));
            attackers.push(tokio::spawn(async move {
                let mut alive = peer.send(&begin).await;
                let mut number = 0;
                while alive && !over.load(Ordering::Relaxed) {
                    for part in repeat(number) {
                        alive = peer.send(&part).await;
                        // Separate writes, so that the gateway reads each part by itself.
                        if PARTS > 1 {
                            tokio::time::sleep(Duration::from_millis(3)).await;
                        }
                    }
                    number += 1;
                }
                let is_ended = !alive || peer.is_closed().await;
                ended.fetch_add(usize::from(is_ended), Ordering::Relaxed);
            }));
        }
        let mut peak = before;
        let began = Instant::now();
        while began.elapsed() < longest && ended.load(Ordering::Relaxed) < ATTACKERS {
            ask().await;
            peak = peak.max(self.replica.resident_bytes());
            // The interval of the samples.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        over.store(true, Ordering::Relaxed);
        for attacker in attackers {
            attacker.await.unwrap();
        }
        ask().await;
        let status = format!("http://{}/status", self.replica.admin);
        eventually("no request is left behind", async || {
            let status = good_http1.get(&status).send().await.unwrap().text().await.unwrap();
            status.contains("\"requests_in_flight\":0")
        })
        .await;
        let grown = peak - before;
        let ended = ended.load(Ordering::Relaxed);
        let cost = format!("{ended} of {ATTACKERS} connections ended, {} MiB more memory", grown / MEBIBYTE);
        figure("R17", format!("{what}: {cost}; the good client 0 errors"));
        assert!(grown <= MEMORY_BYTES, "{what}: {} MiB more memory", grown / MEBIBYTE);
        ended
    }
}

fn stream(number: u32) -> u32 {
    number * 2 + 1
}

#[tokio::test]
async fn many_cancelled_streams_close_connection() {
    let fixture = Fixture::start().await;
    let head = get(&products("/793775362380M?siteId=RefArch"), &fixture.token);
    let begun = move |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &head);
    let cancelled = |stream| frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    let at_once = begun.clone();
    let at_once = move |number| [[at_once(stream(number)), cancelled(stream(number))].concat()];
    assert_eq!(fixture.attack("cancelled at once", MAX_ATTACK, Vec::new(), at_once).await, ATTACKERS);

    // The gateway has started these requests.
    let later = begun.clone();
    let later = move |number| [later(stream(number)), cancelled(stream(number))];
    assert_eq!(fixture.attack("cancelled a moment later", MAX_ATTACK, Vec::new(), later).await, ATTACKERS);

    // Clients do this when their users navigate away.
    let sometimes = move |number| {
        let streams = [0, 1, 2].map(|one| stream(number * 3 + one));
        [streams.map(&begun).concat(), cancelled(streams[2])]
    };
    assert_eq!(fixture.attack("cancelled now and then", ATTACK_DURATION, Vec::new(), sometimes).await, 0);
}

#[tokio::test]
async fn many_provoked_resets_close_connection() {
    let fixture = Fixture::start().await;
    let path = products("/793775362380M?siteId=RefArch");
    // A window update of nothing is an error of its stream (CVE-2025-8671).
    let token = fixture.token.clone();
    let made_you_reset = move |number| {
        let mut frames = frame(HEADERS, END_HEADERS | END_STREAM, stream(number), &get(&path, &token));
        frames.extend(frame(WINDOW_UPDATE, 0, stream(number), &[0; 4]));
        [frames]
    };
    assert_eq!(fixture.attack("made you reset", MAX_ATTACK, Vec::new(), made_you_reset).await, ATTACKERS);
}

#[tokio::test]
async fn endless_header_block_closes_connection() {
    let fixture = Fixture::start().await;
    let begin = || frame(HEADERS, 0, 1, &get("/", "x"));
    let literal = [&[0x00, 0x01, b'a', 0x7f, 0x81, 0x7e][..], &[b'a'; 256]].concat();
    let pieces: [(&str, Vec<u8>); 3] = [
        ("empty continuation", Vec::new()),
        ("continuation", literal.repeat(60)),
        ("continuation of nothing", vec![0x82; 16_000]),
    ];
    for (what, piece) in pieces {
        let ended =
            fixture.attack(what, MAX_ATTACK, begin(), move |_| [frame(CONTINUATION, 0, 1, &piece).repeat(8)]).await;
        assert_eq!(ended, ATTACKERS, "{what}");
    }
}

#[tokio::test]
async fn hpack_bomb_does_not_grow_memory() {
    let fixture = Fixture::start().await;
    // A field of 4,000 bytes enters the HPACK table, and each byte of later heads refers to it.
    let mut first = get("/", "x");
    first.extend([0x40, 0x01, b'a', 0x7f, 0xa1, 0x1e]);
    first.extend([b'a'; 4000]);
    let begin = frame(HEADERS, END_HEADERS | END_STREAM, 1, &first);
    let mut bomb = get("/", "x");
    bomb.extend([0xbe; 16_000]);
    fixture
        .attack("HPACK bomb", ATTACK_DURATION, begin, move |number| {
            [frame(HEADERS, END_HEADERS | END_STREAM, stream(number + 1), &bomb)]
        })
        .await;
}

#[tokio::test]
async fn flood_of_control_frames_closes_connection() {
    let fixture = Fixture::start().await;
    let settings = [0, 4, 0, 1, 0, 0].to_vec();
    let kinds: [(&str, Vec<u8>); 5] = [
        ("settings", frame(SETTINGS, 0, 0, &settings)),
        ("pings", frame(PING, 0, 0, &[0; 8])),
        ("priorities", frame(PRIORITY, 0, 3, &[0, 0, 0, 1, 1])),
        ("unknown", frame(0x77, 0, 0, &[])),
        ("acknowledged pings", frame(PING, 1, 0, &[0; 8])),
    ];
    for (what, one) in kinds {
        let ended = fixture.attack(what, MAX_ATTACK, Vec::new(), move |_| [one.repeat(100)]).await;
        assert_eq!(ended, ATTACKERS, "{what}");
    }
    let begin = frame(HEADERS, END_HEADERS, 1, &post(&products("?siteId=RefArch"), &fixture.token));
    let ended = fixture.attack("empty data", MAX_ATTACK, begin, |_| [frame(DATA, 0, 1, &[]).repeat(100)]).await;
    assert_eq!(ended, ATTACKERS);
    fixture
        .attack("window updates", ATTACK_DURATION, Vec::new(), |_| {
            [frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).repeat(100)]
        })
        .await;
}

#[tokio::test]
async fn streams_beyond_limit_do_not_grow_memory() {
    let fixture = Fixture::start().await;
    let body =
        post("/checkout/shopper-baskets/v1/organizations/f_ecom_zzrf_001/baskets?siteId=RefArch", &fixture.token);
    // Endless requests, each with a part of a body.
    fixture
        .attack("open streams", ATTACK_DURATION, Vec::new(), move |number| {
            let mut frames = frame(HEADERS, END_HEADERS, stream(number), &body);
            frames.extend(frame(DATA, 0, stream(number), &[b'a'; 600]));
            [frames]
        })
        .await;
}

//! How cost and memory grow with what there is: tokens, sessions, routes, threads.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use http::Method;
use secrecy::{ExposeSecret, SecretString};
use shopper_gateway::{
    gateway::{
        path::RequestPath,
        policy::{CustomRoute, Operations, Security, SecurityKind},
    },
    jwt::token_digest,
    salesforce::slas::TokenResponse,
    verify::{HashedToken, shopper::Shopper, shopper_token::VerifiedToken},
};
use tokio::runtime::Runtime;

use crate::parts::{Parts, answer};

const COUNTS: [usize; 4] = [1, 1_000, 100_000, 1_000_000];
const ROUTES: [usize; 4] = [10, 100, 1_000, 10_000];
/// How often each is measured; the median of so many batches counts.
const BATCHES: usize = 21;
const BATCH: usize = 10_000;

/// Prints a table of each.
pub fn measure(runtime: &Runtime, bench: &Parts) {
    routes();
    sessions(runtime, bench);
    tokens(runtime, bench);
}

/// One look for a route among so many of the merchant's.
fn routes() {
    println!("| merchant's routes | match, ns |\n|---|---|");
    for count in ROUTES {
        let routes = (0..count).map(|number| CustomRoute {
            name: format!("custom.r{number}"),
            method: Method::GET,
            template: format!("/custom/api{number}/v1/organizations/{{organizationId}}/things/{{id}}"),
            security: vec![Security {
                kind: SecurityKind::Shopper,
                scopes: "c_things".parse().unwrap(),
                roles: Vec::new(),
            }],
        });
        let operations = Operations::published().unwrap().with_routes(routes).unwrap();
        let targets: Vec<_> =
            (0..count).map(|n| format!("/custom/api{n}/v1/organizations/f_ecom_zzrf_001/things/7")).collect();
        let took = each(|turn| {
            let path = RequestPath::parse(&targets[turn % count]).unwrap();
            black_box(operations.find(&Method::GET, &path).unwrap().operation.name.len());
        });
        println!("| {count} | {} |", took.as_nanos());
    }
}

/// The resolution of a token among so many sessions, and the memory that a session takes beyond its tokens.
fn sessions(runtime: &Runtime, bench: &Parts) {
    println!("\n| sessions | resolve, ns | bytes each beyond the tokens' |\n|---|---|---|");
    let refresh = "r".repeat(200);
    let token = runtime.block_on(async { bench.verify(&bench.mint()).await });
    let site = "RefArch".parse().unwrap();
    let numbered = |number: usize| {
        let text = format!("{number:08}{}", "a".repeat(1_100));
        let usid = format!("00000000-0000-4000-8000-{number:012}").parse().unwrap();
        let shopper = Arc::new(Shopper { usid, ..(*token.shopper).clone() });
        (VerifiedToken { shopper, digest: token_digest(&text), ..token.clone() }, text)
    };
    let (mut before, mut text_bytes, mut held) = (resident_bytes(), 0, Vec::new());
    for count in COUNTS {
        runtime.block_on(async {
            for number in held.len()..count {
                let (verified, text) = numbered(number);
                let answer = TokenResponse { access_token: SecretString::from(text), ..answer(&refresh) };
                text_bytes += answer.access_token.expose_secret().len() + refresh.len();
                bench.sessions.begin(&site, &verified, &answer).await;
            }
        });
        let taken = resident_bytes();
        let used = taken.saturating_sub(before).saturating_sub(text_bytes) / count;
        // The requests are not part of the measured memory.
        held.extend((held.len()..count).map(|number| numbered(number).0));
        before += resident_bytes().saturating_sub(taken);
        let took = each(|turn| {
            let token = &held[scattered(turn) % count];
            runtime.block_on(async { black_box(bench.sessions.resolve(token).await.is_ok()) });
        });
        println!(
            "| {count} | {} | {} |",
            took.as_nanos(),
            if count <= 1_000 { "–".to_owned() } else { used.to_string() }
        );
    }
}

/// The verification of a token out of many in rotation, and the memory that a cached one takes. A token that the cache does not
/// hold is verified again.
fn tokens(runtime: &Runtime, bench: &Parts) {
    println!(
        "\n| tokens in rotation | one thread, ns | two threads, ns each | cached | bytes each |\n|---|---|---|---|---|"
    );
    let mut tokens = Vec::new();
    for count in COUNTS {
        while tokens.len() < count {
            tokens.push(bench.mint());
        }
        let organization = &bench.organization;
        let seen = |token: &str| {
            if bench.verifier.cached(&HashedToken::new(token), organization).ok().flatten().is_none() {
                runtime.block_on(async { black_box(bench.verify(token).await.shopper.expires_at) });
            }
        };
        let (before, known) = (resident_bytes(), bench.verifier.cached_tokens());
        tokens.iter().for_each(|token| seen(token));
        let taken = resident_bytes().saturating_sub(before) / (bench.verifier.cached_tokens() - known).max(1);
        let one = each(|turn| seen(&tokens[scattered(turn) % count]));
        let two = std::thread::scope(|scope| {
            let run = || each(|turn| seen(&tokens[scattered(turn) % count]));
            let (one, other) = (scope.spawn(run), scope.spawn(run));
            (one.join().unwrap() + other.join().unwrap()) / 2
        });
        let cached = bench.verifier.cached_tokens();
        let bytes = if count == 100_000 { taken.to_string() } else { "–".to_owned() };
        println!("| {count} | {} | {} | {cached} | {bytes} |", one.as_nanos(), two.as_nanos());
    }
}

/// The median time of one turn.
fn each(mut turn: impl FnMut(usize)) -> Duration {
    let mut batches: Vec<Duration> = (0..BATCHES)
        .map(|batch| {
            let begin = Instant::now();
            (0..BATCH).for_each(|number| turn(batch * BATCH + number));
            begin.elapsed() / BATCH as u32
        })
        .collect();
    batches.sort();
    batches[BATCHES / 2]
}

/// Turns in an order that no cache foresees.
fn scattered(turn: usize) -> usize {
    turn.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16
}

/// Memory of this process (proc(5), `statm`: pages of 4 KiB).
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

//! The hot path, piece by piece: what one request costs on top of forwarding it.
//!
//! `make bench` runs it. Compare figures of one run only: machines differ, and so do hours.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod parts;
mod refresh;
mod scale;

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{BatchSize, Criterion};
use http::{HeaderValue, Method, Request};
use secrecy::SecretString;
use shopper_gateway::{
    gateway::{headers, path::RequestPath, policy::Operations},
    tokens::on_behalf::{ECOM_IDP, OnBehalfSubject, SubjectShopper},
    verify::{HashedToken, system_token::AuthorizationModel},
};
use tokio::runtime::Runtime;

use self::parts::{Parts, answer};

/// A trusted system of the demo, and a shopper of the simulator.
const CALLER: &str = "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb";
const LOGIN: &str = "shopper@example.com";
/// Sessions of the largest measure, and room for a few more.
const MOST_HELD: usize = 1_001_000;
/// Argument that measures how costs grow instead: `cargo bench --bench hot_path -- scale`.
const SCALE: &str = "scale";

/// The gateway's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("the first and only provider");
    let runtime = Runtime::new().unwrap();
    let bench = runtime.block_on(Parts::new(MOST_HELD));
    if std::env::args().any(|word| word == SCALE) {
        return scale::measure(&runtime, &bench);
    }
    let mut criterion =
        Criterion::default().sample_size(50).measurement_time(Duration::from_secs(3)).configure_from_args();

    route_match(&mut criterion);
    header_edits(&mut criterion);
    verification(&mut criterion, &runtime, &bench);
    resolve(&mut criterion, &runtime, &bench);
    trusted_systems(&mut criterion, &runtime, &bench);
    criterion.final_summary();

    runtime.block_on(refresh::measure());
}

fn route_match(criterion: &mut Criterion) {
    let operations = Operations::published().unwrap();
    let target = "/checkout/shopper-baskets/v2/organizations/f_ecom_zzrf_001/baskets/654f4e886f03492d82d61c427b/items";
    criterion.bench_function("route match", |bencher| {
        bencher.iter(|| {
            let path = RequestPath::parse(black_box(target)).unwrap();
            black_box(operations.find(&Method::POST, &path).unwrap().operation.name.len())
        });
    });
}

fn header_edits(criterion: &mut Criterion) {
    let request = Request::builder()
        .header("host", "shop.example")
        .header("authorization", "Bearer x")
        .header("accept", "application/json")
        .header("content-type", "application/json")
        .header("user-agent", "commerce-sdk-isomorphic@5.6.0")
        .header("x-forwarded-for", "192.0.2.1")
        .body(())
        .unwrap();
    let (host, id) = (HeaderValue::from_static("api.example"), HeaderValue::from_static("8bd2b1f0"));
    criterion.bench_function("header edits", |bencher| {
        bencher.iter(|| black_box(headers::request_edits(black_box(request.headers()), &host, &id)));
    });
}

fn verification(criterion: &mut Criterion, runtime: &Runtime, bench: &Parts) {
    let seen = bench.mint();
    runtime.block_on(bench.verify(&seen));
    criterion.bench_function("verification, cached token", |bencher| {
        bencher.iter(|| runtime.block_on(async { black_box(bench.verify(black_box(&seen)).await) }));
    });
    criterion.bench_function("verification, new token", |bencher| {
        bencher.iter_batched(
            || bench.mint(),
            |token| runtime.block_on(async { black_box(bench.verify(&token).await) }),
            BatchSize::SmallInput,
        );
    });
}

/// A verified token without a session against one whose session is known and fresh.
fn resolve(criterion: &mut Criterion, runtime: &Runtime, bench: &Parts) {
    let (plain, held) = (bench.mint(), bench.mint());
    let (plain, held) = runtime.block_on(async {
        let (plain, held) = (bench.verify(&plain).await, bench.verify(&held).await);
        let site = "RefArch".parse().unwrap();
        bench.sessions.begin(&site, &held, &answer("refresh")).await;
        (plain, held)
    });
    for (name, token) in [("resolve, token without session", plain), ("resolve, cached session", held)] {
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| {
                runtime.block_on(async { black_box(bench.sessions.resolve(black_box(&token)).await.is_ok()) })
            });
        });
    }
}

/// The additional cost of an on-behalf request: the caller's token and the shopper's token.
fn trusted_systems(criterion: &mut Criterion, runtime: &Runtime, bench: &Parts) {
    let token = bench.simulator.mint_account_manager_token(CALLER, &["sfcc.orders"], "zzrf_001", 3600);
    let tenant = bench.organization.tenant();
    criterion.bench_function("system token, cached", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                black_box(
                    bench
                        .systems
                        .verify(&HashedToken::new(black_box(&token)), &tenant, AuthorizationModel::Scopes)
                        .await
                        .is_ok(),
                )
            })
        });
    });
    let whose = Arc::new(OnBehalfSubject {
        organization: bench.organization.clone(),
        site: "RefArch".parse().unwrap(),
        shopper: SubjectShopper::Registered { idp: ECOM_IDP.to_owned(), login: SecretString::from(LOGIN) },
        recipient: None,
    });
    runtime.block_on(bench.on_behalf.token(&whose)).unwrap();
    criterion.bench_function("on behalf, token held", |bencher| {
        bencher.iter(|| runtime.block_on(async { black_box(bench.on_behalf.token(black_box(&whose)).await.is_ok()) }));
    });
}

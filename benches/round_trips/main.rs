//! The gateway beside others, in one run: nginx, HAProxy, Pingora alone, PWA Kit's proxy.
//!
//! Whatever is measured has one core and one worker; load, upstream and Salesforce have the other core. Each round takes
//! every row once, in an order of its own, and ratios are those of one round, because machines differ from minute to
//! minute. `make bench` runs it: ROUNDS, ROUND_SECONDS (of each row in each round) and ONLY (rows, by commas) change it.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod chart;
mod floor;
mod idle;
mod instructions;
mod load;
mod machine;
mod parts;
mod requests;
mod rows;
mod stage;
mod table;

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use uuid::Uuid;

use self::{
    load::Pace,
    rows::Row,
    stage::Stage,
    table::{Measured, Summary},
};

/// Argument that counts instructions instead of time.
const INSTRUCTIONS: &str = "instructions";
const CONNECTIONS: usize = 64;
/// Before each measure: caches warm, code compiled where it is compiled as it runs.
const WARM_UP: Duration = Duration::from_millis(300);
/// Share of the saturation rate at which latency is measured.
const HALF: f64 = 0.5;
/// More than anything answers in a second that needs a token of its own for each request.
const MOST_PER_SECOND: f64 = 25_000.0;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let _ = shopper_gateway::app::process::fd_limit::raise();
    let counts = arguments.iter().any(|word| word == INSTRUCTIONS);
    if !counts {
        machine::stay_on(machine::AROUND);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    if counts {
        return runtime.block_on(instructions::count());
    }
    runtime.block_on(compare())
}

async fn compare() -> Result<(), Box<dyn Error>> {
    let (rounds, seconds) = (setting("ROUNDS", 7), Duration::from_secs_f64(setting("ROUND_SECONDS", 2.0)));
    eprintln!("Starting the peers");
    let stage = Stage::set().await?;
    let only = std::env::var("ONLY").unwrap_or_default();
    let mut all = rows::all(&stage).await?;
    all.retain(|row| only.is_empty() || only.split(',').any(|name| name == row.name));
    let (mut measured, mut floor) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        eprintln!("Round {} of {rounds}", round + 1);
        measured.push(take_round(&stage, &all, seconds).await);
        floor.extend(floor::verification(&stage.simulator));
    }
    let names: Vec<_> = all.iter().map(|row| (row.name, row.tokens)).collect();
    let date = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let mut summary = table::sum_up(&names, &measured, date, machine::describe());
    eprintln!("Idle connections");
    drop(all);
    drop(stage);
    summary.idle = idle::measure().await?;
    floor.sort();
    summary.es256_us = floor.get(floor.len() / 2).map(|took| took.as_nanos() as f64 / 1e3);
    summary.parts = parts::of_last_run(&target());
    println!("{}", summary.markdown());
    write(&summary)
}

/// Every row once, each time in another order.
async fn take_round(stage: &Stage, all: &[Row<'_>], seconds: Duration) -> Vec<Measured> {
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by_cached_key(|_| Uuid::new_v4());
    let mut rates = vec![MOST_PER_SECOND; all.len()];
    let mut measured = vec![None; all.len()];
    for number in &order {
        let (figures, rate) = saturate(stage, &all[*number], seconds).await;
        (measured[*number], rates[*number]) = (Some(figures), rate);
    }
    // Latency without saturation: at half the maximum rate of the row, or of the pass-through if that is lower.
    let passing = all.iter().position(|row| row.name == "pingora_pass").map_or(MOST_PER_SECOND, |number| rates[number]);
    for number in order {
        let pace = Pace::PerSecond(rates[number].min(passing) * HALF);
        let row = &all[number];
        let requests = row.requests(&stage.simulator, (passing * HALF * seconds.as_secs_f64()) as usize + 1);
        let outcome = load::send(row.address(), &requests, CONNECTIONS, pace, seconds).await;
        if let Some(figures) = &mut measured[number] {
            (figures.p50_us, figures.p99_us) = (outcome.quantile(0.5), outcome.quantile(0.99));
            figures.failed += outcome.failed;
        }
    }
    measured.into_iter().flatten().collect()
}

/// CPU of a request, and the rate, when as many are sent as will go.
async fn saturate(stage: &Stage, row: &Row<'_>, seconds: Duration) -> (Measured, f64) {
    let most = MOST_PER_SECOND * (seconds + WARM_UP).as_secs_f64();
    let requests = row.requests(&stage.simulator, most as usize);
    load::send(row.address(), &requests, CONNECTIONS, Pace::Saturating, WARM_UP).await;
    let before = row.process().cpu();
    let outcome = load::send(row.address(), &requests, CONNECTIONS, Pace::Saturating, seconds).await;
    let cpu = row.process().cpu() - before;
    let measured = Measured {
        requests_per_second: outcome.per_second(),
        cpu_us_per_request: cpu * 1e6 / outcome.answered.max(1) as f64,
        p50_us: 0,
        p99_us: 0,
        memory: row.process().memory(),
        failed: outcome.failed,
    };
    (measured, outcome.per_second())
}

/// A number of the environment.
fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn write(summary: &Summary) -> Result<(), Box<dyn Error>> {
    let folder = target().join("bench");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("summary.json"), serde_json::to_vec_pretty(summary)?)?;
    fs::write(folder.join("summary.md"), summary.markdown())?;
    eprintln!("{}", folder.join("summary.json").display());
    if let Err(error) = chart::draw(summary, &folder) {
        eprintln!("no summary.png: {error}");
    }
    Ok(())
}

/// The build's folder.
fn target() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"))
}

//! The soak: gateways under load while things go wrong, measured against what is promised.
//!
//! `make soak` builds and runs it, for `SOAK_SECONDS` (600). It starts a simulated Salesforce, Redis servers and gateways as
//! processes, prints a table, and exits with 1 if a figure was missed. Figures that need a faster machine or more time are not
//! judged. The ids are those of docs/THREAT-MODEL.md. `SOAK_ONLY=load` gives all of the time to the last act,
//! `SOAK_ONLY=hostile` to the hostile clients.

#![allow(clippy::print_stdout, unreachable_pub)]

mod acts;
mod expiry;
mod figures;
mod findings;
mod hostile;
mod load;
mod processes;
mod steady;

use std::{
    error::Error,
    process::ExitCode,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use salesforce_simulator::{Seed, Simulator};

use self::{acts::Stage, expiry::Expiry, figures::Figure, findings::Findings};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Below this there is no time for tokens that live long enough to spread their renewals.
const EXPIRY_WORTH: u64 = 300;

#[tokio::main]
async fn main() -> ExitCode {
    match play().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("the soak broke off: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn play() -> Outcome<bool> {
    let seconds: u64 = std::env::var("SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(600);
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return Err("another cryptography provider is installed already".into());
    }
    let simulator = salesforce_simulator::start("127.0.0.1:0".parse()?, Seed::default()).await?;
    simulator.set(|behaviour| {
        behaviour.ledger_entries = 40_000;
        behaviour.slas_requests_per_minute = 1_000_000;
        behaviour.jwks_requests_per_minute = 1_000_000;
    });
    let mut findings = Findings::default();
    let mut figures: Vec<Figure> = Vec::new();
    let start = Instant::now();
    let only = std::env::var("SOAK_ONLY").unwrap_or_default();
    match only.as_str() {
        "hostile" => {
            let time = Duration::from_secs(seconds);
            figures.extend(Stage { simulator: &simulator, findings: &mut findings, time }.hostile().await?);
        }
        "load" => {}
        _ => figures.extend(mishaps(start, seconds, &simulator, &mut findings).await?),
    }
    if only != "hostile" {
        let left = Duration::from_secs(seconds).saturating_sub(start.elapsed()).max(Duration::from_secs(10));
        say(start, "half the load, with faults");
        figures.extend(steady::play(&simulator, &findings, left).await?);
    }

    let (panics, secrets) = (findings.panics.load(Ordering::Relaxed), findings.secrets.load(Ordering::Relaxed));
    let lines = findings.lines.load(Ordering::Relaxed);
    figures.push(Figure::new("R23", "panics in all logs", "0", format!("{panics} in {lines} lines"), panics == 0));
    figures.push(Figure::new("R23", "secrets in all logs", "0", format!("{secrets} in {lines} lines"), secrets == 0));
    Ok(figures::report(&figures))
}

/// Failures that happen once: six acts in two fifths of the time. Then the tokens from the start expire.
async fn mishaps(start: Instant, seconds: u64, simulator: &Simulator, findings: &mut Findings) -> Outcome<Vec<Figure>> {
    let mut figures = Vec::new();
    let acts = Duration::from_secs(seconds * 2 / 5);
    let expiry = if seconds >= EXPIRY_WORTH {
        say(start, "a thousand shoppers log in");
        Some(Expiry::prepare(simulator, acts.mul_f64(1.34) + Duration::from_secs(40)).await?)
    } else {
        None
    };
    let mut stage = Stage { simulator, findings, time: acts / 8 };
    say(start, "the master of Redis is killed");
    figures.extend(stage.sentinel().await?);
    say(start, "Redis stops answering, and is gone");
    figures.extend(stage.without_redis().await?);
    say(start, "one of two gateways is killed");
    figures.extend(stage.killed().await?);
    say(start, "configurations and processes change");
    figures.extend(stage.changed().await?);
    say(start, "one of two gateways is stopped");
    figures.extend(stage.stopped().await?);
    say(start, "hostile clients come");
    figures.extend(stage.hostile().await?);
    if let Some(expiry) = expiry {
        say(start, "a thousand tokens end at once");
        figures.extend(expiry.play(simulator, findings).await?);
    }
    Ok(figures)
}

fn say(start: Instant, what: &str) {
    println!("{:4} s  {what}", start.elapsed().as_secs());
}

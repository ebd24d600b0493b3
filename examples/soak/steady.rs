//! R23: half the load that a gateway bears, with faults at random, for as long as there is time.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use salesforce_simulator::{Effect, Fault, ResetAt, Simulator};
use tokio::time::sleep;

use crate::{
    Outcome,
    acts::CONNECTIONS,
    figures::Figure,
    findings::Findings,
    load::{Load, Shopper},
    processes::{Gateway, Redis},
};

/// Least time to judge a slope of memory by, of which the second half counts: caches and the allocator's own fill before.
const SLOPE_WORTH: Duration = Duration::from_secs(480);
/// How long a fault lasts, and how long there is none.
const FAULT: Duration = Duration::from_secs(1);
/// How long what failed because of a fault may go on after it: a failure is remembered for five seconds.
const AFTERMATH: Duration = Duration::from_secs(7);
/// A request that began this long before a fault may still be under way.
const UNDER_WAY: Duration = Duration::from_secs(20);

/// How often the memory is printed.
const TELL: Duration = Duration::from_secs(30);

/// A fault that was ordered.
struct Struck {
    whose: &'static str,
    start: Instant,
    end: Instant,
}

pub async fn play(simulator: &Simulator, findings: &Findings, time: Duration) -> Outcome<Vec<Figure>> {
    let redis = Redis::start(&[]).await?;
    let gateway = Gateway::start(&simulator.url(), &redis.store()).await?;
    // A renewal for each shopper each minute.
    simulator.set(|behaviour| behaviour.shopper_token_seconds = 60);
    let shoppers = Shopper::several(gateway.address, 60).await?;
    let full = Load::start(&shoppers, &[gateway.address], CONNECTIONS, None);
    sleep(Duration::from_secs(2)).await;
    let peak = full.end().await;
    let load = Load::start(&shoppers, &[gateway.address], CONNECTIONS, Some(peak / 2.0));
    let descriptors = gateway.descriptors();
    let start = Instant::now();
    let (mut struck, mut memory, mut told) = (Vec::new(), Vec::new(), Duration::ZERO);
    let mut random = Random(0x5eed);
    while start.elapsed() + FAULT * 2 < time {
        let begin = Instant::now();
        let whose = strike(simulator, &redis, random.below(8))?;
        sleep(FAULT).await;
        simulator.clear_faults();
        redis.pause(false)?;
        struck.push(Struck { whose, start: begin, end: Instant::now() });
        sleep(FAULT).await;
        let Some(resident) = gateway.resident() else { continue };
        memory.push((start.elapsed().as_secs_f64(), resident as f64));
        if start.elapsed() >= told {
            told = start.elapsed() + TELL;
            println!("{:4} s  of it, and {:.1} MB", start.elapsed().as_secs(), resident as f64 / 1024.0 / 1024.0);
        }
    }
    sleep(FAULT * 2).await;
    let tally = Arc::clone(&load.tally);
    let rate = load.end().await;
    // Upstream connections of the load's last second go by themselves; so do those of clients.
    sleep(Duration::from_secs(1)).await;
    let after = gateway.descriptors();
    let log = findings;
    log.inspect(std::slice::from_ref(&gateway), &tally)?;

    let failed = tally.failed.lock();
    let unexplained: Vec<_> = failed.iter().filter(|(at, how)| !explains(&struck, *at, how)).collect();
    let wrong = tally.wrong.load(Ordering::Relaxed);
    let sent = tally.sent.load(Ordering::Relaxed);
    let example = unexplained.first().map(|(_, how)| how.as_str()).unwrap_or_default();
    let slope = slope(&memory[memory.len() / 2..]) * 600.0 / 1024.0 / 1024.0;
    let explained = failed.len() - unexplained.len();
    let mut figures = vec![
        Figure::new(
            "R23",
            "soak: unexplained failures",
            "0",
            format!(
                "{} of {sent} at {rate:.0}/s ({} faults, {explained} explained) {example}",
                unexplained.len(),
                struck.len()
            ),
            unexplained.is_empty(),
        ),
        Figure::new("R23", "soak: another shopper's answers", "0", wrong, wrong == 0),
        Figure::new("R23", "soak: p99 with faults", "-", format!("{} ms", tally.p99()), true),
        Figure::new("R23", "soak: memory slope", "< 1 MB / 10 min", format!("{slope:+.2} MB / 10 min"), slope < 1.0)
            .if_enough(start.elapsed() >= SLOPE_WORTH),
    ];
    if let (Some(before), Some(after)) = (descriptors, after) {
        let flat = after <= before + 8;
        figures.push(Figure::new("R23", "soak: descriptors", "flat", format!("{before}, then {after}"), flat));
    }
    Ok(figures)
}

/// Orders a fault, and says whose it is.
fn strike(simulator: &Simulator, redis: &Redis, which: u64) -> Outcome<&'static str> {
    let says = |code, body: &str| Effect::Status { code, retry_after: None, body: Some(body.into()) };
    let status = |code| says(code, "java.lang.Error");
    let slas = |effect| Fault::on("slas", effect).flow("token:refresh_token");
    let api = |effect| Fault::on("api", effect);
    let (whose, fault) = match which {
        0 => ("slas", slas(status(503))),
        1 => ("slas", slas(Effect::Hang).times(3)),
        // The response replaces SLAS's, so SLAS does not process the request. A refresh that SLAS processes and whose response is
        // lost would void a public client's refresh token and end its session.
        2 => ("slas", slas(says(200, "<html>Sorry</html>"))),
        3 => ("api", api(Effect::Reset { at: ResetAt::Before }).times(5)),
        4 => ("api", api(status(503)).times(20)),
        5 => ("api", api(Effect::Delay { ms: 200 })),
        6 => ("api", api(Effect::Reset { at: ResetAt::MidBody }).times(5)),
        _ => {
            redis.pause(true)?;
            return Ok("redis");
        }
    };
    simulator.inject(fault);
    Ok(whose)
}

/// Whether a fault that was ordered is the reason for a failure.
fn explains(struck: &[Struck], at: Instant, how: &str) -> bool {
    // A token that could not be renewed in time ends, here or on its way.
    let whose = if how.contains("slas") || how.starts_with("401") {
        "slas"
    } else if how.contains("store") {
        "redis"
    } else {
        "api"
    };
    let overlaps = |fault: &&Struck| fault.start <= at + UNDER_WAY && at <= fault.end + AFTERMATH;
    // A refresh that waits for Redis may be reported as a failure of SLAS or of the store.
    struck.iter().filter(overlaps).any(|fault| fault.whose == whose || (whose == "slas" && fault.whose == "redis"))
}

/// Bytes a second, by least squares.
fn slope(samples: &[(f64, f64)]) -> f64 {
    let number = samples.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| samples.iter().map(of).sum::<f64>() / number;
    let (time, bytes) = (mean(|sample| sample.0), mean(|sample| sample.1));
    let spread: f64 = samples.iter().map(|sample| (sample.0 - time).powi(2)).sum();
    if spread == 0.0 {
        return 0.0;
    }
    samples.iter().map(|sample| (sample.0 - time) * (sample.1 - bytes)).sum::<f64>() / spread
}

/// The same faults in each run (Steele and Vigna, `SplitMix64`).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

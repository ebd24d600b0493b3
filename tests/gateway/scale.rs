//! Two sizes for the larger tests: small by default, and as large as the promised figures for `make figures`.
//!
//! Counts of calls and failures are asserted at either size. Durations are only reported, as lines that `make figures`
//! collects: on a busy machine they say little about the gateway.

#![allow(clippy::print_stdout, reason = "the figures are what is wanted")]

use std::{env, fmt::Display, time::Duration};

/// One of two values, by `FULL_SCALE`.
pub fn of<T>(small: T, full: T) -> T {
    if is_full() { full } else { small }
}

pub fn is_full() -> bool {
    env::var_os("FULL_SCALE").is_some()
}

/// The duration of SLAS's outage: `OUTAGE_SECONDS` at full scale.
pub fn outage() -> Duration {
    let seconds = env::var("OUTAGE_SECONDS").map_or(60, |text| text.parse().unwrap());
    Duration::from_secs(of(5, seconds))
}

/// One line of the table of docs/THREAT-MODEL.md.
pub fn figure(row: &str, measured: impl Display) {
    println!("figure {row}: {measured}");
}

/// A percentile of durations.
pub fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100]
}

/// Milliseconds, for a figure.
pub fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

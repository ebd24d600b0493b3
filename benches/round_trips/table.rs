//! The table: what was measured in each round, what holds over all of them, and how it is written down.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use crate::idle::Idle;

/// The row that the CPU time of a request is compared with, in the same round.
const BASES: [&str; 4] = ["pingora_pass", "nginx_lua_cached_jwt", "gateway_verified", "pwa_kit_slas"];

/// One row in one round.
#[derive(Clone, Copy)]
pub struct Measured {
    pub requests_per_second: f64,
    pub cpu_us_per_request: f64,
    pub p50_us: u32,
    pub p99_us: u32,
    pub memory: u64,
    pub failed: usize,
}

/// `target/bench/summary.json`.
#[derive(Serialize)]
pub struct Summary {
    /// When, RFC 3339.
    pub date: String,
    pub machine: String,
    pub rounds: usize,
    pub rows: Vec<RowSummary>,
    pub idle: Vec<Idle>,
    /// One ES256 verification by the fastest library, with a key that is read already, microseconds.
    pub es256_us: Option<f64>,
    /// Pieces of a request by themselves, nanoseconds.
    pub parts: BTreeMap<String, f64>,
}

/// Medians over the rounds.
#[derive(Serialize)]
pub struct RowSummary {
    pub name: &'static str,
    pub tokens: &'static str,
    pub requests_per_second: f64,
    pub cpu_us_per_request: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub rss_mb: f64,
    pub failed: usize,
    pub cpu_ratio_to: BTreeMap<&'static str, f64>,
    /// First and third quartile of the same.
    pub cpu_ratio_quartiles: BTreeMap<&'static str, [f64; 2]>,
    pub p99_ratio_to_pingora_pass: f64,
}

/// Sums up `rounds`, each of which has one measure for each row.
pub fn sum_up(
    rows: &[(&'static str, &'static str)],
    rounds: &[Vec<Measured>],
    date: String,
    machine: String,
) -> Summary {
    let place = |name: &str| rows.iter().position(|(other, _)| *other == name);
    let summary = |(number, (name, tokens)): (usize, &(&'static str, &'static str))| {
        let of = |value: &dyn Fn(&Measured) -> f64| sorted(rounds.iter().map(|round| value(&round[number])).collect());
        let against = |base: usize, value: &dyn Fn(&Measured) -> f64| {
            sorted(rounds.iter().map(|round| value(&round[number]) / value(&round[base])).collect())
        };
        let ratios: Vec<_> = BASES
            .iter()
            .filter_map(|base| Some((*base, against(place(base)?, &|measured| measured.cpu_us_per_request))))
            .collect();
        let p99 = place(BASES[0]).map(|base| against(base, &|measured| f64::from(measured.p99_us)));
        RowSummary {
            name,
            tokens,
            requests_per_second: at(&of(&|measured| measured.requests_per_second), 0.5).round(),
            cpu_us_per_request: hundredths(at(&of(&|measured| measured.cpu_us_per_request), 0.5)),
            p50_us: at(&of(&|measured| f64::from(measured.p50_us)), 0.5),
            p99_us: at(&of(&|measured| f64::from(measured.p99_us)), 0.5),
            rss_mb: hundredths(at(&of(&|measured| measured.memory as f64 / 1e6), 0.5)),
            failed: rounds.iter().map(|round| round[number].failed).sum(),
            cpu_ratio_to: ratios.iter().map(|(base, ratios)| (*base, hundredths(at(ratios, 0.5)))).collect(),
            cpu_ratio_quartiles: ratios
                .iter()
                .map(|(base, ratios)| (*base, [0.25, 0.75].map(|share| hundredths(at(ratios, share)))))
                .collect(),
            p99_ratio_to_pingora_pass: p99.map_or(0.0, |ratios| hundredths(at(&ratios, 0.5))),
        }
    };
    let rows = rows.iter().enumerate().map(summary).collect();
    Summary { date, machine, rounds: rounds.len(), rows, idle: Vec::new(), es256_us: None, parts: BTreeMap::new() }
}

impl Summary {
    /// As a table of Markdown, for people and for docs/PERFORMANCE.md.
    pub fn markdown(&self) -> String {
        let mut text = format!("{}, {}; {} rounds, medians (quartiles)\n\n", self.date, self.machine, self.rounds);
        text += "| row | tokens | CPU a request, µs | ÷ `pingora_pass` | ÷ `nginx_lua_cached_jwt` | ÷ `gateway_verified` \
                 | ÷ `pwa_kit_slas` | requests/s | p50, µs | p99, µs | p99 ÷ `pingora_pass` | MB | failed |\n\
                 |---|---|---|---|---|---|---|---|---|---|---|---|---|\n";
        for row in &self.rows {
            let ratios = BASES.map(|base| match (row.cpu_ratio_to.get(base), row.cpu_ratio_quartiles.get(base)) {
                (Some(ratio), Some([low, high])) => format!("**{ratio:.2}** ({low:.2}–{high:.2})"),
                _ => "–".to_owned(),
            });
            let _ = writeln!(
                text,
                "| `{}` | {} | {:.1} | {} | {:.0} | {:.0} | {:.0} | {:.2} | {:.1} | {} |",
                row.name,
                row.tokens,
                row.cpu_us_per_request,
                ratios.join(" | "),
                row.requests_per_second,
                row.p50_us,
                row.p99_us,
                row.p99_ratio_to_pingora_pass,
                row.rss_mb,
                row.failed
            );
        }
        text += "\n| idle connections | KB each |\n|---|---|\n";
        for idle in &self.idle {
            let _ = writeln!(text, "| {} to `{}` | {:.1} |", idle.connections, idle.name, idle.kb_per_connection);
        }
        text += "\n| single operation | ns |\n|---|---|\n";
        if let Some(took) = self.es256_us {
            let _ = writeln!(text, "| one ES256 verification, aws-lc-rs alone | {:.0} |", took * 1e3);
        }
        for (name, took) in &self.parts {
            let _ = writeln!(text, "| {name} | {took:.0} |");
        }
        text
    }
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// The value that this share of the others is below.
fn at(sorted: &[f64], share: f64) -> f64 {
    sorted.get((sorted.len().saturating_sub(1) as f64 * share).round() as usize).copied().unwrap_or(0.0)
}

fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

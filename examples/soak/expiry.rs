//! R3: a thousand shoppers whose tokens end at one time.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use salesforce_simulator::Simulator;
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    Outcome,
    acts::CONNECTIONS,
    figures::Figure,
    findings::Findings,
    load::{Load, Shopper},
    processes::Gateway,
};

const SHOPPERS: usize = 1000;

/// Shoppers whose tokens all expire at the same time, later.
pub struct Expiry {
    gateway: Gateway,
    shoppers: Vec<Shopper>,
    ends_at: Instant,
    life: Duration,
}

impl Expiry {
    /// They log in now; the common end is after `life`.
    pub async fn prepare(simulator: &Simulator, life: Duration) -> Outcome<Self> {
        let gateway = Gateway::start(&simulator.url(), "").await?;
        let ends_at = Instant::now() + life;
        let mut shoppers = Vec::new();
        while shoppers.len() < SHOPPERS {
            let left = (ends_at - Instant::now()).as_secs();
            simulator.set(|behaviour| behaviour.shopper_token_seconds = left);
            let some = Shopper::several(gateway.address, 50).await?;
            shoppers.extend(Arc::into_inner(some).unwrap_or_default());
        }
        Ok(Self { gateway, shoppers, ends_at, life })
    }

    /// They are busy while their tokens end.
    pub async fn play(self, simulator: &Simulator, findings: &Findings) -> Outcome<Vec<Figure>> {
        // A quarter of its life before its end a token may be renewed.
        let window = self.life / 4;
        let in_time = Instant::now() < self.ends_at - window;
        simulator.set(|behaviour| behaviour.shopper_token_seconds = 1800);
        sleep_until(self.ends_at - window - Duration::from_secs(3)).await;
        simulator.clear_ledger();
        let shoppers = Arc::new(self.shoppers);
        let load = Load::start(&shoppers, &[self.gateway.address], CONNECTIONS, Some(250.0));
        sleep_until(self.ends_at + Duration::from_secs(2)).await;
        let tally = Arc::clone(&load.tally);
        load.end().await;
        sleep(Duration::from_millis(100)).await;
        findings.inspect(&[self.gateway], &tally)?;
        let mut seconds: BTreeMap<u64, usize> = BTreeMap::new();
        for entry in simulator.ledger().iter().filter(|entry| entry.flow == "token:refresh_token") {
            *seconds.entry(entry.time_ms / 1000).or_default() += 1;
        }
        let all: usize = seconds.values().sum();
        let peak = seconds.values().copied().max().unwrap_or_default();
        let span = match (seconds.keys().next(), seconds.keys().last()) {
            (Some(first), Some(last)) => last - first + 1,
            _ => 1,
        };
        let mean = all as f64 / span as f64;
        let measured = format!("{:.1} × ({all} renewals in {span} s, {peak} in one)", peak as f64 / mean);
        let (failed, how) = tally.failures();
        let wrong = tally.wrong.load(Ordering::Relaxed);
        Ok(vec![
            Figure::new(
                "R3",
                "1,000 tokens end at once: peak second",
                "≤ 3 × mean",
                measured,
                peak as f64 <= 3.0 * mean,
            )
            .if_enough(in_time && all >= SHOPPERS / 2),
            Figure::new("R3", "1,000 tokens end at once: failed", "0", format!("{failed} {how}"), failed + wrong == 0)
                .if_enough(in_time),
        ])
    }
}

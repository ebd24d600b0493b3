//! Events that happen to gateways under load, one after the other.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use salesforce_simulator::Simulator;
use tokio::time::{Instant, sleep};

use crate::{
    Outcome,
    figures::{Figure, Verdict},
    findings::Findings,
    load::{Load, Shopper},
    processes::{Gateway, Redis, store},
};

/// Connections of the load.
pub const CONNECTIONS: usize = 16;
/// Load on a gateway during reloads and restarts (R14).
const CHANGED_AT: f64 = 2500.0;

/// State that all acts share.
pub struct Stage<'a> {
    pub simulator: &'a Simulator,
    pub findings: &'a mut Findings,
    /// How long one act may take.
    pub time: Duration,
}

impl Stage<'_> {
    /// The life of tokens from now on.
    pub fn tokens_live(&self, seconds: u64) {
        self.simulator.set(|behaviour| behaviour.shopper_token_seconds = seconds);
    }

    /// So many gateways on one store.
    async fn gateways(&self, number: usize, store: &str) -> Outcome<Vec<Gateway>> {
        let mut all = Vec::new();
        for _ in 0..number {
            all.push(Gateway::start(&self.simulator.url(), store).await?);
        }
        Ok(all)
    }

    /// R11: the master of Redis is killed, and a Sentinel names another.
    pub async fn sentinel(&mut self) -> Outcome<Vec<Figure>> {
        let mut master = Redis::start(&[]).await?;
        let _follower = Redis::start(&["--replicaof", "127.0.0.1", &master.port.to_string()]).await?;
        let sentinel = Redis::sentinel(master.port).await?;
        // A Sentinel asks its master for followers every ten seconds.
        sleep(Duration::from_secs(11)).await;
        let url = format!("redis+sentinel://127.0.0.1:{}/shop/0", sentinel.port);
        let gateways = self.gateways(2, &store(&url)).await?;
        self.tokens_live(20);
        let addresses: Vec<_> = gateways.iter().map(|gateway| gateway.address).collect();
        let shoppers = Shopper::several(addresses[0], 60).await?;
        let load = Load::start(&shoppers, &addresses, CONNECTIONS, Some(150.0));
        sleep(Duration::from_secs(3)).await;
        master.kill()?;
        sleep(self.time.max(Duration::from_secs(20))).await;
        let tally = Arc::clone(&load.tally);
        load.end().await;
        self.findings.inspect(&gateways, &tally)?;
        let (sent, wrong) = (tally.sent.load(Ordering::Relaxed), tally.wrong.load(Ordering::Relaxed));
        let (failed, how) = tally.failures();
        let share = failed as f64 * 100.0 / sent as f64;
        let measured = format!("{share:.3} % of {sent} {how}");
        Ok(vec![
            Figure::new("R11", "Redis master killed: another shopper's answers", "0", wrong, wrong == 0),
            Figure::new("R11", "Redis master killed: failed", "≤ 0.1 %", measured, share <= 0.1),
        ])
    }

    /// R12: Redis stops answering, and then is gone.
    pub async fn without_redis(&mut self) -> Outcome<Vec<Figure>> {
        let mut redis = Redis::start(&[]).await?;
        let gateways = self.gateways(1, &redis.store()).await?;
        self.tokens_live(1800);
        let address = gateways[0].address;
        let shoppers = Shopper::several(address, 60).await?;
        let load = Load::start(&shoppers, &[address], CONNECTIONS, Some(150.0));
        redis.pause(true)?;
        sleep(Duration::from_secs(5)).await;
        redis.pause(false)?;
        redis.kill()?;
        sleep(self.time.min(Duration::from_secs(60))).await;
        let tally = Arc::clone(&load.tally);
        load.end().await;
        self.findings.inspect(&gateways, &tally)?;
        let (failed, how) = tally.failures();
        let sent = tally.sent.load(Ordering::Relaxed);
        let measured = format!("{failed} of {sent} {how}");
        let wrong = tally.wrong.load(Ordering::Relaxed);
        Ok(vec![Figure::new("R12", "Redis paused 5 s, then gone: failed", "0", measured, failed + wrong == 0)])
    }

    /// R13: one of two gateways is killed.
    pub async fn killed(&mut self) -> Outcome<Vec<Figure>> {
        let redis = Redis::start(&[]).await?;
        let mut gateways = self.gateways(2, &redis.store()).await?;
        self.tokens_live(12);
        let addresses: Vec<_> = gateways.iter().map(|gateway| gateway.address).collect();
        let shoppers = Shopper::several(addresses[0], 60).await?;
        let logged_in = Instant::now();
        let load = Load::start(&shoppers, &addresses, CONNECTIONS, Some(150.0));
        sleep(Duration::from_secs(2)).await;
        gateways[0].kill()?;
        sleep(Duration::from_secs(1)).await;
        // A load balancer has noticed by now.
        load.out[0].store(true, Ordering::Relaxed);
        tokio::time::sleep_until(logged_in + Duration::from_secs(14)).await;
        let (tally, failed) = (Arc::clone(&load.tally), load.tally.failures());
        load.end().await;
        let survivor = Load::start(&shoppers, &addresses[1..], 4, None);
        while survivor.tally.sent.load(Ordering::Relaxed) < shoppers.len() * 2 {
            sleep(Duration::from_millis(20)).await;
        }
        let after = Arc::clone(&survivor.tally);
        survivor.end().await;
        self.findings.inspect(&gateways, &tally)?;
        let lost = after.wrong.load(Ordering::Relaxed) + after.failures().0;
        let measured = format!("{} {}", failed.0, failed.1);
        Ok(vec![
            Figure::new("R13", "one of two gateways killed: sessions lost", "0", lost, lost == 0),
            Figure::new("R13", "one of two gateways killed: failed", "≤ in flight", measured, failed.0 <= CONNECTIONS),
        ])
    }

    /// R14: another configuration or another process every two seconds.
    pub async fn changed(&mut self) -> Outcome<Vec<Figure>> {
        let redis = Redis::start(&[]).await?;
        let mut gateways = self.gateways(1, &redis.store()).await?;
        self.tokens_live(600);
        let address = gateways[0].address;
        let shoppers = Shopper::several(address, 60).await?;
        let load = Load::start(&shoppers, &[address], CONNECTIONS, None);
        let (start, mut reloads, mut handovers) = (Instant::now(), 0, 0);
        while start.elapsed() < self.time.max(Duration::from_secs(9)) {
            sleep(Duration::from_secs(2)).await;
            let gateway = &mut gateways[0];
            // The first process is ours to bury.
            gateway.has_ended()?;
            match gateway.serving()[..] {
                [process] if reloads > handovers => {
                    gateway.signal(process, "QUIT")?;
                    handovers += 1;
                }
                [process] => {
                    gateway.signal(process, "HUP")?;
                    reloads += 1;
                }
                // One is still taking over.
                _ => {}
            }
        }
        let tally = Arc::clone(&load.tally);
        let rate = load.end().await;
        self.findings.inspect(&gateways, &tally)?;
        let (failed, how) = tally.failures();
        let wrong = tally.wrong.load(Ordering::Relaxed);
        let sent = tally.sent.load(Ordering::Relaxed);
        let measured = format!("{failed} of {sent}, {reloads} reloads, {handovers} hand-overs {how}");
        let mut rates =
            Figure::new("R14", "the load meanwhile", "≥ 2,500/s", format!("{rate:.0}/s"), rate >= CHANGED_AT);
        if rates.verdict == Verdict::Missed {
            // Load and simulator share the machine; what it can bear is no property of the gateway.
            rates.verdict = Verdict::NotJudged;
        }
        let changed = handovers > 0 && reloads > 0;
        Ok(vec![Figure::new("R14", "changes under load: failed", "0", measured, failed + wrong == 0 && changed), rates])
    }

    /// R15: one of two gateways stops gracefully.
    pub async fn stopped(&mut self) -> Outcome<Vec<Figure>> {
        let redis = Redis::start(&[]).await?;
        let mut gateways = self.gateways(2, &redis.store()).await?;
        self.tokens_live(600);
        let addresses: Vec<_> = gateways.iter().map(|gateway| gateway.address).collect();
        let shoppers = Shopper::several(addresses[0], 60).await?;
        let load = Load::start(&shoppers, &addresses, CONNECTIONS, Some(150.0));
        sleep(Duration::from_secs(2)).await;
        let (start, first) = (Instant::now(), gateways[0].serving());
        for process in first {
            gateways[0].signal(process, "TERM")?;
        }
        let noticed = gateways[0].until_ready(false).await?;
        load.out[0].store(true, Ordering::Relaxed);
        while !gateways[0].has_ended()? && start.elapsed() < Duration::from_secs(40) {
            sleep(Duration::from_millis(10)).await;
        }
        let took = start.elapsed();
        sleep(Duration::from_secs(1)).await;
        let tally = Arc::clone(&load.tally);
        load.end().await;
        self.findings.inspect(&gateways, &tally)?;
        let (failed, how) = tally.failures();
        let sent = tally.sent.load(Ordering::Relaxed);
        let measured = format!(
            "{failed} of {sent} {how}; not ready after {} ms, ended after {} ms",
            noticed.as_millis(),
            took.as_millis()
        );
        let met = failed == 0 && took < Duration::from_secs(25);
        Ok(vec![Figure::new("R15", "SIGTERM: failed", "0, within 25 s", measured, met)])
    }
}

//! Races for sessions: logout, refresh, login, renewal and reload at several gateways with one store, in one process.
//!
//! The tests check two promises. One second after a logout, no token of that session is valid at any gateway. The
//! logout counts as soon as the gateway has responded with 204 or SLAS has confirmed it. A shopper who logs in later is
//! served, with the same USID too.

pub mod fleet;
mod model;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::future::join_all;

use self::fleet::{Fleet, Shared};
use crate::{
    scale::{self, figure},
    world::register_sessions,
};

/// The time in which every gateway must know a logout.
const KNOWN_WITHIN: Duration = Duration::from_secs(1);
/// Concurrent races.
const CONCURRENT: usize = 25;

/// The state of the tokens of logged-out sessions.
#[derive(Debug, Default)]
struct Outcome {
    logouts: usize,
    /// Sessions with a token that was still valid.
    survived: usize,
    tokens: usize,
}

/// Logouts that race refreshes of the same session at every gateway.
async fn race(fleet: &Fleet, rounds: usize) -> Outcome {
    let mut outcome = Outcome::default();
    for first in (0..rounds).step_by(CONCURRENT) {
        let raced = join_all((first..rounds.min(first + CONCURRENT)).map(|round| race_once(fleet, round))).await;
        let answered = Instant::now();
        tokio::time::sleep_until((answered + KNOWN_WITHIN).into()).await;
        for tokens in raced {
            outcome.logouts += 1;
            outcome.tokens += tokens.len();
            let mut is_good = false;
            for token in &tokens {
                for gateway in 0..fleet.gateways.len() {
                    is_good |= fleet.status(gateway, token).await != 401;
                }
            }
            outcome.survived += usize::from(is_good);
        }
    }
    outcome
}

/// One login, refreshes of it at every gateway, and a logout in the middle of them. Returns all its tokens.
async fn race_once(fleet: &Fleet, round: usize) -> Vec<String> {
    let count = fleet.gateways.len();
    let login = fleet.log_in(round % count).await;
    let refreshers = (0..count).map(|gateway| {
        let first = login.clone();
        async move {
            let mut tokens = Vec::new();
            let mut newest = first;
            let until = Instant::now() + Duration::from_millis(400);
            while Instant::now() < until {
                let Some(token) = fleet.refresh(gateway, &newest).await else { break };
                if token != newest {
                    tokens.push(token.clone());
                }
                newest = token;
            }
            tokens
        }
    });
    let logout = async {
        // The logouts are spread over the duration of the refreshes, also on a busy machine.
        tokio::time::sleep(Duration::from_millis((round as u64 * 7) % 200)).await;
        fleet.log_out((round + 1) % count, &login).await
    };
    let (made, status) = futures::future::join(join_all(refreshers), logout).await;
    assert_eq!(status, 204);
    let mut tokens: Vec<String> = made.into_iter().flatten().chain([login]).collect();
    tokens.sort();
    tokens.dedup();
    tokens
}

fn report(stores: &str, outcome: &Outcome) {
    let Outcome { logouts, survived, tokens } = outcome;
    figure(
        "R26",
        format!("{stores}: {survived} of {logouts} logouts that raced refreshes left a good token ({tokens} tokens)"),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logout_racing_refreshes_at_three_gateways_leaves_no_valid_token() {
    let fleet = Fleet::start(3, Shared::Redis, |_| {}).await;
    let outcome = race(&fleet, scale::of(50, 1000)).await;
    report("three gateways, Redis", &outcome);
    assert_eq!(outcome.survived, 0, "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logout_racing_refreshes_at_one_gateway_leaves_no_valid_token() {
    for shared in [Shared::Redis, Shared::Memory] {
        let fleet = Fleet::start(1, shared, |_| {}).await;
        let outcome = race(&fleet, scale::of(50, 300)).await;
        report(&format!("one gateway, {shared:?}"), &outcome);
        assert_eq!(outcome.survived, 0, "{shared:?}: {outcome:?}");
    }
}

/// A guest refreshes at every gateway during a logout and for half a second after it. The logout comes at the end of a
/// second, so that tokens issued after it have a later issue time. Returns all tokens.
async fn race_at_end_of_second(fleet: &Fleet, round: usize) -> Vec<String> {
    let count = fleet.gateways.len();
    let login = fleet.guest_at_slas(round % count, None).await;
    let (over, is_over) = tokio::sync::watch::channel(false);
    // Several requests wait for one refresh, at one gateway too.
    let refreshers = (0..count.max(3)).map(|number| {
        let (first, is_over) = (login.clone(), is_over.clone());
        async move {
            let mut tokens = Vec::new();
            let mut refresh = first.refresh;
            while !*is_over.borrow() {
                // A refused client tries again after a moment, as a thief would.
                match fleet.refresh_at_slas(number % count, &refresh).await {
                    Some(answer) => {
                        refresh = answer.refresh;
                        tokens.push(answer.access);
                    }
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
            tokens
        }
    });
    let logout = async {
        // The refreshes are under way; then the end of a second.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let at = Duration::from_millis(960 + (round as u64 * 7) % 38);
        let past = Duration::from_nanos(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos().into());
        let second = Duration::from_secs(1);
        tokio::time::sleep(if past < at { at - past } else { second + at - past }).await;
        let status = fleet.log_out((round + 1) % count, &login.access).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        over.send_replace(true);
        status
    };
    let (made, status) = futures::future::join(join_all(refreshers), logout).await;
    assert_eq!(status, 204);
    made.into_iter().flatten().chain([login.access]).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logout_at_end_of_second_leaves_no_valid_token_of_refreshing_guest() {
    for (count, shared, registers) in
        [(2, Shared::Redis, true), (2, Shared::Redis, false), (1, Shared::Memory, true), (1, Shared::Memory, false)]
    {
        let fleet = Fleet::start(count, shared, |config| {
            if registers {
                register_sessions(config);
            }
        })
        .await;
        let rounds = scale::of(12, 200);
        for first in (0..rounds).step_by(12) {
            let raced =
                join_all((first..rounds.min(first + 12)).map(|round| race_at_end_of_second(&fleet, round))).await;
            tokio::time::sleep(KNOWN_WITHIN).await;
            for token in raced.iter().flatten() {
                for gateway in 0..count {
                    assert_eq!(fleet.status(gateway, token).await, 401, "{shared:?}, registered: {registers}");
                }
            }
        }
    }
}

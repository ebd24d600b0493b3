//! Random actions of shoppers at several gateways, compared with a model that knows the valid tokens.
//!
//! In each step all shoppers act at the same time. They log in, refresh at several gateways at once, log out, revoke a
//! refresh token meanwhile, or log in again with the same USID. Gateways reload meanwhile, and are replaced between
//! steps. One second after a step the test compares each token at each gateway with the model.

use std::time::{Duration, Instant};

use futures::future::join_all;

use super::{
    KNOWN_WITHIN,
    fleet::{Fleet, Shared},
};
use crate::{
    scale::{self, figure},
    slas::PRIVATE_SECRET,
    world::register_sessions as register,
};

const SHOPPERS: usize = 10;
/// Maximum of ended tokens of a shopper that later steps try again.
const MAX_REMEMBERED: usize = 6;

/// Random numbers of a seed (xorshift64*), so that a failure can be reproduced.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    }
}

/// A login without a logout.
#[derive(Debug, Clone)]
struct Login {
    /// The refresh token of a login at SLAS; the deprecated logins return none.
    refresh: Option<String>,
    tokens: Vec<String>,
}

#[derive(Debug, Clone, Default)]
struct Shopper {
    login: Option<Login>,
    /// The USID that the next login at SLAS continues.
    usid: Option<String>,
    ended: Vec<String>,
}

impl Shopper {
    fn end(&mut self) {
        if let Some(login) = self.login.take() {
            self.ended.extend(login.tokens);
        }
    }
}

struct Simulation<'f> {
    fleet: &'f Fleet,
    registers: bool,
    random: Random,
}

impl Simulation<'_> {
    fn gateway(&mut self) -> usize {
        self.random.below(self.fleet.gateways.len())
    }

    async fn act(mut self, mut shopper: Shopper) -> Shopper {
        if shopper.login.is_none() {
            self.log_in(&mut shopper).await;
        }
        match self.random.below(6) {
            0 => self.refresh_everywhere(&mut shopper, 1).await,
            1 | 2 => self.log_out(&mut shopper).await,
            3 => {
                self.log_out(&mut shopper).await;
                // The next login is in the same second, and has the same USID if there is one.
                if shopper.login.is_none() {
                    self.log_in(&mut shopper).await;
                    self.refresh_everywhere(&mut shopper, 1).await;
                }
            }
            4 => self.revoke(&mut shopper).await,
            _ => {}
        }
        shopper
    }

    /// A revocation during refreshes. It ends sessions that the gateways know. Without registered sessions only SLAS
    /// handles it, and the tokens stay valid.
    async fn revoke(&mut self, shopper: &mut Shopper) {
        let (gateway, delay) = (self.gateway(), Duration::from_millis(self.random.below(40) as u64));
        let Some(login) = shopper.login.as_mut().filter(|_| self.registers) else { return };
        let Some(refresh) = login.refresh.clone() else { return };
        // The delays spread revocations and logouts over the duration of a refresh.
        let revocation = async {
            tokio::time::sleep(delay).await;
            self.fleet.revoke(gateway, &refresh, PRIVATE_SECRET).await
        };
        let (made, status) = futures::future::join(refreshed(self.fleet, login, 2), revocation).await;
        login.tokens.extend(made);
        if status == 200 {
            shopper.end();
        } else {
            assert_eq!(status, 400);
        }
    }

    async fn log_in(&mut self, shopper: &mut Shopper) {
        let gateway = self.gateway();
        shopper.login = Some(if self.random.below(2) == 0 {
            Login { refresh: None, tokens: vec![self.fleet.log_in(gateway).await] }
        } else {
            let tokens = self.fleet.log_in_at_slas(gateway, shopper.usid.as_deref()).await;
            shopper.usid = Some(tokens.usid);
            Login { refresh: Some(tokens.refresh), tokens: vec![tokens.access] }
        });
    }

    /// Several refreshes at every gateway at the same time.
    async fn refresh_everywhere(&mut self, shopper: &mut Shopper, times: usize) {
        let Some(login) = &mut shopper.login else { return };
        let made = refreshed(self.fleet, login, times).await;
        login.tokens.extend(made);
    }

    /// A logout during refreshes.
    async fn log_out(&mut self, shopper: &mut Shopper) {
        let (gateway, delay) = (self.gateway(), Duration::from_millis(self.random.below(40) as u64));
        let Some(login) = &mut shopper.login else { return };
        let shown = login.tokens.last().unwrap().clone();
        let logout = async {
            tokio::time::sleep(delay).await;
            match &login.refresh {
                None => self.fleet.log_out(gateway, &shown).await,
                Some(refresh) => self.fleet.log_out_at_slas(gateway, &shown, refresh, None).await,
            }
        };
        let (made, status) = futures::future::join(refreshed(self.fleet, login, 2), logout).await;
        login.tokens.extend(made);
        // SLAS does not confirm a logout with an invalid refresh token, so nothing ends.
        if matches!(status, 200 | 204) {
            shopper.end();
        } else {
            assert_eq!(status, 400);
        }
    }
}

/// New tokens of a login, requested at every gateway at the same time.
async fn refreshed(fleet: &Fleet, login: &Login, times: usize) -> Vec<String> {
    let ask = |gateway: usize| async move {
        let mut made = Vec::new();
        for _ in 0..times {
            let token = match &login.refresh {
                None => fleet.refresh(gateway, login.tokens.last().unwrap()).await,
                Some(refresh) => fleet.refresh_at_slas(gateway, refresh).await.map(|tokens| tokens.access),
            };
            made.extend(token);
        }
        made
    };
    let mut made: Vec<String> = join_all((0..fleet.gateways.len()).map(ask)).await.into_iter().flatten().collect();
    made.sort();
    made.dedup();
    made.retain(|token| !login.tokens.contains(token));
    made
}

/// Asserts that every token is valid or invalid at every gateway as in the model.
async fn check(fleet: &Fleet, shoppers: &[Shopper], told: &str) -> usize {
    let mut checked = 0;
    for gateway in 0..fleet.gateways.len() {
        for (number, shopper) in shoppers.iter().enumerate() {
            let living = shopper.login.iter().flat_map(|login| &login.tokens).map(|token| (token, 200));
            for (token, expected) in shopper.ended.iter().map(|token| (token, 401)).chain(living) {
                let status = fleet.status(gateway, token).await;
                assert_eq!(status, expected, "{told}: shopper {number} at gateway {gateway}");
                checked += 1;
            }
        }
    }
    checked
}

/// Runs steps with this seed. Returns the number of checked tokens.
async fn simulate(count: usize, shared: Shared, register_sessions: bool, seed: u64, steps: usize) -> usize {
    let change = move |config: &mut toml::Table| {
        if register_sessions {
            register(config);
        }
    };
    let mut fleet = Fleet::start(count, shared, change).await;
    let mut random = Random(seed);
    let mut shoppers = vec![Shopper::default(); SHOPPERS];
    let mut checked = 0;
    for step in 0..steps {
        let told =
            format!("{count} gateways, {shared:?}, register_sessions {register_sessions}, seed {seed}, step {step}");
        let reloaded = random.below(2 * count);
        let acts = shoppers.into_iter().map(|shopper| {
            let random = Random(random.0 ^ ((random.below(1 << 30) as u64 + 1) << 7));
            Simulation { fleet: &fleet, registers: register_sessions, random }.act(shopper)
        });
        shoppers = join_all(acts.collect::<Vec<_>>()).await;
        if step % 3 == 2 {
            // A logout ends every session of the customer, which the logins at SLAS share.
            let of_customer =
                |shopper: &&mut Shopper| shopper.login.as_ref().is_some_and(|login| login.refresh.is_some());
            let mut of_customer: Vec<_> = shoppers.iter_mut().filter(of_customer).collect();
            if let Some(login) = of_customer.first().and_then(|shopper| shopper.login.clone()) {
                let (shown, refresh) = (login.tokens.last().unwrap(), login.refresh.unwrap());
                let status = fleet.log_out_at_slas(random.below(count), shown, &refresh, Some("all-sessions")).await;
                assert_eq!(status, 200, "{told}");
                of_customer.iter_mut().for_each(|shopper| shopper.end());
            }
        }
        let answered = Instant::now();
        if reloaded < count {
            fleet.gateways[reloaded].reload(|_| {}).unwrap();
        }
        if shared == Shared::Redis && step % 2 == 1 {
            let fresh = fleet.new_gateway(change).await;
            let position = random.below(count);
            std::mem::replace(&mut fleet.gateways[position], fresh).stop().await;
        }
        tokio::time::sleep_until((answered + KNOWN_WITHIN).into()).await;
        checked += check(&fleet, &shoppers, &told).await;
        for shopper in &mut shoppers {
            let old = shopper.ended.len().saturating_sub(MAX_REMEMBERED);
            shopper.ended.drain(..old);
        }
    }
    checked
}

async fn simulate_seeds(count: usize, shared: Shared, register_sessions: bool) {
    let (seeds, steps) = scale::of((1, 6), (20, 12));
    let mut checked = 0;
    for seed in 1..=seeds {
        checked += simulate(count, shared, register_sessions, 0x9E37_79B9 * seed + count as u64, steps).await;
    }
    let told = format!("{count} gateways, {shared:?}, register_sessions {register_sessions}");
    figure("R26", format!("{told}: {seeds} lives of {SHOPPERS} shoppers, {checked} answers as the model says"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_match_model_at_three_gateways_with_registered_sessions() {
    simulate_seeds(3, Shared::Redis, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_match_model_at_two_gateways_without_registered_sessions() {
    simulate_seeds(2, Shared::Redis, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_match_model_at_one_gateway_with_sessions_in_memory() {
    for register_sessions in [true, false] {
        simulate_seeds(1, Shared::Memory, register_sessions).await;
    }
}

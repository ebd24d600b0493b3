//! How many logins may fail: for one address, for one login id from one address, and for one login id.
//!
//! A login id counts under its normalized form (`login_id`). Passwords, one-time codes and messages are counted apart, so that
//! a shopper who has mistyped a password can still ask for a code.
//!
//! Owns the counting, in this gateway alone. An attempt counts when it begins, so that a thousand at once are a thousand,
//! and what succeeded is given back: who logs in rightly uses up nothing, however often. The trade-off: a bound on a login
//! id alone lets anybody keep its owner out by failing on purpose, and none lets a thousand addresses guess. So the
//! bound for a login id from one address is low, and the one for it from everywhere is high.
//!
//! Bounded, as each [`KeyedRateLimiter`] is. The keys are hashes, from which no login id or address can be read.

use std::{net::IpAddr, time::Duration};

use super::{login_attempt::LoginAttempt, login_id::normalized};
use crate::{
    config::{Limits, Logins},
    jwt::sha256,
    ratelimit::{BucketConfig, KeyedRateLimiter},
    types::OrganizationId,
};

/// What failed, by whom and for whom.
#[derive(Debug, Clone)]
pub(super) struct Attempts {
    of_address: KeyedRateLimiter<[u8; 32]>,
    of_both: KeyedRateLimiter<[u8; 32]>,
    of_login: KeyedRateLimiter<[u8; 32]>,
    per_minute_of_both: u32,
    per_minute_of_login: u32,
}

/// A login under way, counted as failed until it has succeeded.
#[derive(Debug)]
#[must_use = "an attempt that is not ended counts as failed"]
pub(in crate::gateway) struct Attempt(Vec<Failure>);

/// One that is counted: where, under which key, and how many a minute may be.
#[derive(Debug)]
struct Failure {
    limiter: KeyedRateLimiter<[u8; 32]>,
    key: [u8; 32],
    config: BucketConfig,
}

impl Attempts {
    pub(super) fn new(logins: &Logins) -> Self {
        Self {
            of_address: KeyedRateLimiter::default(),
            of_both: KeyedRateLimiter::default(),
            of_login: KeyedRateLimiter::default(),
            per_minute_of_both: logins.failed_per_address_and_login,
            per_minute_of_login: logins.failed_per_login,
        }
    }

    /// Begins an attempt, as far as it is known by whom and for whom. `address` is what the client is counted under.
    ///
    /// # Errors
    /// How long to wait.
    pub(super) fn begin(
        &self,
        organization: &OrganizationId,
        limits: &Limits,
        address: Option<IpAddr>,
        subject: &LoginAttempt,
    ) -> Result<Attempt, Duration> {
        let of_address = address.and_then(|address| limits.for_address(address).failed_logins).unwrap_or(0);
        let address = address.map(|address| address.to_string());
        let mut logins: Vec<String> = subject.logins.iter().map(|login| normalized(login)).collect();
        logins.sort_unstable();
        logins.dedup();
        logins.retain(|login| !login.is_empty());
        let name = |parts: &[&str]| sha256(parts.join("\0"));
        let (organization, kind) = (organization.as_str(), subject.kind.as_str());
        let (of_both, of_login) = (self.per_minute_of_both, self.per_minute_of_login);
        let mut named = Vec::with_capacity(1 + 2 * logins.len());
        named.extend(
            address.as_deref().map(|address| (&self.of_address, of_address, name(&[organization, "a", address]))),
        );
        for login in &logins {
            let both = address.as_deref().map(|address| name(&[organization, "b", kind, address, login]));
            named.extend(both.map(|both| (&self.of_both, of_both, both)));
            named.push((&self.of_login, of_login, name(&[organization, "l", kind, login])));
        }
        let mut attempt = Attempt(Vec::with_capacity(named.len()));
        for (limiter, per_minute, key) in named.into_iter().filter(|(_, per_minute, _)| *per_minute > 0) {
            let config = BucketConfig::per_minute(per_minute);
            if let Err(wait) = limiter.try_acquire(&key, config, 1) {
                // What was not tried did not fail.
                attempt.end(false);
                return Err(wait);
            }
            attempt.0.push(Failure { limiter: limiter.clone(), key, config });
        }
        Ok(attempt)
    }
}

impl Attempt {
    /// Says how it ended.
    pub(in crate::gateway) fn end(self, failed: bool) {
        if !failed {
            self.0.iter().for_each(|counted| counted.limiter.refund(&counted.key, counted.config, 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::AddressLimits,
        gateway::limits::{client_address::owner, login_attempt::Kind},
    };

    const HERE: &str = "192.0.2.1";

    const MINUTE: Duration = Duration::from_secs(60);

    struct Stage {
        attempts: Attempts,
        limits: Limits,
    }

    fn attempts(failed_per_address: u32, failed_per_address_and_login: u32, failed_per_login: u32) -> Stage {
        let logins = Logins { max_concurrent: 1, failed_per_address, failed_per_address_and_login, failed_per_login };
        let failed_logins = Some(failed_per_address).filter(|limit| *limit > 0);
        let limits = Limits {
            body: 1,
            min_body_rate: 1,
            max_header_bytes: 1,
            max_headers: 1,
            max_uri_bytes: 1,
            connections: 1,
            requests: 1,
            incomplete_requests: 1,
            held_bodies: 1,
            per_address: AddressLimits { failed_logins, ..AddressLimits::default() },
            max_concurrent_requests: 1,
            queue_timeout: Duration::ZERO,
            networks: Vec::new(),
        };
        Stage { attempts: Attempts::new(&logins), limits }
    }

    fn begin(stage: &Stage, address: &str, login: &str) -> Result<Attempt, Duration> {
        begin_of(stage, address, Kind::Password, &[login])
    }

    fn begin_of(stage: &Stage, address: &str, kind: Kind, logins: &[&str]) -> Result<Attempt, Duration> {
        let subject = LoginAttempt { kind, logins: logins.iter().map(|&login| login.to_owned()).collect() };
        let address = owner(address.parse().unwrap());
        stage.attempts.begin(&"f_ecom_zzrf_001".parse().unwrap(), &stage.limits, Some(address), &subject)
    }

    /// How many of so many failures are let through.
    fn failures(stage: &Stage, whose: impl Fn(usize) -> (String, String)) -> usize {
        let tried = (0..200).map(whose).filter(|(address, login)| {
            begin(stage, address, login).inspect_err(|wait| assert!(*wait <= MINUTE)).is_ok()
        });
        tried.count()
    }

    #[test]
    fn each_of_the_bounds_holds() {
        let one = |_| (HERE.to_owned(), "Ada".to_owned());
        let many_logins = |number| (HERE.to_owned(), format!("login-{number}"));
        let many_addresses = |number| (format!("192.0.2.{number}"), "ada".to_owned());
        let one_network = |number| (format!("2001:db8::{number}"), format!("login-{number}"));
        assert_eq!(failures(&attempts(60, 5, 100), one), 5);
        assert_eq!(failures(&attempts(60, 5, 100), many_logins), 60);
        assert_eq!(failures(&attempts(60, 5, 100), many_addresses), 100);
        assert_eq!(failures(&attempts(60, 5, 100), one_network), 60);
        assert_eq!(failures(&attempts(0, 0, 0), one), 200, "0 is no bound");
    }

    #[test]
    fn what_succeeds_is_never_too_much() {
        let attempts = attempts(10, 2, 10);
        for _ in 0..1000 {
            begin(&attempts, HERE, "ada").unwrap().end(false);
        }
        begin(&attempts, HERE, "ada").unwrap().end(true);
        drop(begin(&attempts, HERE, "ada").unwrap());
        let wait = begin(&attempts, HERE, "ADA").unwrap_err();
        assert!(wait > Duration::from_secs(25), "{wait:?}");
        begin(&attempts, HERE, "bob").unwrap().end(false);
    }

    #[test]
    fn every_spelling_of_a_login_counts_for_the_login() {
        let attempts = attempts(0, 3, 0);
        for spelling in ["Ada", "  ada\u{200b}", "ＡＤＡ"] {
            begin(&attempts, HERE, spelling).unwrap().end(true);
        }
        assert!(begin(&attempts, HERE, "ada").is_err());
        // Two readings of one request count for both logins.
        begin_of(&attempts, HERE, Kind::Password, &["bob", "b\u{f6}b"]).unwrap().end(true);
        for login in ["bob", "böb"] {
            for _ in 0..2 {
                begin(&attempts, HERE, login).unwrap().end(true);
            }
            assert!(begin(&attempts, HERE, login).is_err(), "{login}");
        }
    }

    #[test]
    fn a_message_is_sent_after_mistyped_passwords_and_counts_apart() {
        let attempts = attempts(0, 2, 0);
        for kind in [Kind::Password, Kind::Code, Kind::Message] {
            for _ in 0..2 {
                begin_of(&attempts, HERE, kind, &["ada"]).unwrap().end(true);
            }
            assert!(begin_of(&attempts, HERE, kind, &["ada"]).is_err(), "{kind:?}");
        }
    }

    #[test]
    fn an_attempt_that_one_bound_refuses_uses_up_none_of_the_others() {
        let attempts = attempts(2, 1, 0);
        begin(&attempts, HERE, "ada").unwrap().end(true);
        for _ in 0..10 {
            assert!(begin(&attempts, HERE, "ada").is_err());
        }
        begin(&attempts, HERE, "bob").unwrap().end(true);
    }
}

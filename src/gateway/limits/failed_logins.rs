//! Limits of failed logins: per client address, per login id from one address, and per login id from all addresses.
//!
//! A login counts when it begins, so concurrent guesses all count. A login that has not failed is taken back: a client that sends
//! right passwords uses nothing up. A low limit per login id would let anyone lock its owner out, and without any limit a thousand
//! addresses could guess. So the limit per login id from one address is low, and the one from all addresses is high.
//!
//! A login id counts under its normalized form (`normalized_login_id`). Passwords, one-time codes and messages count separately: a
//! shopper who has mistyped a password can still request a code. Each gateway counts for itself. The keys are hashes, which reveal
//! no login id or address, and each [`KeyedRateLimiter`] has a bounded number of them.

use std::{net::IpAddr, time::Duration};

use super::{count::Count, login_attempt::LoginAttempt, normalized_login_id::normalized};
use crate::{
    config::{AddressLimits, Limits, Logins},
    jwt::sha256,
    ratelimit::KeyedRateLimiter,
    types::OrganizationId,
};

/// Counts failed logins. A clone shares the counts.
#[derive(Debug, Clone)]
pub(super) struct FailedLogins {
    per_address: KeyedRateLimiter<[u8; 32]>,
    per_address_and_login: KeyedRateLimiter<[u8; 32]>,
    per_login: KeyedRateLimiter<[u8; 32]>,
    limits: Logins,
}

/// The counts of a login that has not ended. A login that is not settled counts as failed.
#[derive(Debug, Default)]
#[must_use = "a login that is not settled counts as failed"]
pub(super) struct PendingLogin(Vec<Count>);

impl FailedLogins {
    /// The limits of a configuration. The counts of `before` continue if its limits are the same.
    pub(super) fn new(limits: &Logins, before: Option<&Self>) -> Self {
        if let Some(before) = before.filter(|before| before.limits == *limits) {
            return before.clone();
        }
        Self {
            per_address: KeyedRateLimiter::default(),
            per_address_and_login: KeyedRateLimiter::default(),
            per_login: KeyedRateLimiter::default(),
            limits: limits.clone(),
        }
    }

    /// Counts a login as failed, for its client address and for each login id that it names.
    ///
    /// # Errors
    /// The time until the next login is allowed.
    pub(super) fn begin(
        &self,
        organization: &OrganizationId,
        limits: &Limits,
        address: Option<IpAddr>,
        attempt: &LoginAttempt,
    ) -> Result<PendingLogin, Duration> {
        let AddressLimits { failed_logins, failed_logins_per_id, .. } =
            address.map(|address| *limits.for_address(address)).unwrap_or_default();
        let address = address.map(|address| address.to_string());
        let mut logins: Vec<String> = attempt.logins.iter().map(|login| normalized(login)).collect();
        logins.sort_unstable();
        logins.dedup();
        logins.retain(|login| !login.is_empty());
        let key = |parts: &[&str]| sha256(parts.join("\0"));
        let (organization, kind) = (organization.as_str(), attempt.kind.as_str());
        let failed_per_login = Some(self.limits.failed_per_login).filter(|limit| *limit > 0);
        let mut counts = Vec::with_capacity(1 + 2 * logins.len());
        if let Some(address) = &address {
            counts.push((&self.per_address, failed_logins, key(&[organization, "a", address])));
        }
        for login in &logins {
            if let Some(address) = &address {
                let key = key(&[organization, "b", kind, address, login]);
                counts.push((&self.per_address_and_login, failed_logins_per_id, key));
            }
            counts.push((&self.per_login, failed_per_login, key(&[organization, "l", kind, login])));
        }
        let mut pending = PendingLogin(Vec::with_capacity(counts.len()));
        for (limiter, per_minute, key) in counts {
            let Some(per_minute) = per_minute else { continue };
            match Count::acquire(limiter, key, per_minute, 1) {
                Ok(count) => pending.0.push(count),
                Err(wait) => {
                    pending.settle(false);
                    return Err(wait);
                }
            }
        }
        Ok(pending)
    }
}

impl PendingLogin {
    /// Settles the login. A login that has not failed, or was not sent, is taken back.
    pub(super) fn settle(self, has_failed: bool) {
        if !has_failed {
            self.0.into_iter().for_each(Count::give_back);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::limits::{client_address::owner, login_attempt::AttemptKind};

    const ADDRESS: &str = "192.0.2.1";
    const MINUTE: Duration = Duration::from_secs(60);

    struct Fixture {
        failed_logins: FailedLogins,
        limits: Limits,
    }

    impl Fixture {
        fn new(failed_per_address: u32, failed_per_address_and_login: u32, failed_per_login: u32) -> Self {
            let logins =
                Logins { max_concurrent: 1, failed_per_address, failed_per_address_and_login, failed_per_login };
            let limit = |number| Some(number).filter(|number| *number > 0);
            let per_address = AddressLimits {
                failed_logins: limit(failed_per_address),
                failed_logins_per_id: limit(failed_per_address_and_login),
                ..AddressLimits::default()
            };
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
                per_address,
                max_concurrent_requests: 1,
                queue_timeout: Duration::ZERO,
                networks: Vec::new(),
            };
            Self { failed_logins: FailedLogins::new(&logins, None), limits }
        }

        fn begin(&self, address: &str, login: &str) -> Result<PendingLogin, Duration> {
            self.begin_kind(address, AttemptKind::Password, &[login])
        }

        fn begin_kind(&self, address: &str, kind: AttemptKind, logins: &[&str]) -> Result<PendingLogin, Duration> {
            let attempt = LoginAttempt { kind, logins: logins.iter().map(|&login| login.to_owned()).collect() };
            let address = owner(address.parse().unwrap());
            self.failed_logins.begin(&"f_ecom_zzrf_001".parse().unwrap(), &self.limits, Some(address), &attempt)
        }

        fn fail(&self, address: &str, login: &str) {
            self.begin(address, login).unwrap().settle(true);
        }

        /// Returns how many of 200 failing logins are allowed.
        fn allowed(&self, address_and_login: impl Fn(usize) -> (String, String)) -> usize {
            let allowed = (0..200).map(address_and_login).filter(|(address, login)| {
                self.begin(address, login).inspect_err(|wait| assert!(*wait <= MINUTE)).is_ok()
            });
            allowed.count()
        }
    }

    #[test]
    fn failed_logins_are_limited_per_address_and_login() {
        let one = |_| (ADDRESS.to_owned(), "Ada".to_owned());
        let many_logins = |number| (ADDRESS.to_owned(), format!("login-{number}"));
        let many_addresses = |number| (format!("192.0.2.{number}"), "ada".to_owned());
        let one_network = |number| (format!("2001:db8::{number}"), format!("login-{number}"));
        assert_eq!(Fixture::new(60, 5, 100).allowed(one), 5);
        assert_eq!(Fixture::new(60, 5, 100).allowed(many_logins), 60);
        assert_eq!(Fixture::new(60, 5, 100).allowed(many_addresses), 100);
        assert_eq!(Fixture::new(60, 5, 100).allowed(one_network), 60);
        assert_eq!(Fixture::new(0, 0, 0).allowed(one), 200, "0 is no limit");
    }

    #[test]
    fn successful_logins_are_not_limited() {
        let fixture = Fixture::new(10, 2, 10);
        for _ in 0..1000 {
            fixture.begin(ADDRESS, "ada").unwrap().settle(false);
        }
        fixture.fail(ADDRESS, "ada");
        // A login that is dropped counts as failed.
        drop(fixture.begin(ADDRESS, "ada").unwrap());
        let wait = fixture.begin(ADDRESS, "ADA").unwrap_err();
        assert!(wait > Duration::from_secs(25), "{wait:?}");
        fixture.begin(ADDRESS, "bob").unwrap().settle(false);
    }

    #[test]
    fn all_spellings_of_a_login_id_count_as_one() {
        let fixture = Fixture::new(0, 3, 0);
        for spelling in ["Ada", "  ada\u{200b}", "ＡＤＡ"] {
            fixture.fail(ADDRESS, spelling);
        }
        assert!(fixture.begin(ADDRESS, "ada").is_err());
        // A request with two readings counts for both login ids.
        fixture.begin_kind(ADDRESS, AttemptKind::Password, &["bob", "b\u{f6}b"]).unwrap().settle(true);
        for login in ["bob", "böb"] {
            for _ in 0..2 {
                fixture.fail(ADDRESS, login);
            }
            assert!(fixture.begin(ADDRESS, login).is_err(), "{login}");
        }
    }

    #[test]
    fn passwords_codes_and_messages_count_separately() {
        let fixture = Fixture::new(0, 2, 0);
        for kind in [AttemptKind::Password, AttemptKind::Code, AttemptKind::Message] {
            for _ in 0..2 {
                fixture.begin_kind(ADDRESS, kind, &["ada"]).unwrap().settle(true);
            }
            assert!(fixture.begin_kind(ADDRESS, kind, &["ada"]).is_err(), "{kind:?}");
        }
    }

    #[test]
    fn login_rejected_by_one_limit_counts_in_no_other() {
        let fixture = Fixture::new(2, 1, 0);
        fixture.fail(ADDRESS, "ada");
        for _ in 0..10 {
            assert!(fixture.begin(ADDRESS, "ada").is_err());
        }
        fixture.fail(ADDRESS, "bob");
    }
}

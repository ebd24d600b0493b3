//! How many connections there may be, in all and from one address.
//!
//! Owns the order of the two questions. A place is taken when a connection is accepted and given back when its [`ConnectionPermit`]
//! goes.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use prometheus::IntGauge;

use super::address_usage::{AddressEntry, AddressTable};
use crate::gateway::limits::client_address::owner;

/// All limiter.
#[derive(Debug)]
pub(super) struct ConnectionLimiter {
    limit: usize,
    addresses: Arc<AddressTable>,
    /// Whether the operator has been told of the limit of one address.
    has_warned: AtomicBool,
    gauge: IntGauge,
}

/// One place, taken until this is dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    limiter: Arc<ConnectionLimiter>,
    /// The address that has it.
    pub(super) address: Arc<AddressEntry>,
    /// Whether that is one of `server.trusted_proxies`.
    pub(super) is_proxy: bool,
}

/// What the configuration says of the connections from one address.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct AddressPolicy {
    /// Whether it is one of `server.trusted_proxies`.
    pub(super) is_proxy: bool,
    /// How many connections it may have; `None`: no limit.
    pub(super) connections: Option<usize>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LimitExceeded {
    /// All are taken.
    Total,
    /// All that one address may have are taken.
    Address,
}

impl ConnectionLimiter {
    /// This many places; `gauge` shows how many are taken.
    pub(super) fn new(limit: usize, gauge: IntGauge) -> Arc<Self> {
        Arc::new(Self { limit, addresses: Arc::default(), has_warned: AtomicBool::new(false), gauge })
    }

    /// Takes a place for a client.
    ///
    /// # Errors
    /// [`LimitExceeded`].
    pub(super) fn acquire(
        self: &Arc<Self>,
        client: IpAddr,
        policy: AddressPolicy,
    ) -> Result<ConnectionPermit, LimitExceeded> {
        if !self.addresses.totals.connections.try_add(1, Some(self.limit)) {
            return Err(LimitExceeded::Total);
        }
        let address = self.addresses.entry(owner(client));
        if !address.counters().connections.try_add(1, policy.connections) {
            self.addresses.totals.connections.sub(1);
            if !self.has_warned.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "a client has limits.connections_per_address connections, more are refused; \
                     if it is a load balancer, add it to server.trusted_proxies"
                );
            }
            return Err(LimitExceeded::Address);
        }
        self.gauge.inc();
        Ok(ConnectionPermit { limiter: Arc::clone(self), address, is_proxy: policy.is_proxy })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.limiter.gauge.dec();
        self.address.counters().connections.sub(1);
        self.address.totals().connections.sub(1);
    }
}

impl LimitExceeded {
    /// In metrics.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Total => "connection_limit",
            Self::Address => "per_address_limit",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(connections: usize) -> Arc<ConnectionLimiter> {
        ConnectionLimiter::new(connections, IntGauge::new("connections", "test").unwrap())
    }

    fn acquire(
        limiter: &Arc<ConnectionLimiter>,
        client: &str,
        of_address: Option<usize>,
    ) -> Result<ConnectionPermit, LimitExceeded> {
        limiter.acquire(client.parse().unwrap(), AddressPolicy { is_proxy: false, connections: of_address })
    }

    #[test]
    fn dropped_permit_frees_its_connection() {
        let limiter = limiter(2);
        let (one, other) =
            (acquire(&limiter, "192.0.2.1", None).unwrap(), acquire(&limiter, "192.0.2.1", None).unwrap());
        assert_eq!(acquire(&limiter, "192.0.2.2", None).err(), Some(LimitExceeded::Total));
        assert_eq!(limiter.gauge.get(), 2);
        drop(one);
        let again = acquire(&limiter, "192.0.2.2", None).unwrap();
        assert_eq!(acquire(&limiter, "192.0.2.2", None).err(), Some(LimitExceeded::Total));
        drop((other, again));
        assert_eq!((limiter.addresses.totals.connections.get(), limiter.gauge.get()), (0, 0));
    }

    #[test]
    fn address_limit_leaves_connections_to_other_addresses() {
        let limiter = limiter(100);
        for (one, same, other) in [
            ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
            ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", "2001:db8:0:1::1"),
        ] {
            let taken = [acquire(&limiter, one, Some(2)).unwrap(), acquire(&limiter, same, Some(2)).unwrap()];
            assert_eq!(acquire(&limiter, one, Some(2)).err(), Some(LimitExceeded::Address));
            let others = acquire(&limiter, other, Some(2)).unwrap();
            drop(taken);
            assert!(acquire(&limiter, one, Some(2)).is_ok());
            drop(others);
        }
        assert_eq!(limiter.addresses.totals.connections.get(), 0);
        assert_eq!(limiter.addresses.len(), 0, "addresses that are gone are forgotten");
    }
}

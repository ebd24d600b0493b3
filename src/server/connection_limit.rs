//! Limits connections, in total and per client address.
//!
//! A [`ConnectionPermit`] is acquired when a connection is accepted, and released when it is dropped.

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

/// Counts connections and rejects those beyond the limits.
#[derive(Debug)]
pub(super) struct ConnectionLimiter {
    limit: usize,
    addresses: Arc<AddressTable>,
    /// Whether the per-address limit has been logged. It is logged once per process.
    has_warned: AtomicBool,
    gauge: IntGauge,
}

/// Permission to keep one connection open; released on drop.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    limiter: Arc<ConnectionLimiter>,
    /// The client's address.
    pub(super) address: Arc<AddressEntry>,
    /// Whether the address is in `server.trusted_proxies`.
    pub(super) is_proxy: bool,
}

/// How the configuration treats connections from one address.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct AddressPolicy {
    /// Whether the address is in `server.trusted_proxies`.
    pub(super) is_proxy: bool,
    /// Maximum connections of the address; `None`: no limit.
    pub(super) connections: Option<usize>,
}

/// Why a connection is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LimitExceeded {
    /// `limits.connections` is reached.
    Total,
    /// The limit of the client's address is reached.
    Address,
}

impl ConnectionLimiter {
    /// Creates a limiter for `limit` connections; `gauge` shows the open ones.
    pub(super) fn new(limit: usize, gauge: IntGauge) -> Arc<Self> {
        Arc::new(Self { limit, addresses: Arc::default(), has_warned: AtomicBool::new(false), gauge })
    }

    /// Acquires a permit for a client's connection.
    ///
    /// # Errors
    /// Returns [`LimitExceeded`] if the total or the address's limit is reached.
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
                    "limits.connections_per_address reached for a client, rejecting further connections; \
                     if the client is a load balancer, add it to server.trusted_proxies"
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
    /// Label value in metrics.
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
        assert_eq!(limiter.addresses.len(), 0, "addresses without connections are removed");
    }
}

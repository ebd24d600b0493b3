//! How many connections there may be, in all and from one address.
//!
//! Owns the order of the two questions. A place is taken when a connection is accepted and given back when its [`Place`]
//! goes.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use prometheus::IntGauge;

use super::addresses::{Address, Addresses};
use crate::gateway::limits::client_address::owner;

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    limit: usize,
    addresses: Arc<Addresses>,
    /// Whether the operator has been told of the limit of one address.
    is_told: AtomicBool,
    gauge: IntGauge,
}

/// One place, taken until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    /// The address that has it.
    pub(super) address: Arc<Address>,
    /// Whether that is one of `server.trusted_proxies`.
    pub(super) is_proxy: bool,
}

/// What the configuration says of the connections from one address.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Allowance {
    /// Whether it is one of `server.trusted_proxies`.
    pub(super) is_proxy: bool,
    /// How many connections it may have; `None`: no limit.
    pub(super) connections: Option<usize>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// All are taken.
    Any,
    /// All that one address may have are taken.
    ForAddress,
}

impl Places {
    /// This many places; `gauge` shows how many are taken.
    pub(super) fn new(limit: usize, gauge: IntGauge) -> Arc<Self> {
        Arc::new(Self { limit, addresses: Arc::default(), is_told: AtomicBool::new(false), gauge })
    }

    /// Takes a place for a client.
    ///
    /// # Errors
    /// [`NoPlace`].
    pub(super) fn take(self: &Arc<Self>, client: IpAddr, allowance: Allowance) -> Result<Place, NoPlace> {
        if !self.addresses.all.connections.add(1, Some(self.limit)) {
            return Err(NoPlace::Any);
        }
        let address = self.addresses.of(owner(client));
        if !address.usage().connections.add(1, allowance.connections) {
            self.addresses.all.connections.subtract(1);
            if !self.is_told.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "a client has limits.connections_per_address connections, more are refused; \
                     if it is a load balancer, add it to server.trusted_proxies"
                );
            }
            return Err(NoPlace::ForAddress);
        }
        self.gauge.inc();
        Ok(Place { places: Arc::clone(self), address, is_proxy: allowance.is_proxy })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.gauge.dec();
        self.address.usage().connections.subtract(1);
        self.address.all().connections.subtract(1);
    }
}

impl NoPlace {
    /// In metrics.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Any => "too_many",
            Self::ForAddress => "too_many_of_address",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(connections: usize) -> Arc<Places> {
        Places::new(connections, IntGauge::new("connections", "test").unwrap())
    }

    fn take(places: &Arc<Places>, client: &str, of_address: Option<usize>) -> Result<Place, NoPlace> {
        places.take(client.parse().unwrap(), Allowance { is_proxy: false, connections: of_address })
    }

    #[test]
    fn places_are_given_back() {
        let places = places(2);
        let (one, other) = (take(&places, "192.0.2.1", None).unwrap(), take(&places, "192.0.2.1", None).unwrap());
        assert_eq!(take(&places, "192.0.2.2", None).err(), Some(NoPlace::Any));
        assert_eq!(places.gauge.get(), 2);
        drop(one);
        let again = take(&places, "192.0.2.2", None).unwrap();
        assert_eq!(take(&places, "192.0.2.2", None).err(), Some(NoPlace::Any));
        drop((other, again));
        assert_eq!((places.addresses.all.connections.get(), places.gauge.get()), (0, 0));
    }

    #[test]
    fn one_address_leaves_places_to_others() {
        let places = places(100);
        for (one, same, other) in [
            ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
            ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", "2001:db8:0:1::1"),
        ] {
            let taken = [take(&places, one, Some(2)).unwrap(), take(&places, same, Some(2)).unwrap()];
            assert_eq!(take(&places, one, Some(2)).err(), Some(NoPlace::ForAddress));
            let others = take(&places, other, Some(2)).unwrap();
            drop(taken);
            assert!(take(&places, one, Some(2)).is_ok());
            drop(others);
        }
        assert_eq!(places.addresses.all.connections.get(), 0);
        assert_eq!(places.addresses.count(), 0, "addresses that are gone are forgotten");
    }
}

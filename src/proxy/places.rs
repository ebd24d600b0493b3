//! How many connections there may be, in all and from one address.
//!
//! Owns the count. A place is taken when a connection is accepted and given back when its [`Place`] goes.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use prometheus::IntGauge;

use crate::{gate::bounds::address::owner, settings::Limits};

/// All places.
#[derive(Debug)]
pub(crate) struct Places {
    limit: usize,
    taken: AtomicUsize,
    limit_per_address: Option<usize>,
    by_address: Mutex<HashMap<IpAddr, usize>>,
    gauge: IntGauge,
}

/// One place, taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    address: IpAddr,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// All are taken.
    Any,
    /// All that one address may have are taken.
    ForAddress,
}

impl Places {
    /// As many as the configuration says; `gauge` shows how many are taken.
    pub(crate) fn new(limits: &Limits, gauge: IntGauge) -> Arc<Self> {
        Arc::new(Self {
            limit: limits.connections,
            taken: AtomicUsize::new(0),
            limit_per_address: limits.connections_per_address,
            by_address: Mutex::default(),
            gauge,
        })
    }

    /// Takes a place for a client.
    ///
    /// # Errors
    /// [`NoPlace`].
    pub(crate) fn take(self: &Arc<Self>, client: IpAddr) -> Result<Place, NoPlace> {
        let address = owner(client);
        if self.taken.fetch_add(1, Ordering::AcqRel) >= self.limit {
            self.taken.fetch_sub(1, Ordering::AcqRel);
            return Err(NoPlace::Any);
        }
        if let Some(limit) = self.limit_per_address {
            let mut by_address = self.by_address.lock();
            let taken = by_address.entry(address).or_default();
            if *taken >= limit {
                self.taken.fetch_sub(1, Ordering::AcqRel);
                return Err(NoPlace::ForAddress);
            }
            *taken += 1;
        }
        self.gauge.inc();
        Ok(Place { places: Arc::clone(self), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.gauge.dec();
        self.places.taken.fetch_sub(1, Ordering::AcqRel);
        if self.places.limit_per_address.is_some() {
            let mut by_address = self.places.by_address.lock();
            if let Some(taken) = by_address.get_mut(&self.address) {
                *taken -= 1;
                if *taken == 0 {
                    by_address.remove(&self.address);
                }
            }
        }
    }
}

impl NoPlace {
    /// In metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Any => "too_many",
            Self::ForAddress => "too_many_of_address",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(connections: usize, connections_per_address: Option<usize>) -> Arc<Places> {
        let (body, body_rate, head, fields, target) = (1, 1, 1, 1, 1);
        let limits = Limits { body, body_rate, head, fields, target, connections, connections_per_address };
        Places::new(&limits, IntGauge::new("connections", "test").unwrap())
    }

    fn take(places: &Arc<Places>, client: &str) -> Result<Place, NoPlace> {
        places.take(client.parse().unwrap())
    }

    #[test]
    fn places_are_given_back() {
        let places = places(2, None);
        let (one, other) = (take(&places, "192.0.2.1").unwrap(), take(&places, "192.0.2.1").unwrap());
        assert_eq!(take(&places, "192.0.2.2").err(), Some(NoPlace::Any));
        assert_eq!(places.gauge.get(), 2);
        drop(one);
        let again = take(&places, "192.0.2.2").unwrap();
        assert_eq!(take(&places, "192.0.2.2").err(), Some(NoPlace::Any));
        drop((other, again));
        assert_eq!((places.taken.load(Ordering::Relaxed), places.gauge.get()), (0, 0));
    }

    #[test]
    fn one_address_leaves_places_to_others() {
        let places = places(100, Some(2));
        for (one, same, other) in [
            ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
            ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", "2001:db8:0:1::1"),
        ] {
            let taken = [take(&places, one).unwrap(), take(&places, same).unwrap()];
            assert_eq!(take(&places, one).err(), Some(NoPlace::ForAddress));
            let others = take(&places, other).unwrap();
            drop(taken);
            assert!(take(&places, one).is_ok());
            drop(others);
        }
        assert_eq!(places.taken.load(Ordering::Relaxed), 0);
        assert!(places.by_address.lock().is_empty(), "addresses that are gone are forgotten");
    }
}

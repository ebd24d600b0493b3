//! Counters per client address and in total: connections, requests, buffered body bytes.
//!
//! Callers pass the limit with each increment, because a reload can change it. An address stays in the table while any of its
//! counters is in use. The table therefore has at most one entry per connection and per incomplete request.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;

/// A counter that rejects increments beyond a limit.
#[derive(Debug, Default)]
pub(super) struct BoundedCounter(AtomicUsize);

/// The counters of one address, or of all addresses together.
#[derive(Debug, Default)]
pub(super) struct UsageCounters {
    pub(super) connections: BoundedCounter,
    /// Requests on HTTP/2 connections. The total is not counted here but in
    /// [`RequestTracker`](crate::shutdown::RequestTracker).
    pub(super) requests: BoundedCounter,
    /// Requests whose body has not arrived completely.
    pub(super) incomplete_requests: BoundedCounter,
    /// Bytes of request bodies in memory.
    pub(super) buffered_bytes: BoundedCounter,
}

/// The counters of all addresses.
#[derive(Debug, Default)]
pub(super) struct AddressTable {
    pub(super) totals: UsageCounters,
    by_address: Mutex<HashMap<IpAddr, Arc<UsageCounters>>>,
}

/// Handle to the counters of one address. The counters live as long as any handle.
#[derive(Debug)]
pub(super) struct AddressEntry {
    pub(super) addresses: Arc<AddressTable>,
    pub(super) client: IpAddr,
    counters: Arc<UsageCounters>,
}

impl BoundedCounter {
    /// Adds `amount` and returns true, unless the sum would exceed the limit.
    pub(super) fn try_add(&self, amount: usize, limit: Option<usize>) -> bool {
        let within = |number: usize| {
            let sum = number.checked_add(amount)?;
            limit.is_none_or(|limit| sum <= limit).then_some(sum)
        };
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, within).is_ok()
    }

    /// Subtracts an amount that was added before.
    pub(super) fn sub(&self, amount: usize) {
        self.0.fetch_sub(amount, Ordering::AcqRel);
    }

    /// The current value.
    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

impl AddressTable {
    /// The counters of one client: an IPv4 address or an IPv6 /64.
    pub(super) fn entry(self: &Arc<Self>, client: IpAddr) -> Arc<AddressEntry> {
        let counters = Arc::clone(self.by_address.lock().entry(client).or_default());
        Arc::new(AddressEntry { addresses: Arc::clone(self), client, counters })
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_address.lock().len()
    }
}

impl AddressEntry {
    pub(super) fn counters(&self) -> &UsageCounters {
        &self.counters
    }

    /// The counters of all addresses.
    pub(super) fn totals(&self) -> &UsageCounters {
        &self.addresses.totals
    }
}

impl Drop for AddressEntry {
    fn drop(&mut self) {
        let mut by_address = self.addresses.by_address.lock();
        // Two references: the table's and this one. New references are only made under the lock.
        if Arc::strong_count(&self.counters) == 2 {
            by_address.remove(&self.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_at_limit_stays_unchanged() {
        let counter = BoundedCounter::default();
        assert!(counter.try_add(2, Some(3)) && !counter.try_add(2, Some(3)) && counter.try_add(1, Some(3)));
        assert!(!counter.try_add(usize::MAX, None), "the sum would overflow");
        assert!(counter.try_add(100, None));
        counter.sub(103);
        assert_eq!(counter.get(), 0);
    }

    #[test]
    fn address_without_usage_is_removed_from_the_table() {
        let addresses = Arc::new(AddressTable::default());
        let client = "192.0.2.1".parse().unwrap();
        let (one, other) = (addresses.entry(client), addresses.entry(client));
        assert!(one.counters().connections.try_add(1, Some(1)) && !other.counters().connections.try_add(1, Some(1)));
        drop(one);
        assert_eq!(addresses.len(), 1);
        drop(other);
        assert_eq!(addresses.len(), 0);
    }
}

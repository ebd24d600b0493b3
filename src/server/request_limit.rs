//! Limits requests with incomplete bodies, and the memory of buffered bodies.
//!
//! An incomplete request costs the gateway about 20 KiB for as long as the client likes, and costs the client a few bytes.
//! Requests are therefore counted before any other work: per HTTP/2 connection, per client address, and in total. Body bytes
//! are counted while Pingora's retry buffer holds them, which it does for bodies up to [`MAX_BUFFERED_BODY_BYTES`].

use std::{sync::Arc, time::Duration};

use super::{
    address_usage::{AddressEntry, BoundedCounter, UsageCounters},
    connection::ConnectionState,
};
use crate::{config::Limits, gateway::error::GatewayError};

/// Maximum size of Pingora's retry buffer. Pingora drops the buffer of a longer body.
pub(super) const MAX_BUFFERED_BODY_BYTES: usize = 64 * 1024;
/// Maximum requests with an incomplete body per HTTP/2 connection.
const MAX_INCOMPLETE_PER_CONNECTION: usize = 16;
/// When more than half of the total limit is used, one address may use this share of the rest. The share shrinks with the rest,
/// so a few addresses never use up the total.
const FREE_SHARE_DIVISOR: usize = 8;
/// `Retry-After` for clients whose address is at its limit.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Counts one request of an HTTP/2 connection until it is dropped.
#[derive(Debug)]
pub(super) struct RequestPermit(Arc<AddressEntry>);

/// Counts one incomplete request and its buffered bytes until it is dropped.
#[derive(Debug)]
pub(super) struct BodyPermit {
    address: Arc<AddressEntry>,
    /// The HTTP/2 connection, if the request counts against its limit.
    connection: Option<Arc<ConnectionState>>,
    is_incomplete: bool,
    buffered_bytes: usize,
}

/// The limit that a request exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestLimitExceeded {
    Connection,
    Address,
    Total,
}

impl From<RequestLimitExceeded> for GatewayError {
    fn from(error: RequestLimitExceeded) -> Self {
        match error {
            RequestLimitExceeded::Connection | RequestLimitExceeded::Total => Self::Overloaded,
            RequestLimitExceeded::Address => Self::CallerRateLimited { retry_after: RETRY_AFTER },
        }
    }
}

impl RequestPermit {
    pub(super) fn acquire(address: &Arc<AddressEntry>, limits: &Limits) -> Result<Self, RequestLimitExceeded> {
        let limit = limits.for_address(address.client).requests;
        if !address.counters().requests.try_add(1, limit) {
            return Err(RequestLimitExceeded::Address);
        }
        Ok(Self(Arc::clone(address)))
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.0.counters().requests.sub(1);
    }
}

impl BodyPermit {
    pub(super) fn acquire(
        address: Arc<AddressEntry>,
        connection: Option<Arc<ConnectionState>>,
        limits: &Limits,
    ) -> Result<Self, RequestLimitExceeded> {
        let in_use = address.totals().incomplete_requests.get();
        let share = match limits.incomplete_requests.saturating_sub(in_use) {
            _ if in_use <= limits.incomplete_requests / 2 => usize::MAX,
            free => (free / FREE_SHARE_DIVISOR).max(1),
        };
        let address_limit = limits.for_address(address.client).incomplete_requests.map(|limit| limit.min(share));
        reserve(&address, 1, limits.incomplete_requests, address_limit, |usage| &usage.incomplete_requests)?;
        let mut permit = Self { address, connection: None, is_incomplete: true, buffered_bytes: 0 };
        if let Some(connection) = connection {
            if !connection.incomplete_requests.try_add(1, Some(MAX_INCOMPLETE_PER_CONNECTION)) {
                return Err(RequestLimitExceeded::Connection);
            }
            permit.connection = Some(connection);
        }
        Ok(permit)
    }

    /// Records how much of the body has arrived. Bytes that were counted before a retry are not counted again.
    ///
    /// # Errors
    /// [`GatewayError::CallerRateLimited`] if the client's bodies take too much memory, [`GatewayError::Overloaded`] if all do.
    pub(super) fn record_arrived(&mut self, arrived: usize, limits: &Limits) -> Result<(), GatewayError> {
        if arrived > MAX_BUFFERED_BODY_BYTES {
            self.release_bytes();
            return Ok(());
        }
        let more = arrived.saturating_sub(self.buffered_bytes);
        if more > 0 {
            let address_limit = limits.for_address(self.address.client).held_bodies;
            reserve(&self.address, more, limits.held_bodies, address_limit, |usage| &usage.buffered_bytes)?;
            self.buffered_bytes += more;
        }
        Ok(())
    }

    /// Records that the body is complete. Its bytes stay counted while they are buffered.
    pub(super) fn mark_complete(&mut self) {
        if std::mem::take(&mut self.is_incomplete) {
            self.address.counters().incomplete_requests.sub(1);
            self.address.totals().incomplete_requests.sub(1);
            if let Some(connection) = self.connection.take() {
                connection.incomplete_requests.sub(1);
            }
        }
    }

    fn release_bytes(&mut self) {
        let buffered_bytes = std::mem::take(&mut self.buffered_bytes);
        if buffered_bytes > 0 {
            self.address.counters().buffered_bytes.sub(buffered_bytes);
            self.address.totals().buffered_bytes.sub(buffered_bytes);
        }
    }
}

impl Drop for BodyPermit {
    fn drop(&mut self) {
        self.mark_complete();
        self.release_bytes();
    }
}

/// Adds to the address's counter and to the total, or to neither.
fn reserve(
    address: &AddressEntry,
    amount: usize,
    total_limit: usize,
    address_limit: Option<usize>,
    counter: impl Fn(&UsageCounters) -> &BoundedCounter,
) -> Result<(), RequestLimitExceeded> {
    if !counter(address.counters()).try_add(amount, address_limit) {
        return Err(RequestLimitExceeded::Address);
    }
    if !counter(address.totals()).try_add(amount, Some(total_limit)) {
        counter(address.counters()).sub(amount);
        return Err(RequestLimitExceeded::Total);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::AddressLimits, server::address_usage::AddressTable};

    fn limits(total_limit: usize, address_limit: usize) -> Limits {
        let per_address = AddressLimits {
            incomplete_requests: Some(address_limit),
            held_bodies: Some(address_limit * 100),
            ..AddressLimits::default()
        };
        Limits {
            body: 1,
            min_body_rate: 1,
            max_header_bytes: 1,
            max_headers: 1,
            max_uri_bytes: 1,
            connections: 1,
            requests: 1,
            incomplete_requests: total_limit,
            held_bodies: total_limit * 100,
            per_address,
            max_concurrent_requests: 1,
            queue_timeout: Duration::ZERO,
            networks: Vec::new(),
        }
    }

    fn address(addresses: &Arc<AddressTable>, number: u8) -> Arc<AddressEntry> {
        addresses.entry([192, 0, 2, number].into())
    }

    #[test]
    fn incomplete_requests_are_limited_per_address_and_in_total() {
        let (addresses, limits) = (Arc::new(AddressTable::default()), limits(3, 2));
        let take = |number| BodyPermit::acquire(address(&addresses, number), None, &limits);
        let mut taken = vec![take(1).unwrap(), take(1).unwrap()];
        assert_eq!(take(1).err(), Some(RequestLimitExceeded::Address));
        taken.push(take(2).unwrap());
        assert_eq!(take(3).err(), Some(RequestLimitExceeded::Total));
        taken[0].mark_complete();
        taken.push(take(3).unwrap());
        drop(taken);
        assert_eq!((addresses.totals.incomplete_requests.get(), addresses.len()), (0, 0));
    }

    #[test]
    fn few_addresses_cannot_take_all_incomplete_requests() {
        let (addresses, limits) = (Arc::new(AddressTable::default()), limits(4096, 256));
        let mut taken = Vec::new();
        for attacker in 0..24 {
            while let Ok(one) = BodyPermit::acquire(address(&addresses, attacker), None, &limits) {
                taken.push(one);
            }
        }
        assert!((2048..4000).contains(&taken.len()), "{}", taken.len());
        assert!((0..5).all(|_| BodyPermit::acquire(address(&addresses, 200), None, &limits).is_ok()));
    }

    #[test]
    fn buffered_bytes_are_limited_and_counted_once_per_retry() {
        let (addresses, limits) = (Arc::new(AddressTable::default()), limits(3, 2));
        let take = |number| BodyPermit::acquire(address(&addresses, number), None, &limits).unwrap();
        let (mut one, mut other) = (take(1), take(1));
        for arrived in [100, 150, 100, 150] {
            assert_eq!(one.record_arrived(arrived, &limits), Ok(()), "{arrived}");
        }
        assert_eq!(addresses.totals.buffered_bytes.get(), 150);
        assert!(matches!(other.record_arrived(51, &limits), Err(GatewayError::CallerRateLimited { .. })));
        assert_eq!(other.record_arrived(50, &limits), Ok(()));
        let mut elsewhere = take(2);
        assert_eq!(elsewhere.record_arrived(101, &limits), Err(GatewayError::Overloaded));
        one.mark_complete();
        assert_eq!(addresses.totals.buffered_bytes.get(), 200, "a complete body is still in memory");
        assert_eq!(one.record_arrived(MAX_BUFFERED_BODY_BYTES + 1, &limits), Ok(()), "a long body is not held at all");
        assert_eq!(addresses.totals.buffered_bytes.get(), 50);
        drop((one, other, elsewhere));
        assert_eq!((addresses.totals.buffered_bytes.get(), addresses.len()), (0, 0));
    }
}

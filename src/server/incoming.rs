//! Requests whose body has not arrived to its end: how many there may be, and how much of their bodies is in memory.
//!
//! Such a request costs the gateway some 20 KiB for as long as the client likes, and costs the client a few bytes. So
//! requests are counted before any other work: per HTTP/2 connection, per client address, and in all. Body bytes are counted
//! while the library buffers them to send them again, which it does up to [`HELD_BYTES`] of a body.

use std::{sync::Arc, time::Duration};

use super::{
    addresses::{Address, Counter, Usage},
    connection::Client,
};
use crate::{config::Limits, gateway::error::GatewayError};

/// As much of a body as the library holds to send it again; of a longer one it holds nothing.
pub(super) const HELD_BYTES: usize = 64 * 1024;
/// Requests of one HTTP/2 connection whose body has not arrived to its end.
const INCOMPLETE_PER_CONNECTION: usize = 16;
/// Once half of the places are taken, one address may have this part of the free ones: the fewer are free, the fewer it gets,
/// so that a few addresses never take all.
const PART_OF_FREE: usize = 8;
/// How long a client may wait before it tries again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Counts a request under way on an HTTP/2 connection, until it is dropped.
#[derive(Debug)]
pub(super) struct RequestPermit(Arc<Address>);

/// Counts a request whose body is to come, and what is in memory of it, until it is dropped.
#[derive(Debug)]
pub(super) struct IncomingBody {
    address: Arc<Address>,
    /// The connection, where the request counts among its incomplete ones.
    connection: Option<Arc<Client>>,
    is_incomplete: bool,
    held_bytes: usize,
}

/// Why a request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TooMany {
    OfConnection,
    OfAddress,
    InAll,
}

impl From<TooMany> for GatewayError {
    fn from(too_many: TooMany) -> Self {
        match too_many {
            TooMany::OfConnection | TooMany::InAll => Self::Overloaded,
            TooMany::OfAddress => Self::CallerRateLimited { retry_after: RETRY_AFTER },
        }
    }
}

impl RequestPermit {
    pub(super) fn take(address: &Arc<Address>, limits: &Limits) -> Result<Self, TooMany> {
        let limit = limits.of_address(address.client).requests;
        if !address.usage().requests.add(1, limit) {
            return Err(TooMany::OfAddress);
        }
        Ok(Self(Arc::clone(address)))
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.0.usage().requests.subtract(1);
    }
}

impl IncomingBody {
    pub(super) fn take(
        address: Arc<Address>,
        connection: Option<Arc<Client>>,
        limits: &Limits,
    ) -> Result<Self, TooMany> {
        let taken = address.all().incomplete_requests.get();
        let share = match limits.incomplete_requests.saturating_sub(taken) {
            _ if taken <= limits.incomplete_requests / 2 => usize::MAX,
            free => (free / PART_OF_FREE).max(1),
        };
        let of_address = limits.of_address(address.client).incomplete_requests.map(|limit| limit.min(share));
        add(&address, 1, limits.incomplete_requests, of_address, |usage| &usage.incomplete_requests)?;
        let mut taken = Self { address, connection: None, is_incomplete: true, held_bytes: 0 };
        if let Some(connection) = connection {
            if !connection.incomplete_requests.add(1, Some(INCOMPLETE_PER_CONNECTION)) {
                return Err(TooMany::OfConnection);
            }
            taken.connection = Some(connection);
        }
        Ok(taken)
    }

    /// Notes how much of the body has arrived. Bytes that have been counted once, before a replay, are not counted again.
    ///
    /// # Errors
    /// [`GatewayError::CallerRateLimited`] if the client's bodies take too much memory, [`GatewayError::Overloaded`] if all do.
    pub(super) fn hold(&mut self, arrived: usize, limits: &Limits) -> Result<(), GatewayError> {
        if arrived > HELD_BYTES {
            self.release_bytes();
            return Ok(());
        }
        let more = arrived.saturating_sub(self.held_bytes);
        if more > 0 {
            let of_address = limits.of_address(self.address.client).held_bodies;
            add(&self.address, more, limits.held_bodies, of_address, |usage| &usage.held_bytes)?;
            self.held_bytes += more;
        }
        Ok(())
    }

    /// The body has arrived to its end. What is in memory of it stays there.
    pub(super) fn complete(&mut self) {
        if std::mem::take(&mut self.is_incomplete) {
            self.address.usage().incomplete_requests.subtract(1);
            self.address.all().incomplete_requests.subtract(1);
            if let Some(connection) = self.connection.take() {
                connection.incomplete_requests.subtract(1);
            }
        }
    }

    fn release_bytes(&mut self) {
        let held_bytes = std::mem::take(&mut self.held_bytes);
        if held_bytes > 0 {
            self.address.usage().held_bytes.subtract(held_bytes);
            self.address.all().held_bytes.subtract(held_bytes);
        }
    }
}

impl Drop for IncomingBody {
    fn drop(&mut self) {
        self.complete();
        self.release_bytes();
    }
}

/// Counts for one address and for all, or for neither.
fn add(
    address: &Address,
    amount: usize,
    in_all: usize,
    of_address: Option<usize>,
    counter: impl Fn(&Usage) -> &Counter,
) -> Result<(), TooMany> {
    if !counter(address.usage()).add(amount, of_address) {
        return Err(TooMany::OfAddress);
    }
    if !counter(address.all()).add(amount, Some(in_all)) {
        counter(address.usage()).subtract(amount);
        return Err(TooMany::InAll);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::AddressLimits, server::addresses::Addresses};

    fn limits(in_all: usize, of_address: usize) -> Limits {
        let per_address = AddressLimits {
            incomplete_requests: Some(of_address),
            held_bodies: Some(of_address * 100),
            ..AddressLimits::default()
        };
        Limits {
            body: 1,
            body_rate: 1,
            head: 1,
            fields: 1,
            target: 1,
            connections: 1,
            requests: 1,
            incomplete_requests: in_all,
            held_bodies: in_all * 100,
            per_address,
            networks: Vec::new(),
        }
    }

    fn address(addresses: &Arc<Addresses>, number: u8) -> Arc<Address> {
        addresses.of([192, 0, 2, number].into())
    }

    #[test]
    fn incomplete_requests_are_limited_for_one_address_and_for_all() {
        let (addresses, limits) = (Arc::new(Addresses::default()), limits(3, 2));
        let take = |number| IncomingBody::take(address(&addresses, number), None, &limits);
        let mut taken = vec![take(1).unwrap(), take(1).unwrap()];
        assert_eq!(take(1).err(), Some(TooMany::OfAddress));
        taken.push(take(2).unwrap());
        assert_eq!(take(3).err(), Some(TooMany::InAll));
        taken[0].complete();
        taken.push(take(3).unwrap());
        drop(taken);
        assert_eq!((addresses.all.incomplete_requests.get(), addresses.count()), (0, 0));
    }

    #[test]
    fn few_addresses_leave_places_to_others() {
        let (addresses, limits) = (Arc::new(Addresses::default()), limits(4096, 256));
        let mut taken = Vec::new();
        for attacker in 0..24 {
            while let Ok(one) = IncomingBody::take(address(&addresses, attacker), None, &limits) {
                taken.push(one);
            }
        }
        assert!((2048..4000).contains(&taken.len()), "{}", taken.len());
        assert!((0..5).all(|_| IncomingBody::take(address(&addresses, 200), None, &limits).is_ok()));
    }

    #[test]
    fn held_bytes_are_limited_and_counted_once_for_a_replay() {
        let (addresses, limits) = (Arc::new(Addresses::default()), limits(3, 2));
        let take = |number| IncomingBody::take(address(&addresses, number), None, &limits).unwrap();
        let (mut one, mut other) = (take(1), take(1));
        for arrived in [100, 150, 100, 150] {
            assert_eq!(one.hold(arrived, &limits), Ok(()), "{arrived}");
        }
        assert_eq!(addresses.all.held_bytes.get(), 150);
        assert!(matches!(other.hold(51, &limits), Err(GatewayError::CallerRateLimited { .. })));
        assert_eq!(other.hold(50, &limits), Ok(()));
        let mut elsewhere = take(2);
        assert_eq!(elsewhere.hold(101, &limits), Err(GatewayError::Overloaded));
        one.complete();
        assert_eq!(addresses.all.held_bytes.get(), 200, "a complete body is still in memory");
        assert_eq!(one.hold(HELD_BYTES + 1, &limits), Ok(()), "a long body is not held at all");
        assert_eq!(addresses.all.held_bytes.get(), 50);
        drop((one, other, elsewhere));
        assert_eq!((addresses.all.held_bytes.get(), addresses.count()), (0, 0));
    }
}

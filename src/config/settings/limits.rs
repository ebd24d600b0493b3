//! `[timeouts]`, `[limits]`, `[load]` and `[logins]`: every limit of time, size and number.

use std::net::IpAddr;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;

/// Time limits.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// Wait for a Shopper API: for the start of the response, and between its parts.
    pub upstream: Duration,
    /// The same for operations that accept only system tokens.
    pub upstream_admin: Duration,
    /// Connecting to any server.
    pub connect: Duration,
    /// One call to SLAS, Account Manager or the Shopper Customers API.
    pub exchange: Duration,
    /// Receiving a request head; on a new connection from its beginning.
    pub client_head: Duration,
    /// Wait for the next part of a forwarded request body, and the time after which [`Limits::min_body_rate`] applies.
    pub client_body: Duration,
    /// Receiving a whole request body that the gateway reads before it decides.
    pub held_body: Duration,
    /// Wait for a client to accept one part of a response.
    pub client_write: Duration,
    /// A connection to a client or a server without a request.
    pub idle: Duration,
    /// Requests in flight at shutdown.
    pub drain: Duration,
}

/// Limits of size, number and rate.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a request body, unless the operation allows more.
    pub body: usize,
    /// Minimum rate of a request body, in bytes per second.
    pub min_body_rate: usize,
    /// Bytes of a request head.
    pub max_header_bytes: usize,
    /// Header fields of a request.
    pub max_headers: usize,
    /// Bytes of a request URI.
    pub max_uri_bytes: usize,
    /// Open client connections.
    pub connections: usize,
    /// Concurrent requests.
    pub requests: usize,
    /// Concurrent requests whose body has not arrived completely.
    pub incomplete_requests: usize,
    /// Bytes of request bodies in memory.
    pub held_bodies: usize,
    /// Concurrent requests to the APIs of one organization.
    pub max_concurrent_requests: usize,
    /// How long a request waits if `max_concurrent_requests` is reached.
    pub queue_timeout: Duration,
    /// Limits of one client address outside of `networks`.
    pub per_address: AddressLimits,
    /// Networks whose addresses have their own limits, the longest prefix first.
    pub networks: Vec<NetworkLimits>,
}

/// Limits of one client address, or of one /64 network of IPv6. `None`: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AddressLimits {
    /// Open connections.
    pub connections: Option<usize>,
    /// Concurrent requests over HTTP/2.
    pub requests: Option<usize>,
    /// Concurrent requests whose body has not arrived completely.
    pub incomplete_requests: Option<usize>,
    /// Bytes of request bodies in memory.
    pub held_bodies: Option<usize>,
    /// SLAS calls per minute that its requests cause.
    pub slas_calls: Option<SlasCalls>,
    /// Deprecated guest logins per minute.
    pub guests: Option<u32>,
    /// Failed logins per minute.
    pub failed_logins: Option<u32>,
    /// Failed logins per minute of one login id.
    pub failed_logins_per_id: Option<u32>,
}

/// How many SLAS calls per minute the requests of one address may cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlasCalls {
    /// This number, but at most an eighth of the tenant's SLAS rate limit.
    Shared(u32),
    /// This number, whatever the tenant's SLAS rate limit is.
    Exactly(u32),
    /// Half of the tenant's SLAS rate limit.
    Half,
}

/// Limits of the addresses of one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkLimits {
    /// The network.
    pub network: IpNet,
    /// The header field in which its addresses name the client of a request.
    pub client_address_header: Option<HeaderName>,
    /// Limits of each of its addresses.
    pub per_address: AddressLimits,
}

/// One address may use at most this fraction of a tenant's SLAS rate limit: an eighth.
const ADDRESS_SHARE_DIVISOR: u32 = 8;

impl Limits {
    /// The limits of an address. For IPv6, `address` is the first address of its /64 network.
    #[must_use]
    pub fn for_address(&self, address: IpAddr) -> &AddressLimits {
        let own = self.networks.iter().find(|own| own.network.contains(&address));
        own.map_or(&self.per_address, |own| &own.per_address)
    }
}

impl SlasCalls {
    /// SLAS calls per minute for a tenant with the SLAS rate limit `per_minute`; at least 1.
    #[must_use]
    pub fn for_tenant(self, per_minute: u32) -> u32 {
        match self {
            Self::Shared(calls) => calls.min((per_minute / ADDRESS_SHARE_DIVISOR).max(1)),
            Self::Exactly(calls) => calls,
            Self::Half => (per_minute / 2).max(1),
        }
    }
}

/// Load shedding.
#[derive(Debug, Clone)]
pub struct Load {
    /// Globs over the operations that are rejected first.
    pub low_priority: Vec<String>,
}

/// Limits of logins. 0 means no limit, except for `max_concurrent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logins {
    /// Concurrent logins of one organization.
    pub max_concurrent: usize,
    /// Failed logins per minute of one address outside of [`Limits::networks`].
    pub failed_per_address: u32,
    /// Failed logins per minute of one login id from one address outside of [`Limits::networks`].
    pub failed_per_address_and_login: u32,
    /// Failed logins per minute of one login id from all addresses.
    pub failed_per_login: u32,
}

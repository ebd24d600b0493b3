//! `[timeouts]`, `[limits]`, `[load]` and `[logins]`: every limit of time, size and number.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

/// Every time limit.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// One answer of a Shopper API, first byte.
    pub upstream: Duration,
    /// One answer of an Admin (system) API, first byte.
    pub upstream_admin: Duration,
    /// Connecting to any server.
    pub connect: Duration,
    /// One exchange with SLAS or Account Manager.
    pub exchange: Duration,
    /// A client's whole request head; on a new connection from its beginning.
    pub client_head: Duration,
    /// Each wait for more of a request body that is forwarded while it arrives, and the time before
    /// [`Limits::min_body_rate`] counts.
    pub client_body: Duration,
    /// A client's whole request body, where the gateway reads it before it decides.
    pub held_body: Duration,
    /// A client taking one part of an answer.
    pub client_write: Duration,
    /// A connection, of either side, without a request.
    pub idle: Duration,
    /// Requests in flight at a stop.
    pub drain: Duration,
}

/// Every limit of size and number.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Request body, bytes, unless the operation says more.
    pub body: usize,
    /// Least rate of a request body, bytes a second.
    pub min_body_rate: usize,
    /// Request head, bytes.
    pub max_header_bytes: usize,
    /// Request header fields.
    pub max_headers: usize,
    /// Request target, bytes.
    pub max_uri_bytes: usize,
    /// Connections of clients open at a time.
    pub connections: usize,
    /// Requests under way at a time.
    pub requests: usize,
    /// Requests at a time whose body the gateway has not read to its end.
    pub incomplete_requests: usize,
    /// Bytes of request bodies in memory at a time.
    pub held_bodies: usize,
    /// Concurrent upstream requests of one organization.
    pub max_concurrent_requests: usize,
    /// How long a request may wait for one of these.
    pub queue_timeout: Duration,
    /// What one client address may have, outside of `networks`.
    pub per_address: AddressLimits,
    /// Networks whose addresses have limits of their own, the longest prefix first.
    pub networks: Vec<NetworkLimits>,
}

/// What one client address (IPv6: one /64) may have. `None`: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AddressLimits {
    /// Connections open at a time.
    pub connections: Option<usize>,
    /// Requests under way at a time on its HTTP/2 connections.
    pub requests: Option<usize>,
    /// Requests at a time whose body the gateway has not read to its end.
    pub incomplete_requests: Option<usize>,
    /// Bytes of request bodies in memory at a time.
    pub held_bodies: Option<usize>,
    /// Calls to SLAS a minute that its requests cause.
    pub slas_calls: Option<SlasCalls>,
    /// Deprecated guest logins a minute.
    pub guests: Option<u32>,
    /// Failed logins a minute.
    pub failed_logins: Option<u32>,
}

/// How many calls to SLAS the requests of one address may cause in a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlasCalls {
    /// This many, and at most an eighth of what SLAS takes of the tenant.
    Shared(u32),
    /// This many, however few SLAS takes of the tenant.
    Exactly(u32),
}

/// The limits of the addresses of one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkLimits {
    /// The network.
    pub network: IpNet,
    /// What each of its addresses may have.
    pub per_address: AddressLimits,
}

/// The part of a tenant's calls to SLAS that one address may use at most, as a divisor.
const ADDRESS_SHARE: u32 = 8;

impl Limits {
    /// What this address may have; `address` is a /64's first for IPv6.
    #[must_use]
    pub fn of_address(&self, address: IpAddr) -> &AddressLimits {
        let own = self.networks.iter().find(|own| own.network.contains(&address));
        own.map_or(&self.per_address, |own| &own.per_address)
    }
}

impl SlasCalls {
    /// Calls a minute to the SLAS of a tenant of which SLAS takes `per_minute` requests in that time; at least 1.
    #[must_use]
    pub fn of_tenant(self, per_minute: u32) -> u32 {
        match self {
            Self::Shared(calls) => calls.min((per_minute / ADDRESS_SHARE).max(1)),
            Self::Exactly(calls) => calls,
        }
    }
}

/// How much is asked of an organization's APIs, and what is left out first.
#[derive(Debug, Clone)]
pub struct Load {
    /// Globs over the operations that matter least.
    pub low_priority: Vec<String>,
}

/// How many logins may wait, and fail; 0 is no limit, but for `max_concurrent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logins {
    /// Deprecated logins of one organization under way at a time.
    pub max_concurrent: usize,
    /// Failed logins a minute of one address, outside of [`Limits::networks`].
    pub failed_per_address: u32,
    /// Failed logins a minute of one login id from one address.
    pub failed_per_address_and_login: u32,
    /// Failed logins a minute of one login id from everywhere.
    pub failed_per_login: u32,
}

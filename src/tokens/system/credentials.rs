//! A client's credentials, their source, and the cache key of their tokens.

use std::net::IpAddr;

use secrecy::SecretString;

use crate::types::{ClientId, TenantId};

/// A client of Account Manager and its secret.
#[derive(Debug, Clone)]
pub struct ClientCredentials {
    /// The client id.
    pub client: ClientId,
    /// The secret as presented, not verified.
    pub secret: SecretString,
}

/// The presenter of a client's credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presenter {
    /// The gateway itself, from its configuration.
    Gateway,
    /// A client at this address (the /64 of an IPv6 address), if known. The credentials may be guesses until Account
    /// Manager has accepted them.
    Client(Option<IpAddr>),
}

/// The cache key of a token: tenant, client, credentials and scopes. It contains no secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TokenKey {
    pub(super) tenant: TenantId,
    pub(super) client: ClientId,
    /// A keyed hash of client and secret.
    pub(super) credentials: [u8; 32],
    pub(super) scopes: String,
}

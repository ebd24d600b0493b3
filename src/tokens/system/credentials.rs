//! A client's credentials, their presenter, and the key of the tokens that they get.

use std::net::IpAddr;

use secrecy::SecretString;

use crate::types::{ClientId, TenantId};

/// A client of Account Manager and its secret.
#[derive(Debug, Clone)]
pub struct ClientCredentials {
    /// The client.
    pub client: ClientId,
    /// Its secret, as presented; nobody has checked it yet.
    pub secret: SecretString,
}

/// Who presents a client's credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presenter {
    /// The gateway itself: its configuration holds them.
    Gateway,
    /// A client at this address (of IPv6 its /64), if it is known. Until Account Manager has accepted the credentials,
    /// they may be guesses.
    Client(Option<IpAddr>),
}

/// What a token is held under: whose, for what, and by which credentials. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TokenKey {
    pub(super) tenant: TenantId,
    pub(super) client: ClientId,
    /// Keyed hash of client and secret.
    pub(super) credentials: [u8; 32],
    pub(super) scopes: String,
}

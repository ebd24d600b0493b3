//! The claims of a verified shopper token.
//!
//! Only the verifier of shopper tokens creates a [`Shopper`] for a request, so every `Shopper` in the gateway comes from a
//! verified token.

use crate::{
    store::RevocationKeys,
    types::{ClientId, CustomerId, OrganizationId, Scopes, SiteId, Usid},
};

/// A shopper, and what the shopper's token allows.
#[derive(Debug, Clone)]
pub struct Shopper {
    /// The organization whose keys signed the token.
    pub organization: OrganizationId,
    /// The SLAS client that the token was issued to (`sub`, `scid`).
    pub client: ClientId,
    /// The id of the shopper's SLAS session (`sub`, `usid`).
    pub usid: Usid,
    /// The registered customer id, or else the guest's.
    pub customer: Option<CustomerId>,
    /// Whether the customer is registered.
    pub is_registered: bool,
    /// The site that the token was issued for (`chid`).
    pub site: Option<SiteId>,
    /// The token's scopes (`scp`).
    pub scopes: Scopes,
    /// Whether a system or an agent acts for the shopper.
    pub delegation: Delegation,
    /// The trusted agent that acts for the shopper (`agent`), by its Account Manager name.
    pub agent: Option<Box<str>>,
    /// The issue time by SLAS's clock, in seconds since 1970. 0 without `iat`.
    pub issued_at: u64,
    /// The expiry time, in seconds since 1970.
    pub expires_at: u64,
    /// The revocations that apply to the token.
    pub revocation_keys: RevocationKeys,
}

/// The delegation flags of `isb`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delegation {
    /// A trusted system acts on behalf of the shopper (TSOB).
    pub tsob: bool,
    /// A trusted agent acts on behalf of the shopper (TAOB).
    pub taob: bool,
}

//! A shopper: who a verified SLAS token speaks for.
//!
//! A [`Shopper`] comes only from [`verify`], so whoever holds one holds a
//! verified token's claims.

use crate::{
    store::RevocationKeys,
    types::{ClientId, CustomerId, OrganizationId, Scopes, SiteId, Usid},
};

/// Who a verified shopper token speaks for, and what it may do.
#[derive(Debug, Clone)]
pub struct Shopper {
    /// The organization whose keys signed it.
    pub organization: OrganizationId,
    /// The SLAS client it was issued to (`sub`, `scid`).
    pub client: ClientId,
    /// The shopper's session at SLAS (`sub`, `usid`).
    pub usid: Usid,
    /// The registered customer id, or else the guest's.
    pub customer: Option<CustomerId>,
    /// Whether the customer is registered.
    pub registered: bool,
    /// The site it was issued for (`chid`).
    pub site: Option<SiteId>,
    /// What it may do (`scp`).
    pub scopes: Scopes,
    /// On whose behalf it was issued.
    pub marks: Marks,
    /// The trusted agent who acts for the shopper (`agent`), as Account Manager calls him.
    pub agent: Option<Box<str>>,
    /// When it was issued, seconds since 1970, by SLAS's clock; 0 if it does not say.
    pub issued_at: u64,
    /// When it ends, seconds since 1970.
    pub expires_at: u64,
    /// The logouts that end it.
    pub revocation_keys: RevocationKeys,
}

/// Flow marks in `isb` that operations ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    /// A trusted system acts on behalf of the shopper.
    pub tsob: bool,
    /// A trusted agent acts on behalf of the shopper.
    pub taob: bool,
}

//! The sender of a request, as `authn` establishes it, and what `authz` grants to it.

use std::sync::Arc;

use super::{callers::Caller, credential::RenewableToken, error::GatewayError, on_behalf_header::OnBehalfHeader};
use crate::{
    tokens::on_behalf::OnBehalfSubject,
    verify::{shopper_token::VerifiedToken, system_token::SystemClient},
};

/// The authenticated sender of a request. Rare kinds are boxed, so that every request does not pay for their size.
#[derive(Debug)]
pub(super) enum Identity {
    /// A shopper, by a verified token.
    Shopper(VerifiedToken),
    /// A trusted system.
    System(Box<AuthenticatedCaller>),
    /// A trusted system that names a shopper. A caller learns what is wrong with the header only if it may use it at all.
    OnBehalf(Box<AuthenticatedCaller>, Box<Result<OnBehalfHeader, GatewayError>>),
}

impl Identity {
    /// Returns the trusted system whose rate limit the request counts against.
    pub(super) fn counted_caller(&self) -> Option<&Arc<Caller>> {
        match self {
            Self::Shopper(_) => None,
            Self::System(caller) | Self::OnBehalf(caller, _) => caller.counted(),
        }
    }
}

/// A trusted system that has proved its identity.
#[derive(Debug)]
pub(super) struct AuthenticatedCaller {
    /// The entry of `[[callers]]`.
    pub(super) caller: Arc<Caller>,
    /// The proof.
    pub(super) proof: Proof,
}

impl AuthenticatedCaller {
    /// Returns the caller, if requests count against its rate limit. Account Manager may reject a scope before it checks the
    /// secret, so anyone could have sent such a request.
    pub(super) fn counted(&self) -> Option<&Arc<Caller>> {
        (!matches!(self.proof, Proof::Basic(Err(ScopeRejected)))).then_some(&self.caller)
    }
}

/// The proof of a trusted system's identity.
#[derive(Debug)]
pub(super) enum Proof {
    /// A verified token of Account Manager.
    Bearer(Arc<SystemClient>),
    /// Client credentials that Account Manager accepts.
    Basic(Result<RenewableToken, ScopeRejected>),
    /// A client certificate that the listener verified.
    Certificate,
}

/// Account Manager accepts the client credentials and issues no token with the requested scopes or for the tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ScopeRejected;

/// What a sender may do, before the gateway has the credential for it.
#[derive(Debug)]
pub(super) enum Grant {
    /// Send a request with the shopper's token or a newer token of the same session.
    Shopper(VerifiedToken),
    /// Send a request as a trusted system.
    System(Box<AuthenticatedCaller>),
    /// Send a request on behalf of a shopper.
    OnBehalf(Arc<Caller>, Arc<OnBehalfSubject>),
}

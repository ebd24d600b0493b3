//! The result of the pipeline: forward the request, or respond.

use http::HeaderValue;

use super::{
    audit_line::PendingAuditLine, credential::UpstreamCredential, error::GatewayError, headers::HeaderEdits,
    limits::Permit, response::LocalResponse,
};
use crate::{tokens::sessions::CallerHeldSession, verify::shopper_token::VerifiedToken};

/// What the server does with a request.
#[derive(Debug)]
pub enum Decision {
    /// Send it upstream.
    Forward(Forward),
    /// Answer it with this response.
    Respond(LocalResponse),
}

/// A request on its way upstream.
#[derive(Debug)]
pub struct Forward {
    /// The credential to send.
    pub credential: UpstreamCredential,
    /// The error that report mode only reports.
    pub reported: Option<GatewayError>,
    /// The logout that the request performs. The gateway ends its session once SLAS has confirmed the logout.
    pub logout: Option<PendingLogout>,
    /// The permits of the rate limits.
    pub permit: Permit,
    /// The audit line to write when Salesforce has answered: a login, or a write of a trusted system.
    pub audit: Option<Box<PendingAuditLine>>,
    /// What the storefront changes; absent for a request on another path.
    pub storefront: Option<Box<StorefrontEdits>>,
}

/// What a storefront changes in a request on its way upstream, and in its response.
#[derive(Debug)]
pub struct StorefrontEdits {
    /// The edits of the request's header fields.
    pub request: HeaderEdits,
    /// The path and query to send upstream, if they differ from the route's.
    pub target: Option<String>,
    /// The values of `Set-Cookie` for the response, whatever its status.
    pub set: Vec<HeaderValue>,
    /// Whether the request has a session in cookies.
    pub has_session: bool,
    /// The domain of the storefront's cookies, for those of Salesforce; `None`: the storefront's host alone.
    pub domain: Option<String>,
}

/// A logout on its way to SLAS.
#[derive(Debug)]
pub struct PendingLogout {
    /// The sessions that end.
    pub(super) scope: LogoutScope,
    /// The path and query with the valid refresh token, if the client's refresh token has been replaced.
    pub target: Option<String>,
}

/// The sessions that a logout ends.
#[derive(Debug)]
pub(super) enum LogoutScope {
    /// The session of this token.
    Session(VerifiedToken),
    /// All sessions of this token's shopper (`hint=all-sessions`).
    AllSessions(VerifiedToken),
    /// The session of a revoked refresh token.
    CallerHeld(CallerHeldSession),
}

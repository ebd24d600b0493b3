//! A request as it arrives, and the route that it asks for.
//!
//! Every stage of the pipeline reads these types. This file imports no stage.

use std::{fmt, net::IpAddr, sync::Arc};

use bytes::Bytes;
use http::request::Parts;

use super::{
    client_cert::PeerCertificate,
    policy::{Operation, OperationKind},
    tenant::Tenant,
};
use crate::types::{OrganizationId, SiteId};

/// A request as it arrives.
pub struct Request<'a> {
    /// Method, target and header fields.
    pub head: &'a Parts,
    /// The body, if [`Route::required_body`] asks for one.
    pub body: Option<Bytes>,
    /// Whether the client has yet to send a body. It may do that slowly.
    pub body_follows: bool,
    /// The correlation id of the log lines about this request.
    pub correlation_id: &'a str,
    /// The client certificate that the listener verified.
    pub certificate: Option<&'a PeerCertificate>,
    /// The address of the peer of the connection.
    pub address: Option<IpAddr>,
}

/// A request with its route and organization. The stages of the pipeline read it.
#[derive(Debug, Clone, Copy)]
pub(super) struct RoutedRequest<'r> {
    pub(super) tenant: &'r Tenant,
    pub(super) route: &'r Route,
    pub(super) request: &'r Request<'r>,
    /// Whether tokens that SLAS issues to this request become a session.
    pub(super) registers_session: bool,
}

/// Without the header fields and the body, which contain credentials.
impl fmt::Debug for Request<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { head, correlation_id, .. } = self;
        formatter.debug_struct("Request").field("method", &head.method).field("correlation_id", correlation_id).finish()
    }
}

/// The prefix of a path. PWA Kit's storefronts call Salesforce below prefixes of their own host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathPrefix {
    /// None: the path is Salesforce's own.
    None,
    /// `/mobify/slas/private`: SLAS, with the credential of a private client. Storefronts leave its secret to the proxy there.
    SlasPrivate,
    /// `/mobify/slas/public`: SLAS, with no credential of the gateway.
    SlasPublic,
    /// `/mobify/proxy/api`: the API, with the token of a session cookie.
    Api,
}

/// What a request asks for.
#[derive(Debug, Clone)]
pub struct Route {
    /// The organization that the path names. The configuration has it.
    pub organization: OrganizationId,
    /// The operation. `None` if the policy table does not have it and the configuration lets unknown operations pass.
    pub operation: Option<Arc<Operation>>,
    /// `siteId` of the query.
    pub site: Option<SiteId>,
    /// `channel_id` of the form, where the allowed origins depend on the site.
    pub channel: Option<SiteId>,
    /// `clientId` of the query, unverified.
    pub client_id: Option<String>,
    /// The prefix below which a storefront finds the path.
    pub prefix: PathPrefix,
    /// The path and query to send upstream, if they differ from the received ones.
    pub upstream_target: Option<String>,
    /// The maximum size of the body, bytes.
    pub body_limit: usize,
    /// The body that the gateway needs before it can decide.
    pub required_body: RequiredBody,
}

/// The body that the gateway needs before it can decide about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequiredBody {
    /// None.
    None,
    /// The JSON body of a deprecated login, which the gateway answers itself.
    DeprecatedLogin,
    /// The form or JSON body of a SLAS operation. It goes upstream unchanged.
    Slas,
}

impl RequiredBody {
    /// The maximum size of the body, bytes. `None` if no body is needed.
    #[must_use]
    pub fn max_bytes(self) -> Option<usize> {
        match self {
            Self::None => None,
            // A deprecated login is one short JSON object.
            Self::DeprecatedLogin => Some(16 * 1024),
            // The HTTP library can send this much on after it was read.
            Self::Slas => Some(64 * 1024),
        }
    }
}

impl Route {
    /// Whether the gateway answers the operation itself. Salesforce has removed these endpoints.
    #[must_use]
    pub fn is_deprecated(&self) -> bool {
        matches!(
            self.kind(),
            OperationKind::DeprecatedLogin
                | OperationKind::DeprecatedLogout
                | OperationKind::DeprecatedTrustedSystemLogin
        )
    }

    /// Whether the operation has this id, in any API.
    pub(super) fn has_operation_id(&self, id: &str) -> bool {
        self.operation.as_ref().is_some_and(|operation| operation.id == id)
    }

    pub(super) fn kind(&self) -> OperationKind {
        self.operation.as_ref().map_or(OperationKind::Standard, |operation| operation.kind)
    }
}

//! The credential of a private client, where a request for SLAS names the client and does not bring it.
//!
//! Owns in which operations the gateway vouches for a client, and in which field. Elsewhere it never
//! does: who could have trusted-system tokens, revocation or introspection vouched for would be any
//! shopper. Nor does it where `vouch` is false, or for a request that SLAS could read as one on behalf of
//! a shopper. SLAS decides whether a proof is right: a wrong secret stays wrong, except below PWA Kit's prefix, where
//! storefronts send a placeholder in its place.

use bytes::Bytes;
use http::{Method, header::AUTHORIZATION, request::Parts};

use super::{is_slas_own, on_behalf_hints};
use crate::gateway::form::{self, Form};
use crate::{
    config::{SlasClient, Tenant},
    gateway::{
        Route, authorization_header::Authorization, error::GatewayError, headers::UpstreamCredential, path::Query,
        policy::Operation,
    },
    observability::audit::{AuditRecord, Event},
    salesforce::slas::{AGENT_CLIENT_AUTH, CLIENT_AUTH, bare_credentials, basic_credentials},
};

/// Where an operation takes a client's credential from the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientAuthTarget {
    /// `Authorization: Basic`.
    Authorization,
    /// Beside the agent's own Account Manager token.
    BesideTheAgent,
    /// Beside the shopper's credentials, or nobody's, where SLAS demands it of the client.
    Strict,
    /// Nowhere.
    Nowhere,
}

impl ClientAuthTarget {
    fn of(operation: &Operation) -> Self {
        // Operations of other APIs have the same ids.
        if !is_slas_own(operation) {
            return Self::Nowhere;
        }
        match operation.id.as_str() {
            "getAccessToken"
            | "authorizePasswordlessCustomer"
            | "getPasswordLessAccessToken"
            | "getPasswordResetToken"
            | "resetPassword"
            | "getSessionBridgeAccessToken" => Self::Authorization,
            "getTrustedAgentAccessToken" => Self::BesideTheAgent,
            "authenticateCustomer" | "authorizeCustomer" => Self::Strict,
            _ => Self::Nowhere,
        }
    }

    /// Whether this client's credential may be added here.
    fn takes(self, client: &SlasClient) -> bool {
        client.secret.is_some() && client.vouch && (self != Self::Strict || client.strict_client_auth)
    }
}

/// What the gateway adds to an operation of SLAS, in words.
#[must_use]
pub fn what_is_added(operation: &Operation) -> Option<&'static str> {
    match ClientAuthTarget::of(operation) {
        ClientAuthTarget::Authorization => Some("Basic of the private client that is named"),
        ClientAuthTarget::BesideTheAgent => Some("_sfdc_client_auth of the private client that is named"),
        ClientAuthTarget::Strict => Some("x-slas-client-auth of the strict client that is named"),
        ClientAuthTarget::Nowhere => None,
    }
}

/// The clients of these tenants whose credential the gateway adds to an operation of SLAS.
pub fn whose_is_added<'t>(operation: &Operation, tenants: &'t [Tenant]) -> impl Iterator<Item = &'t SlasClient> {
    let place = ClientAuthTarget::of(operation);
    tenants.iter().flat_map(|tenant| &tenant.slas_clients).filter(move |client| place.takes(client))
}

/// The login that a request for SLAS is, if it is one, as the audit log tells of it: by which client.
pub(super) fn login(tenant: &Tenant, operation: &Operation, head: &Parts, body: Option<&Bytes>) -> Option<AuditRecord> {
    let grant = body.and_then(|body| Form::read(body).ok()?.single("grant_type").ok()?.map(|grant| grant.into_owned()));
    let is_login = match operation.id.as_str() {
        "getAccessToken" => grant.as_deref() != Some("refresh_token"),
        "authenticateCustomer"
        | "getPasswordLessAccessToken"
        | "getSessionBridgeAccessToken"
        | "getTrustedSystemAccessToken"
        | "getTrustedAgentAccessToken" => is_slas_own(operation),
        _ => false,
    };
    let by = || match Authorization::read(&head.headers) {
        Ok(Authorization::Basic(basic)) if operation.id != "authenticateCustomer" => Some(basic.user),
        _ => named(head, body).ok().flatten(),
    };
    // Only what is configured is told: the rest is anybody's text.
    let known = |name: String| tenant.slas_clients.iter().any(|client| client.id.as_str() == name).then_some(name);
    is_login.then(|| AuditRecord { event: Some(Event::Login), actor: by().and_then(known), ..AuditRecord::default() })
}

/// Whether the form must be read to know which client's credential is missing, and whether it may be added.
pub(super) fn wants_form(tenant: &Tenant, route: &Route, operation: &Operation, head: &Parts) -> bool {
    let place = ClientAuthTarget::of(operation);
    let may_be_added = || {
        let presented = Authorization::read(&head.headers);
        let is_placeholder = route.for_storefront && matches!(presented, Ok(Authorization::Basic(_)));
        place == ClientAuthTarget::Strict || is_placeholder || lacks_client(&presented)
    };
    place != ClientAuthTarget::Nowhere && tenant.slas_clients.iter().any(|client| place.takes(client)) && may_be_added()
}

/// The credential under which a request goes to SLAS: what it brings, or the named client's.
///
/// # Errors
/// [`GatewayError::Ambiguous`] if it names two clients.
pub(super) fn credential(
    tenant: &Tenant,
    route: &Route,
    operation: &Operation,
    head: &Parts,
    body: Option<&Bytes>,
) -> Result<UpstreamCredential, GatewayError> {
    let place = ClientAuthTarget::of(operation);
    // A form that was not read might ask for anything.
    let is_readable = head.method != Method::POST || (body.is_some() && form::is_form(&head.headers));
    if place == ClientAuthTarget::Nowhere || !is_readable {
        return Ok(UpstreamCredential::of_slas());
    }
    let presented = Authorization::read(&head.headers);
    let name = match &presented {
        Ok(Authorization::Basic(basic)) if place == ClientAuthTarget::Authorization && route.for_storefront => {
            Some(basic.user.clone())
        }
        _ if place == ClientAuthTarget::Strict || lacks_client(&presented) => named(head, body)?,
        // It brings its own, or something that SLAS is to judge.
        _ => None,
    };
    let client = name
        .and_then(|name| tenant.slas_clients.iter().find(|client| client.id.as_str() == name && place.takes(client)))
        .filter(|_| !on_behalf_hints::could_request_on_behalf(operation, head.uri.query(), body.map(|body| &body[..])));
    Ok(client.and_then(|client| vouched(place, client)).unwrap_or_else(UpstreamCredential::of_slas))
}

/// Whether a request brings no client's credential. A bearer token is none: it is an agent's, or of no
/// use where a client must prove itself.
fn lacks_client(presented: &Result<Authorization, GatewayError>) -> bool {
    matches!(presented, Ok(Authorization::Nothing | Authorization::Bearer(_)))
}

/// The client that a request names in its query or form.
///
/// # Errors
/// [`GatewayError::Ambiguous`] if they name two.
pub(super) fn named(head: &Parts, body: Option<&Bytes>) -> Result<Option<String>, GatewayError> {
    let query = Query::parse(head.uri.query()).map_err(|ambiguity| GatewayError::Ambiguous(ambiguity.to_string()))?;
    let in_query = query.single("client_id").map_err(|ambiguity| GatewayError::Ambiguous(ambiguity.to_string()))?;
    let in_query = in_query.filter(|id| !id.is_empty());
    let form = body.map(|body| Form::read(body)).transpose()?;
    let in_form = form.as_ref().map(|form| form.single("client_id")).transpose()?.flatten();
    match (in_query, in_form) {
        (Some(query), Some(form)) if query != form => {
            Err(GatewayError::Ambiguous("the query and the form name different clients".into()))
        }
        (query, form) => Ok(query.or(form).map(|id| id.into_owned())),
    }
}

fn vouched(place: ClientAuthTarget, client: &SlasClient) -> Option<UpstreamCredential> {
    let secret = client.secret.as_ref()?;
    let (field, value) = match place {
        ClientAuthTarget::Authorization => (AUTHORIZATION, basic_credentials(&client.id, secret)),
        ClientAuthTarget::BesideTheAgent => (AGENT_CLIENT_AUTH, bare_credentials(&client.id, secret)),
        ClientAuthTarget::Strict => (CLIENT_AUTH, bare_credentials(&client.id, secret)),
        ClientAuthTarget::Nowhere => return None,
    };
    Some(UpstreamCredential::of_slas_client(field, value))
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::*;

    #[test]
    fn debug_tells_no_secret() {
        let client = SlasClient {
            id: "c1".parse().unwrap(),
            secret: Some(SecretString::from("s3cret")),
            previous_secret: None,
            redirect_uri: "http://localhost:3000/callback".to_owned(),
            strict_client_auth: true,
            vouch: true,
            requests_per_second: None,
        };
        for place in [ClientAuthTarget::Authorization, ClientAuthTarget::BesideTheAgent, ClientAuthTarget::Strict] {
            let credential = vouched(place, &client).unwrap();
            let shown = format!("{credential:?} {:?}", credential.client_proof());
            assert!(!shown.contains("s3cret") && !shown.contains("YzE6"), "{shown}");
        }
        assert!(vouched(ClientAuthTarget::Nowhere, &client).is_none());
    }
}

//! Adds the credential of the private client that a request for SLAS names, if the request brings none.
//!
//! The gateway adds a client's credential only to the operations in [`ClientAuthTarget::of`]. If it did so for trusted-system
//! tokens, revocation or introspection, every client could act as any shopper. It adds none if `vouch` is false, or to a request
//! that SLAS could read as one on behalf of a shopper. SLAS checks a credential that the client brings, except below PWA Kit's
//! prefix, where storefronts send a placeholder.

use bytes::Bytes;
use http::{Method, header::AUTHORIZATION, request::Parts};

use super::on_behalf_hints;
use crate::{
    config::{SlasClient, Tenant},
    gateway::{
        authorization_header::Authorization,
        credential::{Source, UpstreamCredential},
        error::GatewayError,
        form::{self, Form},
        policy::Operation,
        query::Query,
        request::{PathPrefix, Route},
    },
    observability::audit::{AuditRecord, Event},
    salesforce::slas::{AGENT_CLIENT_AUTH, CLIENT_AUTH, bare_credentials, basic_credentials},
};

/// Where an operation expects the credential of a SLAS client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientAuthTarget {
    /// `Authorization: Basic`.
    Authorization,
    /// `_sfdc_client_auth`, beside the trusted agent's Account Manager token.
    BesideAgentToken,
    /// `x-slas-client-auth`, for clients of which SLAS demands it (`strict_client_auth`).
    Strict,
    /// The gateway adds no credential to the operation.
    None,
}

impl ClientAuthTarget {
    fn of(operation: &Operation) -> Self {
        // Operations of other APIs have the same ids.
        if !operation.is_checked_by_slas() {
            return Self::None;
        }
        match operation.id.as_str() {
            "getAccessToken"
            | "authorizePasswordlessCustomer"
            | "getPasswordLessAccessToken"
            | "getPasswordResetToken"
            | "resetPassword"
            | "getSessionBridgeAccessToken" => Self::Authorization,
            "getTrustedAgentAccessToken" => Self::BesideAgentToken,
            "authenticateCustomer" | "authorizeCustomer" => Self::Strict,
            _ => Self::None,
        }
    }

    /// Whether the gateway may add the credential of this client.
    fn accepts(self, client: &SlasClient) -> bool {
        let is_strict_only = self == Self::Strict && !client.strict_client_auth;
        self != Self::None && client.secret.is_some() && client.vouch && !is_strict_only
    }
}

/// Describes the credential that the gateway adds to an operation of SLAS.
#[must_use]
pub fn added_credential(operation: &Operation) -> Option<&'static str> {
    match ClientAuthTarget::of(operation) {
        ClientAuthTarget::Authorization => Some("Basic of the private client that is named"),
        ClientAuthTarget::BesideAgentToken => Some("_sfdc_client_auth of the private client that is named"),
        ClientAuthTarget::Strict => Some("x-slas-client-auth of the strict client that is named"),
        ClientAuthTarget::None => None,
    }
}

/// Returns the clients of these organizations whose credential the gateway adds to an operation of SLAS.
pub fn clients_with_added_credential<'t>(
    operation: &Operation,
    tenants: &'t [Tenant],
) -> impl Iterator<Item = &'t SlasClient> {
    let target = ClientAuthTarget::of(operation);
    tenants.iter().flat_map(|tenant| &tenant.slas_clients).filter(move |client| target.accepts(client))
}

/// Returns the audit record of a login at SLAS, with the configured client that performs it.
pub(super) fn login(tenant: &Tenant, operation: &Operation, head: &Parts, body: Option<&Bytes>) -> Option<AuditRecord> {
    let grant =
        body.and_then(|body| Form::parse(body).ok()?.single("grant_type").ok()?.map(|grant| grant.into_owned()));
    let is_login = match operation.id.as_str() {
        "getAccessToken" => grant.as_deref() != Some("refresh_token"),
        "authenticateCustomer"
        | "getPasswordLessAccessToken"
        | "getSessionBridgeAccessToken"
        | "getTrustedSystemAccessToken"
        | "getTrustedAgentAccessToken" => operation.is_checked_by_slas(),
        _ => false,
    };
    let client = || match Authorization::parse(&head.headers) {
        Ok(Authorization::Basic(basic)) if operation.id != "authenticateCustomer" => Some(basic.user),
        _ => named_client(head, body).ok().flatten(),
    };
    // Only configured clients appear in the audit log. Any other text is the client's own.
    let known = |name: String| tenant.slas_clients.iter().any(|client| client.id.as_str() == name).then_some(name);
    is_login.then(|| AuditRecord {
        event: Some(Event::Login),
        actor: client().and_then(known),
        ..AuditRecord::default()
    })
}

/// Whether the form must be read to know whose credential the gateway may add.
pub(super) fn needs_form(tenant: &Tenant, route: &Route, operation: &Operation, head: &Parts) -> bool {
    let target = target(route, operation);
    let may_be_added = || {
        let authorization = Authorization::parse(&head.headers);
        let is_placeholder =
            route.prefix == PathPrefix::SlasPrivate && matches!(authorization, Ok(Authorization::Basic(_)));
        target == ClientAuthTarget::Strict || is_placeholder || has_no_client(&authorization)
    };
    tenant.slas_clients.iter().any(|client| target.accepts(client)) && may_be_added()
}

/// Returns the credential of a request for SLAS: the client's own, or the credential of the client that it names.
///
/// # Errors
/// [`GatewayError::Ambiguous`] if the request names two clients.
pub(super) fn credential(
    tenant: &Tenant,
    route: &Route,
    operation: &Operation,
    head: &Parts,
    body: Option<&Bytes>,
) -> Result<UpstreamCredential, GatewayError> {
    let target = target(route, operation);
    // An unread form might request anything.
    let is_readable = head.method != Method::POST || (body.is_some() && form::is_form(&head.headers));
    if target == ClientAuthTarget::None || !is_readable {
        return Ok(Source::Slas.into());
    }
    let authorization = Authorization::parse(&head.headers);
    let name = match &authorization {
        Ok(Authorization::Basic(basic))
            if target == ClientAuthTarget::Authorization && route.prefix == PathPrefix::SlasPrivate =>
        {
            Some(basic.user.clone())
        }
        _ if target == ClientAuthTarget::Strict || has_no_client(&authorization) => named_client(head, body)?,
        // The request brings its own credential, or one that SLAS must judge.
        _ => None,
    };
    let client = name
        .and_then(|name| tenant.slas_clients.iter().find(|client| client.id.as_str() == name && target.accepts(client)))
        .filter(|_| !on_behalf_hints::could_request_on_behalf(operation, head.uri.query(), body.map(|body| &body[..])));
    Ok(client.and_then(|client| credential_for(target, client)).unwrap_or_else(|| Source::Slas.into()))
}

/// Where the operation of a request expects a credential that the gateway may add.
fn target(route: &Route, operation: &Operation) -> ClientAuthTarget {
    match route.prefix {
        PathPrefix::SlasPublic => ClientAuthTarget::None,
        PathPrefix::None | PathPrefix::SlasPrivate | PathPrefix::Api => ClientAuthTarget::of(operation),
    }
}

/// Whether a request brings no SLAS client's credential. A bearer token belongs to an agent, or is useless for client
/// authentication.
fn has_no_client(authorization: &Result<Authorization, GatewayError>) -> bool {
    matches!(authorization, Ok(Authorization::Nothing | Authorization::Bearer(_)))
}

/// Returns the client that a request names in its query or form.
///
/// # Errors
/// [`GatewayError::Ambiguous`] if the request names two clients.
pub(super) fn named_client(head: &Parts, body: Option<&Bytes>) -> Result<Option<String>, GatewayError> {
    let query = Query::parse(head.uri.query())?;
    let in_query = query.single("client_id")?.filter(|id| !id.is_empty());
    let form = body.map(|body| Form::parse(body)).transpose()?;
    let in_form = form.as_ref().map(|form| form.single("client_id")).transpose()?.flatten();
    match (in_query, in_form) {
        (Some(query), Some(form)) if query != form => {
            Err(GatewayError::Ambiguous("the query and the form name different clients".into()))
        }
        (query, form) => Ok(query.or(form).map(|id| id.into_owned())),
    }
}

fn credential_for(target: ClientAuthTarget, client: &SlasClient) -> Option<UpstreamCredential> {
    let secret = client.secret.as_ref()?;
    let (field, value) = match target {
        ClientAuthTarget::Authorization => (AUTHORIZATION, basic_credentials(&client.id, secret)),
        ClientAuthTarget::BesideAgentToken => (AGENT_CLIENT_AUTH, bare_credentials(&client.id, secret)),
        ClientAuthTarget::Strict => (CLIENT_AUTH, bare_credentials(&client.id, secret)),
        ClientAuthTarget::None => return None,
    };
    Some(Source::SlasClient(field, value).into())
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::*;

    #[test]
    fn credential_debug_output_has_no_secret() {
        let client = SlasClient {
            id: "c1".parse().unwrap(),
            secret: Some(SecretString::from("s3cret")),
            previous_secret: None,
            redirect_uri: "http://localhost:3000/callback".to_owned(),
            strict_client_auth: true,
            vouch: true,
            requests_per_second: None,
        };
        for target in [ClientAuthTarget::Authorization, ClientAuthTarget::BesideAgentToken, ClientAuthTarget::Strict] {
            let credential = credential_for(target, &client).unwrap();
            let shown = format!("{credential:?} {:?}", credential.slas_client_field());
            assert!(!shown.contains("s3cret") && !shown.contains("YzE6"), "{shown}");
        }
        assert!(credential_for(ClientAuthTarget::None, &client).is_none());
    }
}

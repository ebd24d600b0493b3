//! Authorization of an operation: kind of token, tenant, scopes, flow marks, site.

use axum::http::StatusCode;
use serde_json::{Map, Value};

use super::{Caller, bad_request};
use crate::account_manager;
use crate::operations::{Acceptance, Operation, TokenKind};
use crate::request::ReceivedRequest;
use crate::response::ServiceResponse;
use crate::seed::tenant_of;
use crate::shopper_token::ShopperToken;
use crate::world::World;

/// Verifies the caller against what the operation accepts.
pub(super) fn admit(
    world: &World,
    operation: &Operation,
    variables: &[(&'static str, String)],
    request: &ReceivedRequest,
) -> Result<Caller, ServiceResponse> {
    let token = request.bearer().ok_or_else(|| unauthorized("the access token is missing"))?;
    let tenant = variables
        .iter()
        .find(|(name, _)| matches!(*name, "organizationId" | "tenantId"))
        .map_or("", |(_, value)| tenant_of(value));
    let for_system = |kind: TokenKind| matches!(kind, TokenKind::System | TokenKind::SystemByRole);
    let (system, shopper): (Vec<_>, Vec<_>) =
        operation.accepts.iter().partition(|acceptance| for_system(acceptance.kind));
    let mut reason = "the access token is not of the accepted kind";
    if !system.is_empty()
        && let Ok(claims) = world.verify_account_manager_token(token)
    {
        let scopes = scopes_of(&claims);
        if let [Acceptance { kind: TokenKind::SystemByRole, scopes: roles }] = system.as_slice() {
            let client = claims.get("client_id").and_then(Value::as_str);
            let client = client.and_then(|client| world.seed.account_manager_client(client));
            let has_one = client.is_some_and(|client| {
                client.roles.as_ref().is_none_or(|own| own.iter().any(|role| roles.contains(&role.as_str())))
            });
            return if has_one { Ok(Caller::System) } else { Err(missing_scopes()) };
        }
        if !account_manager::acts_for(&scopes, tenant) {
            return Err(forbidden("Your access-token is valid, but not for this organization."));
        }
        let enough = |accepted: &[&str]| scopes.iter().any(|scope| accepted.contains(scope));
        if system.iter().any(|acceptance| enough(&acceptance.scopes)) {
            return Ok(Caller::System);
        }
        return Err(missing_scopes());
    }
    if !shopper.is_empty() {
        match world.verify_shopper_token(token) {
            Err(why) => reason = why,
            Ok(token) => {
                let right_mark = |kind| match kind {
                    TokenKind::ShopperTsob => token.has_mark("tsob"),
                    TokenKind::ShopperTaob => token.has_mark("taob"),
                    TokenKind::Shopper => true,
                    TokenKind::System | TokenKind::SystemByRole => false,
                };
                same_place(world, variables, request, &token, tenant)?;
                let fitting =
                    shopper.iter().any(|acceptance| right_mark(acceptance.kind) && token.may(&acceptance.scopes));
                return if fitting { Ok(Caller::Shopper(Box::new(token))) } else { Err(missing_scopes()) };
            }
        }
    }
    Err(unauthorized(reason))
}

/// The token must be for the organization of the path and the site of the query.
fn same_place(
    world: &World,
    variables: &[(&'static str, String)],
    request: &ReceivedRequest,
    token: &ShopperToken,
    tenant: &str,
) -> Result<(), ServiceResponse> {
    if token.tenant != tenant {
        return Err(forbidden("Your access-token is valid, but not for this organization."));
    }
    let parameters = request.parameters();
    let Some(site) = parameters.value("siteId") else {
        return Ok(());
    };
    if token.site.as_deref().is_some_and(|own| own != site) {
        return Err(forbidden("Your access-token is valid, but not for this site."));
    }
    let organization =
        variables.iter().find(|(name, _)| *name == "organizationId").and_then(|(_, id)| world.seed.organization(id));
    if organization.is_some_and(|known| !known.sites.iter().any(|one| one == site)) {
        return Err(bad_request(&format!("The site '{site}' is unknown.")));
    }
    Ok(())
}

fn scopes_of(claims: &Map<String, Value>) -> Vec<&str> {
    let scopes = claims.get("scope").and_then(Value::as_array);
    scopes.map(|list| list.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

pub(super) fn unauthorized(why: &str) -> ServiceResponse {
    ServiceResponse::problem(
        StatusCode::UNAUTHORIZED,
        "Invalid Access Token",
        &format!("The request is unauthorized, {why}."),
    )
}

pub(super) fn forbidden(detail: &str) -> ServiceResponse {
    ServiceResponse::problem(StatusCode::FORBIDDEN, "Forbidden", detail)
}

fn missing_scopes() -> ServiceResponse {
    forbidden("Your access-token is valid, but you have no permissions to access the resource.")
}

//! Tokens on behalf of a shopper: for trusted systems (TSOB) and trusted agents (TAOB).

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::Value;

use super::authorize::{begin_query, escaped, new_session};
use super::clients;
use super::issue::{Renewal, tokens};
use super::sessions::PendingAgent;
use super::token::do_not_track;
use crate::account_manager;
use crate::identifiers;
use crate::request::{Fields, ReceivedRequest};
use crate::response::{Outcome, ServiceResponse};
use crate::seed::{SlasClient, tenant_of};
use crate::shopper_token::Identity;
use crate::world::World;

const TSOB: &str = "ts_ext_on_behalf_of";
const TAOB: &str = "ta_ext_on_behalf_of";

const PROVIDERS: &[&str] = &[
    "apple",
    "auth0",
    "azure",
    "azure_adb2c",
    "cognito",
    "default",
    "ecom",
    "facebook",
    "forgerock",
    "gigya",
    "gigya_socialize",
    "google",
    "okta",
    "ping",
    "salesforce",
];

/// `POST /trusted-system/token`.
pub(super) fn system_token(world: &World, organization: &str, request: &ReceivedRequest) -> Outcome {
    let fields = request.form();
    let client = clients::proven(world, organization, request.basic())?;
    permitted(client, "sfcc.ts_ext_on_behalf_of")?;
    if fields.text("client_id") != client.id {
        return Err(ServiceResponse::invalid_request("Bad or missing client_id."));
    }
    if fields.text("grant_type") != "client_credentials" || fields.text("hint") != TSOB {
        return Err(ServiceResponse::invalid_request("Bad or missing grant_type or hint."));
    }
    let site = clients::token_site(world, organization, &fields)?;
    let (login, origin) = (fields.text("login_id"), fields.text("idp_origin"));
    if login.is_empty() || !PROVIDERS.contains(&origin) {
        return Err(ServiceResponse::invalid_request("Bad or missing login_id or idp_origin."));
    }
    let for_guest = login.eq_ignore_ascii_case("guest") && origin == "ecom";
    if !for_guest {
        admit(world, organization, origin, login)?;
    }
    let usid = fields.value("usid").map_or_else(identifiers::usid, str::to_owned);
    let guest = world.sessions().guest_of(organization, &usid);
    let identity = if for_guest {
        Identity::guest(guest)
    } else {
        let known = world.shop().identity(organization, origin, login, guest.clone());
        match known {
            Some(identity) => identity,
            None if origin == "ecom" => {
                return Err(ServiceResponse::invalid_request("The login_id is unknown to B2C Commerce."));
            }
            None => {
                let email = fields.value("email_id").unwrap_or(login);
                world.shop().register_external(organization, origin, login, email, guest)
            }
        }
    };
    let mut session = new_session(organization, client, site, &usid, identity);
    session.marks = vec![("tsob".into(), TSOB.into())];
    session.do_not_track = do_not_track(&fields);
    tokens(world, &session, Renewal::Fresh)
}

fn admit(world: &World, organization: &str, origin: &str, login: &str) -> Result<(), ServiceResponse> {
    let behaviour = world.behaviour();
    if !behaviour.enforce_windows {
        return Ok(());
    }
    let key = (tenant_of(organization).to_owned(), origin.to_owned(), login.to_owned());
    let window = Duration::from_millis(behaviour.tsob_window_ms);
    if world.sessions().on_behalf.admit(key, window) {
        return Ok(());
    }
    Err(ServiceResponse::slas(
        StatusCode::CONFLICT,
        "conflict",
        "The same loginId and tenantId tried to login twice within 3 seconds.",
    ))
}

fn permitted(client: &SlasClient, scope: &str) -> Result<(), ServiceResponse> {
    if client.on_behalf.iter().any(|known| known == scope) {
        Ok(())
    } else {
        Err(ServiceResponse::invalid_client("Authorization failed."))
    }
}

/// `GET /trusted-agent/authorize`: sends the agent to Account Manager's login.
pub(super) fn agent_authorize(world: &World, organization: &str, request: &ReceivedRequest) -> Outcome {
    let fields = request.parameters();
    let client = clients::named(world, organization, &fields)?;
    permitted(client, "sfcc.ta_ext_on_behalf_of")?;
    clients::site(world, organization, &fields)?;
    let redirect_uri = clients::redirect_uri(client, &fields)?;
    if fields.text("response_type") != "code" {
        return Err(ServiceResponse::invalid_request("Bad or missing response_type."));
    }
    let (login_id, for_guest) = agent_login(&fields)?;
    let challenge = clients::challenge_of(world, client, &fields)?;
    let kind = if for_guest { "taobgst" } else { "taob" };
    let own_state = || format!("{kind}.{}", identifiers::usid());
    let state = fields.value("state").map_or_else(own_state, str::to_owned);
    world.sessions().agents.push(PendingAgent {
        organization: organization.to_owned(),
        client_id: client.id.clone(),
        login_id: login_id.to_owned(),
        challenge,
        state: state.clone(),
    });
    let target = format!("{}/dwsso/oauth2/authorize", world.url());
    Ok(ServiceResponse::see_other(format!(
        "{}response_type=code&redirect_uri={}&state={}",
        begin_query(&target),
        escaped(&redirect_uri),
        escaped(&state),
    )))
}

/// `POST /trusted-agent/token`: the bearer is the code of Account Manager's redirect, as storefronts send it, or a
/// token that the client got for the code.
pub(super) fn agent_token(world: &World, organization: &str, request: &ReceivedRequest) -> Outcome {
    let fields = request.form();
    let refused = || ServiceResponse::invalid_client("Authorization failed.");
    let bearer = request.bearer().ok_or_else(refused)?;
    let agent = agent_of(world, bearer).ok_or_else(refused)?;
    let shown = request.header("_sfdc_client_auth").is_some();
    let client = if shown {
        clients::proven(world, organization, request.optional_scheme_basic("_sfdc_client_auth"))?
    } else {
        clients::named(world, organization, &fields)?
    };
    if client.is_private() && !shown {
        return Err(refused());
    }
    permitted(client, "sfcc.ta_ext_on_behalf_of")?;
    super::token::same_client(client, &fields)?;
    let site = clients::token_site(world, organization, &fields)?;
    let grant = fields.text("grant_type");
    if !matches!(grant, "client_credentials" | "authorization_code_pkce") {
        return Err(ServiceResponse::invalid_request("Bad or missing grant_type."));
    }
    if fields.value("agent_id").is_some_and(|id| id != agent) {
        return Err(ServiceResponse::invalid_request("The agent_id is not the one that logged in."));
    }
    let (login, for_guest) = agent_login(&fields)?;
    let pending = take_pending(world, organization, client, login, &fields);
    let verified = pending.is_some() || (client.is_private() && fields.value("code_verifier").is_none());
    if !verified {
        return Err(super::token::invalid_grant("Bad or missing code_verifier."));
    }
    if (for_guest || fields.value("state").is_some())
        && pending.is_none_or(|pending| pending.state != fields.text("state"))
    {
        return Err(ServiceResponse::invalid_request("Bad or missing state."));
    }
    let usid = fields.value("usid").map_or_else(identifiers::usid, str::to_owned);
    let guest = world.sessions().guest_of(organization, &usid);
    let identity = if for_guest {
        Identity::guest(guest)
    } else {
        world
            .shop()
            .identity(organization, fields.text("idp_origin"), login, guest)
            .ok_or_else(|| ServiceResponse::invalid_request("Bad or missing login_id."))?
    };
    world.sessions().agent_codes.remove(bearer);
    let mut session = new_session(organization, client, site, &usid, identity);
    session.marks = vec![("taob".into(), TAOB.into()), ("agent".into(), agent)];
    session.do_not_track = do_not_track(&fields);
    tokens(world, &session, Renewal::Never)
}

/// The agent that an unused code or a token of Account Manager names.
fn agent_of(world: &World, bearer: &str) -> Option<String> {
    if world.sessions().agent_codes.contains(bearer) {
        return Some(account_manager::AGENT.to_owned());
    }
    let claims = world.verify_account_manager_token(bearer).ok()?;
    claims.get("sub").and_then(Value::as_str).map(str::to_owned)
}

/// The login id, and whether it means a guest. A guest's origin is SLAS. The description writes `Guest`, storefronts
/// write `guest`.
fn agent_login(fields: &Fields) -> Result<(&str, bool), ServiceResponse> {
    let (login, origin) = (fields.text("login_id"), fields.text("idp_origin"));
    let for_guest = login.eq_ignore_ascii_case("guest");
    if login.is_empty() || origin.is_empty() || for_guest != (origin == "slas") {
        return Err(ServiceResponse::invalid_request("Bad or missing login_id or idp_origin."));
    }
    Ok((login, for_guest))
}

/// Removes and returns the pending authorization that this request completes.
fn take_pending(
    world: &World,
    organization: &str,
    client: &SlasClient,
    login: &str,
    fields: &Fields,
) -> Option<PendingAgent> {
    let mut sessions = world.sessions();
    let place = sessions.agents.iter().position(|pending| {
        let proven = match (&pending.challenge, fields.value("code_verifier")) {
            (Some(challenge), Some(verifier)) => clients::verifies(verifier, challenge),
            (None, None) => client.is_private(),
            _ => false,
        };
        proven && pending.organization == organization && pending.client_id == client.id && pending.login_id == login
    })?;
    Some(sessions.agents.swap_remove(place))
}

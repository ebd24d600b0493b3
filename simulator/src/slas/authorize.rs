//! `/authorize` and `/login`, which end in a redirect with a code.

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::clients;
use super::sessions::{Code, Session};
use crate::clock;
use crate::identifiers;
use crate::request::{Fields, ReceivedRequest};
use crate::response::{Outcome, ServiceResponse};
use crate::seed::{SlasClient, tenant_of};
use crate::shopper_token::Identity;
use crate::world::World;

/// `GET /authorize` with `hint=guest`, `sb-guest` or `sb-user`. Identity providers have no login page here.
pub(super) fn authorize(world: &World, organization: &str, request: &ReceivedRequest) -> Outcome {
    let fields = request.parameters();
    let client = clients::named(world, organization, &fields)?;
    clients::front_channel(world, organization, client, request)?;
    let redirect_uri = clients::redirect_uri(client, &fields)?;
    if fields.text("response_type") != "code" {
        return Err(ServiceResponse::invalid_request("Bad or missing response_type."));
    }
    let site = clients::optional_site(world, organization, &fields)?;
    let hint = fields.text("hint");
    if !matches!(hint, "guest" | "sb-guest" | "sb-user") {
        return Err(ServiceResponse::invalid_request(
            "The simulator has no login recorded: the hint must be guest, sb-guest or sb-user.",
        ));
    }
    let challenge = if client.is_private() && fields.value("code_challenge").is_none() {
        None
    } else {
        Some(clients::challenge(world, &fields)?)
    };
    let usid = fields.value("usid").map_or_else(identifiers::usid, str::to_owned);
    let guest = world.sessions().guest_of(organization, &usid);
    let mut session = new_session(organization, client, site, &usid, Identity::guest(guest));
    if hint != "guest" {
        // The client names the shopper, with a proof, at /session-bridge/token.
        session.marks = vec![("sesb".into(), "session_bridge".into())];
    }
    Ok(redirect(world, session, redirect_uri, challenge, &fields))
}

/// `POST /login`: a registered shopper's own credentials.
pub(super) fn login(world: &World, organization: &str, request: &ReceivedRequest) -> Outcome {
    let fields = request.form();
    let client = clients::named(world, organization, &fields)?;
    clients::front_channel(world, organization, client, request)?;
    let redirect_uri = clients::redirect_uri(client, &fields)?;
    let site = clients::site(world, organization, &fields)?;
    let (login, password) =
        request.basic().ok_or_else(|| ServiceResponse::invalid_client("Basic Authorization failed."))?;
    let behaviour = world.behaviour();
    if behaviour.enforce_windows {
        let key = (tenant_of(organization).to_owned(), login.clone());
        let window = Duration::from_millis(behaviour.login_window_ms);
        if !world.sessions().logins.admit(key, window) {
            return Err(ServiceResponse::slas(
                axum::http::StatusCode::CONFLICT,
                "conflict",
                "The same loginId and tenantId tried to login twice within 1 second.",
            ));
        }
    }
    let usid = fields.value("usid").map_or_else(identifiers::usid, str::to_owned);
    let guest = world.sessions().guest_of(organization, &usid);
    let identity = world
        .shop()
        .log_in(organization, &login, &password, guest)
        .ok_or_else(|| ServiceResponse::invalid_client("Basic Authorization failed."))?;
    let challenge = clients::challenge(world, &fields)?;
    let session = new_session(organization, client, Some(site), &usid, identity);
    Ok(redirect(world, session, redirect_uri, Some(challenge), &fields))
}

/// A session without marks.
pub(super) fn new_session(
    organization: &str,
    client: &SlasClient,
    site: Option<String>,
    usid: &str,
    identity: Identity,
) -> Session {
    Session {
        organization: organization.to_owned(),
        client_id: client.id.clone(),
        site,
        usid: usid.to_owned(),
        identity,
        marks: Vec::new(),
        do_not_track: None,
    }
}

fn redirect(
    world: &World,
    session: Session,
    redirect_uri: String,
    challenge: Option<String>,
    fields: &Fields,
) -> ServiceResponse {
    let usid = session.usid.clone();
    let expires = clock::seconds() + world.behaviour().code_seconds;
    let code = world.sessions().keep_code(Code { session, redirect_uri: redirect_uri.clone(), challenge, expires });
    let mut location = format!("{}usid={}", begin_query(&redirect_uri), escaped(&usid));
    for name in ["state", "scope"] {
        if let Some(value) = fields.value(name) {
            location.push_str(&format!("&{name}={}", escaped(value)));
        }
    }
    location.push_str(&format!("&code={code}"));
    ServiceResponse::see_other(location)
}

/// The URI with `?` or `&`, ready for more parameters.
pub(super) fn begin_query(uri: &str) -> String {
    let separator = if uri.contains('?') { '&' } else { '?' };
    format!("{uri}{separator}")
}

pub(super) fn escaped(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string().replace("%2D", "-")
}

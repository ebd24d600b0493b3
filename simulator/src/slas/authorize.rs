//! `/authorize` and `/login`, which end in a redirect with a code.

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use super::clients;
use super::issue::commerce_cookie;
use super::sessions::{Code, ProviderTokens, Session};
use crate::clock;
use crate::identifiers;
use crate::jwt;
use crate::request::{Fields, ReceivedRequest};
use crate::response::{Outcome, ServiceResponse};
use crate::seed::{IdentityProvider, SlasClient, tenant_of};
use crate::shopper_token::Identity;
use crate::world::{World, members};

/// `GET /authorize`: a guest, a session to bridge, or the user of an identity provider, who logs in at once.
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
    let provider = match hint {
        "guest" | "sb-guest" | "sb-user" => None,
        _ => Some(world.seed.identity_provider(fields.value("hint")).ok_or_else(|| {
            ServiceResponse::invalid_request(
                "The hint must be guest, sb-guest, sb-user or an identity provider of the seed.",
            )
        })?),
    };
    let challenge = clients::challenge_of(world, client, &fields)?;
    let usid = fields.value("usid").map_or_else(identifiers::usid, str::to_owned);
    let guest = world.sessions().guest_of(organization, &usid);
    if let Some(provider) = provider {
        let identity = world.shop().log_in_at(organization, provider, guest);
        let mut session = new_session(organization, client, site, &usid, identity);
        session.provider_tokens = Some(provider_tokens(world, provider));
        return Ok(redirect(world, session, redirect_uri, challenge, &fields));
    }
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
    let challenge = clients::challenge_of(world, client, &fields)?;
    let mut session = new_session(organization, client, Some(site), &usid, identity);
    session.provider_tokens = Some(ProviderTokens { access: identifiers::opaque(), refresh: None });
    Ok(redirect(world, session, redirect_uri, challenge, &fields))
}

/// Tokens as the identity provider would issue them. The simulator's SLAS key signs, under a key id of its own.
fn provider_tokens(world: &World, provider: &IdentityProvider) -> ProviderTokens {
    let issuer = format!("https://{}.example", provider.name);
    let now = world.now();
    let claims = json!({"iss": issuer, "sub": provider.login, "email": provider.email, "iat": now, "exp": now + 3600});
    let header = json!({"kid": provider.name, "alg": "ES256"});
    let access = jwt::sign(world.slas_keys().current(), &members(header), &members(claims));
    ProviderTokens { access, refresh: provider.refresh_token.then(identifiers::opaque) }
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
        commerce_session: format!("{}{}==", identifiers::opaque(), identifiers::opaque()),
        provider_tokens: None,
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
    let session_bridge = session.has_mark("sesb");
    let commerce_session = session.commerce_session.clone();
    let expires = clock::seconds() + world.behaviour().code_seconds;
    let code = world.sessions().keep_code(Code { session, redirect_uri: redirect_uri.clone(), challenge, expires });
    let mut location = format!("{}usid={}", begin_query(&redirect_uri), escaped(&usid));
    for name in ["state", "scope"] {
        if let Some(value) = fields.value(name) {
            location.push_str(&format!("&{name}={}", escaped(value)));
        }
    }
    location.push_str(&format!("&code={code}"));
    let response = ServiceResponse::see_other(location);
    if session_bridge { commerce_cookie(world, &commerce_session, response) } else { response }
}

/// The URI with `?` or `&`, ready for more parameters.
pub(super) fn begin_query(uri: &str) -> String {
    let separator = if uri.contains('?') { '&' } else { '?' };
    format!("{uri}{separator}")
}

pub(super) fn escaped(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string().replace("%2D", "-")
}

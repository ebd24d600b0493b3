//! One-time tokens: passwordless login, SLAS's password reset, and OTP.
//!
//! Nothing is mailed: messages are in the outbox of the control API.

use axum::http::StatusCode;

use super::authorize::new_session;
use super::clients;
use super::issue::{Renewal, tokens};
use super::sessions::{Delivery, OneTime, Purpose};
use super::token::do_not_track;
use crate::clock;
use crate::identifiers;
use crate::request::{Fields, ReceivedRequest};
use crate::response::{Outcome, ServiceResponse};
use crate::seed::{SlasClient, tenant_of};
use crate::world::World;

/// `POST /passwordless/login`.
pub(super) fn passwordless_login(world: &World, organization: &str, request: &ReceivedRequest) -> Outcome {
    let fields = request.form();
    let client = clients::proven(world, organization, request.basic())?;
    let site = clients::site(world, organization, &fields)?;
    let user = user_id(&fields)?;
    let callback = delivery_target(client, &fields)?;
    let known = world.shop().has_login(organization, user);
    let mut registration = None;
    if !known {
        if request.parameters().text("register_customer") != "true" {
            return Err(ServiceResponse::slas(StatusCode::NOT_FOUND, "not_found", "User Not Found"));
        }
        let last_name =
            fields.value("last_name").ok_or_else(|| ServiceResponse::invalid_request("Bad or missing last_name."))?;
        let email = fields.value("email").unwrap_or(user);
        if !email.contains('@') {
            return Err(ServiceResponse::invalid_request("Bad or missing email."));
        }
        let first_name = fields.text("first_name").to_owned();
        registration = Some((first_name, last_name.to_owned(), email.to_owned()));
    }
    let mut one_time = draft(world, Purpose::Passwordless, organization, &client.id, &site, user);
    one_time.usid = fields.value("usid").map(str::to_owned);
    one_time.registration = registration;
    send(world, one_time, &fields, callback);
    Ok(ServiceResponse::empty(StatusCode::OK))
}

/// `POST /passwordless/token`.
pub(super) fn passwordless_token(world: &World, organization: &str, request: &ReceivedRequest) -> Outcome {
    let fields = request.form();
    let client = clients::proven(world, organization, request.basic())?;
    if fields.text("grant_type") != "client_credentials" || fields.text("hint") != "pwdless_login" {
        return Err(ServiceResponse::invalid_request("Bad or missing grant_type or hint."));
    }
    let shown = fields.text("pwdless_login_token");
    let one_time = pending(world, Purpose::Passwordless, organization, &client.id, shown)?;
    if fields.value("login_id").is_some_and(|login| login != one_time.user_id) {
        return Err(ServiceResponse::invalid_request("Bad or missing login_id."));
    }
    world.sessions().drop_one_time(organization, shown);
    let login = &one_time.user_id;
    if let Some((first, last, email)) = &one_time.registration {
        world.shop().register_without_password(organization, login, first, last, email);
    }
    let usid = one_time.usid.unwrap_or_else(identifiers::usid);
    let guest = world.sessions().guest_of(organization, &usid);
    let identity = world
        .shop()
        .identity(organization, "ecom", login, guest)
        .ok_or_else(|| ServiceResponse::invalid_request("Bad or missing access token."))?;
    let mut session = new_session(organization, client, Some(one_time.site), &usid, identity);
    session.marks = vec![("login".into(), "pwdless".into())];
    session.do_not_track = do_not_track(&fields);
    tokens(world, &session, Renewal::Fresh)
}

/// `POST /password/reset`.
pub(super) fn password_reset(world: &World, organization: &str, request: &ReceivedRequest) -> Outcome {
    let fields = request.form();
    let client = clients::trusted(world, organization, request, &fields)?;
    let site = clients::site(world, organization, &fields)?;
    let user = user_id(&fields)?;
    let callback = delivery_target(client, &fields)?;
    let challenge =
        if fields.text("hint") == "cross_device" { None } else { Some(clients::challenge(world, &fields)?) };
    // An unknown shopper gets the same response, so that the response does not reveal registered logins.
    if world.shop().has_login(organization, user) {
        let mut one_time = draft(world, Purpose::PasswordReset, organization, &client.id, &site, user);
        one_time.challenge = challenge;
        send(world, one_time, &fields, callback);
    }
    Ok(ServiceResponse::empty(StatusCode::OK))
}

/// `POST /password/action`.
pub(super) fn password_action(world: &World, organization: &str, request: &ReceivedRequest) -> Outcome {
    let fields = request.form();
    let client = clients::trusted(world, organization, request, &fields)?;
    clients::site(world, organization, &fields)?;
    let shown = fields.text("pwd_action_token");
    let one_time = pending(world, Purpose::PasswordReset, organization, &client.id, shown)?;
    let proven = match &one_time.challenge {
        Some(challenge) => clients::verifies(fields.text("code_verifier"), challenge),
        None => fields.text("hint") == "cross_device" && fields.text("user_id") == one_time.user_id,
    };
    let password = fields.value("new_password").filter(|_| proven);
    let password = password.ok_or_else(|| ServiceResponse::invalid_request("Bad or missing request parameters."))?;
    world.sessions().drop_one_time(organization, shown);
    let customer = world.shop().set_password(organization, &one_time.user_id, password);
    if let Some(customer) = customer {
        let serial = world.serial();
        world.sessions().credentials_changed(tenant_of(organization), &customer, serial);
    }
    Ok(ServiceResponse::empty(StatusCode::OK))
}

/// `POST /otp/request`, with a shopper token.
pub(super) fn otp_request(world: &World, organization: &str, request: &ReceivedRequest) -> Outcome {
    let fields = request.form();
    let client = otp_client(world, organization, request, &fields)?;
    let site = clients::site(world, organization, &fields)?;
    let user = user_id(&fields)?;
    let callback = delivery_target(client, &fields)?;
    let one_time = draft(world, Purpose::Otp, organization, &client.id, &site, user);
    send(world, one_time, &fields, callback);
    Ok(ServiceResponse::empty(StatusCode::ACCEPTED))
}

/// `POST /otp/verify`.
pub(super) fn otp_verify(world: &World, organization: &str, request: &ReceivedRequest) -> Outcome {
    let fields = request.form();
    let client = otp_client(world, organization, request, &fields)?;
    clients::site(world, organization, &fields)?;
    let shown = fields.text("pwd_action_token");
    let one_time = pending(world, Purpose::Otp, organization, &client.id, shown)?;
    if one_time.user_id != fields.text("user_id") {
        return Err(ServiceResponse::invalid_request("Bad or missing access token."));
    }
    world.sessions().drop_one_time(organization, shown);
    Ok(ServiceResponse::empty(StatusCode::NO_CONTENT))
}

fn otp_client<'w>(
    world: &'w World,
    organization: &str,
    request: &ReceivedRequest,
    fields: &Fields,
) -> Result<&'w SlasClient, ServiceResponse> {
    let token = super::introspection::bearer(world, organization, request)?;
    if !token.may(&["sfcc.pwdless_login"]) {
        return Err(ServiceResponse::invalid_client("Authorization failed."));
    }
    clients::named(world, organization, fields)
}

fn user_id(fields: &Fields) -> Result<&str, ServiceResponse> {
    fields.value("user_id").ok_or_else(|| ServiceResponse::invalid_request("Bad or missing user_id."))
}

/// The delivery of the token. A callback URI must equal a registered one.
fn delivery_target(client: &SlasClient, fields: &Fields) -> Result<Option<String>, ServiceResponse> {
    match fields.text("mode") {
        "callback" => {
            let uri = fields.text("callback_uri");
            if client.callback_uris.iter().any(|known| known == uri) {
                Ok(Some(uri.to_owned()))
            } else {
                let description = "Bad or missing callback_uri.";
                let message = "callback_uri doesn't match the registered callbacks";
                Err(ServiceResponse::slas_with_message(
                    StatusCode::BAD_REQUEST,
                    "invalid_request",
                    description,
                    message,
                ))
            }
        }
        "sms" | "email" => Ok(None),
        _ => Err(ServiceResponse::invalid_request("Bad or missing mode.")),
    }
}

fn draft(world: &World, purpose: Purpose, organization: &str, client_id: &str, site: &str, user_id: &str) -> OneTime {
    OneTime {
        purpose,
        organization: organization.to_owned(),
        client_id: client_id.to_owned(),
        site: site.to_owned(),
        user_id: user_id.to_owned(),
        usid: None,
        challenge: None,
        registration: None,
        expires: clock::seconds() + world.behaviour().one_time_token_seconds,
    }
}

fn send(world: &World, one_time: OneTime, fields: &Fields, callback_uri: Option<String>) {
    let token = identifiers::digits();
    let mut sessions = world.sessions();
    sessions.outbox.push(Delivery {
        purpose: one_time.purpose,
        organization: one_time.organization.clone(),
        user_id: one_time.user_id.clone(),
        mode: fields.text("mode").to_owned(),
        callback_uri,
        token: token.clone(),
    });
    sessions.keep_one_time(&token, one_time);
}

fn pending(
    world: &World,
    purpose: Purpose,
    organization: &str,
    client_id: &str,
    shown: &str,
) -> Result<OneTime, ServiceResponse> {
    let known = world.sessions().one_time(organization, shown);
    known
        .filter(|one| one.purpose == purpose && one.client_id == client_id)
        .filter(|one| one.expires > clock::seconds())
        .ok_or_else(|| {
            let description = "Bad or missing access token.";
            ServiceResponse::slas_with_message(StatusCode::BAD_REQUEST, "invalid_request", description, "Invalid token")
        })
}

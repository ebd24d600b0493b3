//! The problem documents (RFC 9457, in SCAPI's shape): the status, code and words of every [`GatewayError`].
//!
//! No other file chooses the status of an error. The match over [`GatewayError`] has no `_`, so that a new error does not compile
//! until it has its words here.

use std::{borrow::Cow, fmt::Write as _, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde::Serialize;

use super::{
    error::{GatewayError, RequiredToken, TooLargePart},
    response::LocalResponse,
};

/// Marks a response in which the gateway, not Salesforce, reports an error. The value is the stable code.
pub const ERROR_HEADER: HeaderName = HeaderName::from_static("x-shopper-gateway-error");

/// All codes. The gateway exports each with the count 0 from the start, so that the first error is an increase.
pub const CODES: [&str; 27] = [
    "request_ambiguous",
    "request_invalid",
    "credentials_conflicting",
    "token_missing",
    "token_invalid",
    "token_expired",
    "login_rejected",
    "caller_rejected",
    "token_wrong_organization",
    "token_wrong_site",
    "token_kind_wrong",
    "scope_missing",
    "caller_not_allowed",
    "operation_not_allowed",
    "operation_unknown",
    "shopper_unknown",
    "login_conflict",
    "request_too_large",
    "slas_rate_limited",
    "caller_rate_limited",
    "upstream_unavailable",
    "upstream_timeout",
    "keys_unavailable",
    "slas_unavailable",
    "account_manager_unavailable",
    "store_unavailable",
    "overloaded",
];

/// The base of the URIs of SCAPI's problem types.
const TYPE_BASE: &str = "https://api.commercecloud.salesforce.com/documentation/error/v1/errors/";
/// `Retry-After` if no service named a time.
const RETRY_SOON: Duration = Duration::from_secs(5);

/// The parts of a problem document.
struct ErrorTemplate {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    /// Last part of the problem type.
    kind: &'static str,
    detail: Cow<'static, str>,
}

#[derive(Serialize)]
struct Problem<'a> {
    title: &'a str,
    r#type: String,
    detail: &'a str,
}

/// Returns the response to a refresh token whose session was logged out here. It is the response that SLAS gives to an invalid
/// refresh token. Storefronts look for its `message`.
#[must_use]
pub fn refresh_token_revoked() -> LocalResponse {
    let code = code(&GatewayError::TokenInvalid(String::new()));
    let document = serde_json::json!({
        "error": "invalid_grant",
        "error_description": "The session was logged out.",
        "message": "invalid refresh_token",
    });
    let mut response = LocalResponse::json(StatusCode::BAD_REQUEST, Bytes::from(document.to_string()));
    response.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers.insert(ERROR_HEADER, HeaderValue::from_static(code));
    response.code = Some(code);
    response
}

/// Returns the response to a rejected request: a problem document (RFC 9457).
#[must_use]
pub fn response(error: &GatewayError) -> LocalResponse {
    let ErrorTemplate { status, code, title, kind, detail } = template_of(error);
    let problem = Problem { title, r#type: format!("{TYPE_BASE}{kind}"), detail: &detail };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(ERROR_HEADER, HeaderValue::from_static(code));
    if let Some(challenge) = challenge(error, status) {
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(retry_after(error))));
    }
    let body = Bytes::from(serde_json::to_vec(&problem).unwrap_or_default());
    LocalResponse { status, headers, body, code: Some(code), reason: error.reason() }
}

/// Returns the stable code of an error, as in metrics, logs and [`ERROR_HEADER`].
#[must_use]
pub fn code(error: &GatewayError) -> &'static str {
    template_of(error).code
}

fn template_of(error: &GatewayError) -> ErrorTemplate {
    let template =
        |status, code, title, kind, detail: Cow<'static, str>| ErrorTemplate { status, code, title, kind, detail };
    match error {
        GatewayError::Ambiguous(why) => {
            template(StatusCode::BAD_REQUEST, "request_ambiguous", "Bad Request", "bad-request", why.clone().into())
        }
        GatewayError::RequestInvalid(why) => {
            template(StatusCode::BAD_REQUEST, "request_invalid", "Bad Request", "bad-request", why.clone().into())
        }
        GatewayError::CredentialsConflicting => template(
            StatusCode::BAD_REQUEST,
            "credentials_conflicting",
            "Bad Request",
            "bad-request",
            "The request carries two credentials. Send exactly one Authorization header.".into(),
        ),
        GatewayError::TokenMissing => template(
            StatusCode::UNAUTHORIZED,
            "token_missing",
            "Unauthorized",
            "unauthorized",
            "The request carries no access token. Send Authorization: Bearer with a token of this organization.".into(),
        ),
        GatewayError::TokenInvalid(why) => template(
            StatusCode::UNAUTHORIZED,
            "token_invalid",
            "Invalid Access Token",
            "invalid-access-token",
            format!("The access token is invalid: {why}.").into(),
        ),
        GatewayError::TokenExpired => template(
            StatusCode::UNAUTHORIZED,
            "token_expired",
            "Invalid Access Token",
            "invalid-access-token",
            "The access token has expired. Refresh it or log in again.".into(),
        ),
        GatewayError::LoginRejected { login: Some(login) } => template(
            StatusCode::UNAUTHORIZED,
            "login_rejected",
            "Authentication Failed",
            "authentication-failed",
            format!("Customer authentication based on {login} failed.").into(),
        ),
        GatewayError::LoginRejected { login: None } => template(
            StatusCode::UNAUTHORIZED,
            "login_rejected",
            "Authentication Failed",
            "authentication-failed",
            "Customer authentication failed: send the shopper's login and password as Authorization: Basic.".into(),
        ),
        // Whether the client is configured at all is not the caller's to know.
        GatewayError::CallerRejected(_) => template(
            StatusCode::UNAUTHORIZED,
            "caller_rejected",
            "Unauthorized",
            "unauthorized",
            "The credentials are not those of a trusted system of this gateway.".into(),
        ),
        GatewayError::TokenWrongOrganization => template(
            StatusCode::FORBIDDEN,
            "token_wrong_organization",
            "Forbidden",
            "forbidden",
            "The access token was issued for another organization than the one in the path.".into(),
        ),
        GatewayError::TokenWrongSite => template(
            StatusCode::FORBIDDEN,
            "token_wrong_site",
            "Forbidden",
            "forbidden",
            "The access token was issued for another site than the siteId of the request.".into(),
        ),
        GatewayError::TokenKindWrong(needed) => template(
            StatusCode::FORBIDDEN,
            "token_kind_wrong",
            "Forbidden",
            "forbidden",
            needed_token(*needed).into(),
        ),
        GatewayError::ScopeMissing(scopes) => {
            let mut detail =
                "The access token lacks the scope of this operation. Any one of these would do: ".to_owned();
            // Writing to a String cannot fail.
            let _ = write!(detail, "{scopes}.");
            template(StatusCode::FORBIDDEN, "scope_missing", "Forbidden", "forbidden", detail.into())
        }
        GatewayError::CallerNotAllowed => template(
            StatusCode::FORBIDDEN,
            "caller_not_allowed",
            "Forbidden",
            "forbidden",
            "This caller may not do this.".into(),
        ),
        GatewayError::CallerMayNotCreateShoppers => template(
            StatusCode::FORBIDDEN,
            "caller_not_allowed",
            "Forbidden",
            "forbidden",
            "SLAS creates the shoppers that it is asked for with another identity provider than ecom. This caller may not \
             do that: its entry in [[callers]] has no create_shoppers in may."
                .into(),
        ),
        GatewayError::OperationNotAllowed => template(
            StatusCode::FORBIDDEN,
            "operation_not_allowed",
            "Forbidden",
            "forbidden",
            "This operation is not offered through the gateway.".into(),
        ),
        GatewayError::OperationUnknown => template(
            StatusCode::NOT_FOUND,
            "operation_unknown",
            "Not Found",
            "not-found",
            "No operation of an organization that this gateway serves has this method and path.".into(),
        ),
        GatewayError::ShopperUnknown => template(
            StatusCode::NOT_FOUND,
            "shopper_unknown",
            "Not Found",
            "not-found",
            "No shopper has the login named in X-On-Behalf-Of or in the body.".into(),
        ),
        GatewayError::LoginConflict => template(
            StatusCode::CONFLICT,
            "login_conflict",
            "Conflict",
            "conflict",
            "Another login of the same shopper is too recent. Try again in a moment.".into(),
        ),
        GatewayError::TooLarge(TooLargePart::Body) => template(
            StatusCode::PAYLOAD_TOO_LARGE,
            "request_too_large",
            "Payload Too Large",
            "payload-too-large",
            "The request's body is larger than this operation allows.".into(),
        ),
        GatewayError::TooLarge(TooLargePart::Target) => template(
            StatusCode::URI_TOO_LONG,
            "request_too_large",
            "URI Too Long",
            "uri-too-long",
            "The request's path and query are too long.".into(),
        ),
        GatewayError::TooLarge(TooLargePart::Head) => template(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "request_too_large",
            "Request Header Fields Too Large",
            "request-header-fields-too-large",
            "The request's header fields are too large or too many.".into(),
        ),
        GatewayError::SlasRateLimited { .. } => template(
            StatusCode::TOO_MANY_REQUESTS,
            "slas_rate_limited",
            "Too Many Requests",
            "too-many-requests",
            "The shopper login service takes no more requests at the moment.".into(),
        ),
        GatewayError::CallerRateLimited { .. } => template(
            StatusCode::TOO_MANY_REQUESTS,
            "caller_rate_limited",
            "Too Many Requests",
            "too-many-requests",
            "This caller asks too often. Wait for the time in Retry-After.".into(),
        ),
        GatewayError::UpstreamUnavailable => template(
            StatusCode::BAD_GATEWAY,
            "upstream_unavailable",
            "Bad Gateway",
            "bad-gateway",
            "The API could not be reached or broke off its answer.".into(),
        ),
        GatewayError::UpstreamTimeout => template(
            StatusCode::GATEWAY_TIMEOUT,
            "upstream_timeout",
            "Gateway Timeout",
            "gateway-timeout",
            "The API did not answer in time.".into(),
        ),
        GatewayError::KeysUnavailable => template(
            StatusCode::SERVICE_UNAVAILABLE,
            "keys_unavailable",
            "Service Unavailable",
            "service-unavailable",
            "Access tokens cannot be verified at the moment. Try again in a moment.".into(),
        ),
        GatewayError::SlasUnavailable => template(
            StatusCode::SERVICE_UNAVAILABLE,
            "slas_unavailable",
            "Service Unavailable",
            "service-unavailable",
            "The shopper login service does not answer as it should. Try again in a moment.".into(),
        ),
        GatewayError::SlasClientRefused => template(
            StatusCode::SERVICE_UNAVAILABLE,
            "slas_unavailable",
            "Service Unavailable",
            "service-unavailable",
            "The shopper login service refuses this gateway's own client. The gateway's operator has to correct its \
             configuration."
                .into(),
        ),
        GatewayError::AccountManagerUnavailable { .. } => template(
            StatusCode::SERVICE_UNAVAILABLE,
            "account_manager_unavailable",
            "Service Unavailable",
            "service-unavailable",
            "Account Manager does not answer as it should. Try again in a moment.".into(),
        ),
        GatewayError::StoreUnavailable => template(
            StatusCode::SERVICE_UNAVAILABLE,
            "store_unavailable",
            "Service Unavailable",
            "service-unavailable",
            "Sessions cannot be read or written at the moment. Try again in a moment.".into(),
        ),
        GatewayError::Overloaded => template(
            StatusCode::SERVICE_UNAVAILABLE,
            "overloaded",
            "Service Unavailable",
            "service-unavailable",
            "More is asked than can be served at the moment. Try again in a moment.".into(),
        ),
    }
}

fn needed_token(needed: RequiredToken) -> &'static str {
    match needed {
        RequiredToken::Shopper => "This operation needs a shopper's access token.",
        RequiredToken::OnBehalf => {
            "This operation needs a shopper's token obtained by a trusted system on behalf (TSOB)."
        }
        RequiredToken::AgentOnBehalf => {
            "This operation needs a shopper's token obtained by a trusted agent on behalf (TAOB)."
        }
        RequiredToken::System => "This operation needs the credentials of a trusted system.",
    }
}

/// `WWW-Authenticate` (RFC 6750, 3): no error attribute when nothing was sent; 403 names the scopes.
fn challenge(error: &GatewayError, status: StatusCode) -> Option<HeaderValue> {
    let text: Cow<'static, str> = match error {
        GatewayError::TokenInvalid(_) => r#"Bearer realm="shopper-gateway", error="invalid_token""#.into(),
        GatewayError::TokenExpired => {
            r#"Bearer realm="shopper-gateway", error="invalid_token", error_description="the access token expired""#
                .into()
        }
        GatewayError::ScopeMissing(scopes) => {
            format!(r#"Bearer realm="shopper-gateway", error="insufficient_scope", scope="{scopes}""#).into()
        }
        GatewayError::CallerRejected(_) => r#"Bearer realm="shopper-gateway", Basic realm="shopper-gateway""#.into(),
        _ if status == StatusCode::UNAUTHORIZED => r#"Bearer realm="shopper-gateway""#.into(),
        _ => return None,
    };
    HeaderValue::from_str(&text).ok()
}

/// Seconds, rounded up: who comes back too early has come for nothing.
fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

fn retry_after(error: &GatewayError) -> Duration {
    match error {
        GatewayError::SlasRateLimited { retry_after: Some(wait) }
        | GatewayError::AccountManagerUnavailable { retry_after: Some(wait) }
        | GatewayError::CallerRateLimited { retry_after: wait } => *wait,
        _ => RETRY_SOON,
    }
}

//! The problem documents (RFC 9457, in SCAPI's form): the status, code and text of each [`GatewayError`].
//!
//! No other file chooses the status of an error. The match over [`GatewayError`] has no `_`, so a new error does not compile
//! without a status, a code and a text.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde::Serialize;

use super::{
    error::{GatewayError, RequiredToken, TooLargePart},
    response::LocalResponse,
};

/// The field of a response in which the gateway, not Salesforce, reports an error. Its value is the stable code.
pub const ERROR_HEADER: HeaderName = HeaderName::from_static("x-shopper-gateway-error");

/// All codes. The gateway exports each with the count 0 from the start, so that the first error is an increase.
pub const CODES: [&str; 29] = [
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
    "origin_not_allowed",
    "operation_unknown",
    "method_not_allowed",
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

/// What depends on the error in its response.
struct ErrorTemplate {
    status: StatusCode,
    code: &'static str,
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

/// Returns the body that PWA Kit's runtime gives to an error of a session in cookies. Its pages look for these very texts. `None`
/// for all other errors.
fn pwa_kit_body(error: &GatewayError, detail: &str) -> Option<String> {
    let document = match error {
        GatewayError::AccessCookieMissing | GatewayError::RefreshCookieInvalid => {
            serde_json::json!({ "message": detail })
        }
        GatewayError::SiteHeaderMissing | GatewayError::CookieTooLarge(_) => {
            serde_json::json!({ "error": "Internal server error", "message": detail })
        }
        _ => return None,
    };
    Some(document.to_string())
}

/// Returns the response to a rejected request: a problem document (RFC 9457), or the JSON that PWA Kit's pages expect.
#[must_use]
pub fn response(error: &GatewayError) -> LocalResponse {
    let ErrorTemplate { status, code, detail } = template_of(error);
    if let Some(body) = pwa_kit_body(error, &detail) {
        let mut response = LocalResponse::json(status, Bytes::from(body));
        response.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response.headers.insert(ERROR_HEADER, HeaderValue::from_static(code));
        if let Some(challenge) = challenge(error, status) {
            response.headers.insert(WWW_AUTHENTICATE, challenge);
        }
        return LocalResponse { code: Some(code), ..response };
    }
    let title = title_of(error, status);
    let problem = Problem {
        title,
        r#type: format!("{TYPE_BASE}{}", title.to_ascii_lowercase().replace(' ', "-")),
        detail: &detail,
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(ERROR_HEADER, HeaderValue::from_static(code));
    if let Some(challenge) = challenge(error, status) {
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    if let GatewayError::MethodNotAllowed(methods) = error {
        headers.insert(ALLOW, methods.allow());
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

/// Returns the title, as SCAPI writes it. The last part of the problem's type is the title in lower case with hyphens.
fn title_of(error: &GatewayError, status: StatusCode) -> &'static str {
    match error {
        GatewayError::TokenInvalid(_) | GatewayError::TokenExpired => "Invalid Access Token",
        GatewayError::LoginRejected { .. } => "Authentication Failed",
        _ => status.canonical_reason().unwrap_or_default(),
    }
}

fn template_of(error: &GatewayError) -> ErrorTemplate {
    let template = |status, code, detail: &'static str| ErrorTemplate { status, code, detail: Cow::Borrowed(detail) };
    let template_with = |status, code, detail: String| ErrorTemplate { status, code, detail: Cow::Owned(detail) };
    match error {
        GatewayError::Ambiguous(detail) => template_with(StatusCode::BAD_REQUEST, "request_ambiguous", detail.clone()),
        GatewayError::RequestInvalid(detail) => {
            template_with(StatusCode::BAD_REQUEST, "request_invalid", detail.clone())
        }
        GatewayError::CredentialsConflicting => template(
            StatusCode::BAD_REQUEST,
            "credentials_conflicting",
            "The request has two credentials. Send exactly one Authorization header.",
        ),
        GatewayError::TokenMissing => template(
            StatusCode::UNAUTHORIZED,
            "token_missing",
            "The request has no access token. Send Authorization: Bearer with a token of this organization.",
        ),
        GatewayError::TokenInvalid(reason) => {
            template_with(StatusCode::UNAUTHORIZED, "token_invalid", format!("The access token is invalid: {reason}."))
        }
        GatewayError::TokenExpired => template(
            StatusCode::UNAUTHORIZED,
            "token_expired",
            "The access token has expired. Refresh it or log in again.",
        ),
        GatewayError::LoginRejected { login: Some(login) } => template_with(
            StatusCode::UNAUTHORIZED,
            "login_rejected",
            format!("Customer authentication based on {login} failed."),
        ),
        GatewayError::LoginRejected { login: None } => template(
            StatusCode::UNAUTHORIZED,
            "login_rejected",
            "Customer authentication failed: send the shopper's login and password as Authorization: Basic.",
        ),
        // The client must not learn whether it is configured.
        GatewayError::CallerRejected(_) => template(
            StatusCode::UNAUTHORIZED,
            "caller_rejected",
            "The credentials are not those of a trusted system of this gateway.",
        ),
        GatewayError::TokenWrongOrganization => template(
            StatusCode::FORBIDDEN,
            "token_wrong_organization",
            "The access token was issued for another organization than the one in the path.",
        ),
        GatewayError::TokenWrongSite => template(
            StatusCode::FORBIDDEN,
            "token_wrong_site",
            "The access token was issued for another site than the siteId of the request.",
        ),
        GatewayError::TokenKindWrong(required) => template(
            StatusCode::FORBIDDEN,
            "token_kind_wrong",
            match required {
                RequiredToken::Shopper => "This operation needs a shopper's access token.",
                RequiredToken::OnBehalf => {
                    "This operation needs a shopper's token obtained by a trusted system on behalf (TSOB)."
                }
                RequiredToken::AgentOnBehalf => {
                    "This operation needs a shopper's token obtained by a trusted agent on behalf (TAOB)."
                }
                RequiredToken::System => "This operation needs the credentials of a trusted system.",
            },
        ),
        GatewayError::ScopeMissing(scopes) => template_with(
            StatusCode::FORBIDDEN,
            "scope_missing",
            format!("The access token lacks the scope of this operation. One of these is sufficient: {scopes}."),
        ),
        GatewayError::CallerNotAllowed => template(
            StatusCode::FORBIDDEN,
            "caller_not_allowed",
            "This caller is not allowed to call this operation. See [[callers]].",
        ),
        GatewayError::CallerMayNotCreateShoppers => template(
            StatusCode::FORBIDDEN,
            "caller_not_allowed",
            "SLAS creates unknown shoppers of every identity provider except ecom. This caller is not allowed to create \
             shoppers: its entry in [[callers]] has no create_shoppers in may.",
        ),
        GatewayError::OriginNotAllowed => template(
            StatusCode::FORBIDDEN,
            "origin_not_allowed",
            "Pages of this origin are not allowed to call this organization and site. See [[tenants.origins]].",
        ),
        GatewayError::OriginsNotConfigured => template(
            StatusCode::NOT_FOUND,
            "operation_unknown",
            "This organization allows no pages of other origins. See [[tenants.origins]].",
        ),
        GatewayError::MethodNotAllowed(_) => template(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "No operation of this path has this method. The header Allow lists the methods.",
        ),
        GatewayError::SiteHeaderMissing => template(
            StatusCode::INTERNAL_SERVER_ERROR,
            "request_invalid",
            "HttpOnly session cookies are enabled but siteId is missing. Ensure the x-site-id header is set on the request.",
        ),
        GatewayError::CookieTooLarge(name) => template_with(
            StatusCode::INTERNAL_SERVER_ERROR,
            "request_invalid",
            format!(
                "The cookie {name} has more than 4096 bytes, and browsers would drop it. Set cookies = \"reference\" in [[tenants.storefronts]]."
            ),
        ),
        GatewayError::AccessCookieMissing => {
            template(StatusCode::BAD_REQUEST, "token_missing", "access_token_cookie_missing")
        }
        GatewayError::RefreshCookieInvalid => {
            template(StatusCode::UNAUTHORIZED, "token_invalid", "invalid refresh_token")
        }
        GatewayError::OperationNotAllowed => {
            template(StatusCode::FORBIDDEN, "operation_not_allowed", "The gateway does not offer this operation.")
        }
        GatewayError::OperationUnknown => template(
            StatusCode::NOT_FOUND,
            "operation_unknown",
            "The gateway knows no operation with this method and path, or does not serve this organization.",
        ),
        GatewayError::ShopperUnknown => template(
            StatusCode::NOT_FOUND,
            "shopper_unknown",
            "No shopper has the login in X-On-Behalf-Of or in the body.",
        ),
        GatewayError::LoginConflict => template(
            StatusCode::CONFLICT,
            "login_conflict",
            "SLAS issued a token for the same shopper a moment ago. Retry in a few seconds.",
        ),
        GatewayError::TooLarge(part) => {
            let (status, detail) = match part {
                TooLargePart::Body => {
                    (StatusCode::PAYLOAD_TOO_LARGE, "The request's body is larger than this operation allows.")
                }
                TooLargePart::Target => (StatusCode::URI_TOO_LONG, "The request's path and query are too long."),
                TooLargePart::Head => (
                    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                    "The request's header fields are too large or too many.",
                ),
            };
            template(status, "request_too_large", detail)
        }
        GatewayError::SlasRateLimited { .. } => template(
            StatusCode::TOO_MANY_REQUESTS,
            "slas_rate_limited",
            "The rate limit of SLAS is exhausted. Retry after the time in Retry-After.",
        ),
        GatewayError::CallerRateLimited { .. } => template(
            StatusCode::TOO_MANY_REQUESTS,
            "caller_rate_limited",
            "The client has sent too many requests or failed logins. Retry after the time in Retry-After.",
        ),
        GatewayError::UpstreamUnavailable => template(
            StatusCode::BAD_GATEWAY,
            "upstream_unavailable",
            "The API is unreachable, or aborted its response.",
        ),
        GatewayError::UpstreamTimeout => {
            template(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", "The API did not respond in time.")
        }
        GatewayError::KeysUnavailable => template(
            StatusCode::SERVICE_UNAVAILABLE,
            "keys_unavailable",
            "The keys that verify access tokens are unavailable. Retry after the time in Retry-After.",
        ),
        GatewayError::SlasUnavailable => template(
            StatusCode::SERVICE_UNAVAILABLE,
            "slas_unavailable",
            "SLAS is unavailable. Retry after the time in Retry-After.",
        ),
        GatewayError::SlasClientRejected => template(
            StatusCode::SERVICE_UNAVAILABLE,
            "slas_unavailable",
            "SLAS rejected the gateway's own client. The gateway's operator must correct the configuration.",
        ),
        GatewayError::AccountManagerUnavailable { .. } => template(
            StatusCode::SERVICE_UNAVAILABLE,
            "account_manager_unavailable",
            "Account Manager is unavailable. Retry after the time in Retry-After.",
        ),
        GatewayError::StoreUnavailable => template(
            StatusCode::SERVICE_UNAVAILABLE,
            "store_unavailable",
            "The session store is unavailable. Retry after the time in Retry-After.",
        ),
        GatewayError::Overloaded => template(
            StatusCode::SERVICE_UNAVAILABLE,
            "overloaded",
            "The gateway is overloaded. Retry after the time in Retry-After.",
        ),
    }
}

/// Returns `WWW-Authenticate` (RFC 6750, 3). Without a credential it has no error attribute. With 403 it names the scopes.
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

/// Rounds up, so that a client that waits this long does not retry too early.
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

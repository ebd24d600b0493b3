//! The responses of deprecated logins: the Customer document as the body, the token in `Authorization`.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{ACCEPT_LANGUAGE, AUTHORIZATION, CACHE_CONTROL, LINK},
};
use secrecy::SecretString;
use serde::Serialize;

use crate::{
    gateway::{error::GatewayError, response::LocalResponse},
    jwt::bearer,
    types::CustomerId,
    verify::shopper::Shopper,
};

/// The date of deprecation (RFC 9745): 1 July 2022, the date of the API description.
const DEPRECATION: HeaderValue = HeaderValue::from_static("@1656633600");
/// The date of removal (RFC 8594): mid-2023, as Salesforce announced.
const SUNSET: HeaderValue = HeaderValue::from_static("Sat, 01 Jul 2023 00:00:00 GMT");
/// The guide for clients that migrate.
const GUIDE: HeaderValue = HeaderValue::from_static(
    "<https://developer.salesforce.com/docs/commerce/commerce-api/guide/slas.html>; rel=\"deprecation\"; type=\"text/html\"",
);
/// The locale of a guest whose browser names none: B2C Commerce's fallback locale.
const DEFAULT_LOCALE: &str = "default";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GuestDocument<'a> {
    auth_type: &'static str,
    customer_id: &'a str,
    preferred_locale: &'a str,
}

/// Marks a response as that of a deprecated endpoint. Errors are marked too.
#[must_use]
pub fn mark_deprecated(mut response: LocalResponse) -> LocalResponse {
    response.headers.insert(HeaderName::from_static("deprecation"), DEPRECATION);
    response.headers.insert(HeaderName::from_static("sunset"), SUNSET);
    response.headers.append(LINK, GUIDE);
    response
}

/// Returns the response to a login: the Customer document, with the token in the header.
pub(super) fn with_token(document: Bytes, access_token: &SecretString) -> LocalResponse {
    let mut response = LocalResponse::json(StatusCode::OK, document);
    response.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // A verified token is base64url and dots, so it is always a valid header value.
    if let Some(value) = bearer(access_token) {
        response.headers.insert(AUTHORIZATION, value);
    }
    response
}

/// Returns the Customer document of a guest.
pub(super) fn guest_document(shopper: &Shopper, headers: &HeaderMap) -> Result<Bytes, GatewayError> {
    let document = GuestDocument {
        auth_type: "guest",
        customer_id: customer_of(shopper)?.as_str(),
        preferred_locale: &preferred_locale(headers),
    };
    serde_json::to_vec(&document).map(Bytes::from).map_err(|_| GatewayError::SlasUnavailable)
}

/// Returns the customer id of a shopper.
pub(super) fn customer_of(shopper: &Shopper) -> Result<&CustomerId, GatewayError> {
    shopper.customer.as_ref().ok_or_else(|| {
        tracing::error!(organization = %shopper.organization, "SLAS issued a token without a customer id");
        GatewayError::SlasUnavailable
    })
}

/// Returns the first language of `Accept-Language` in B2C Commerce's spelling: `en-US` is `en_US`.
fn preferred_locale(headers: &HeaderMap) -> String {
    let first = headers
        .get(ACCEPT_LANGUAGE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split([',', ';']).next())
        .map(str::trim)
        .unwrap_or_default();
    let (language, country) = first.split_once('-').unwrap_or((first, ""));
    let letters = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_alphabetic());
    match (letters(language), letters(country)) {
        (true, true) => format!("{}_{}", language.to_ascii_lowercase(), country.to_ascii_uppercase()),
        (true, false) => language.to_ascii_lowercase(),
        (false, _) => DEFAULT_LOCALE.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locale(value: &'static str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_LANGUAGE, HeaderValue::from_static(value));
        preferred_locale(&headers)
    }

    #[test]
    fn guest_locale_is_the_first_language_of_the_browser() {
        assert_eq!(locale("en-US,en;q=0.9"), "en_US");
        assert_eq!(locale("de;q=1"), "de");
        assert_eq!(locale("*"), "default");
        assert_eq!(locale("zh-Hant-TW"), "zh");
        assert_eq!(preferred_locale(&HeaderMap::new()), "default");
    }
}

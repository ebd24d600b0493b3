//! The translation of a request with cookies into a request with tokens.

use bytes::Bytes;
use http::{
    HeaderName, Method, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, EXPECT, RANGE, TRANSFER_ENCODING},
    request::Parts,
};
use secrecy::{ExposeSecret, SecretString};
use url::form_urlencoded;

use super::{
    access::{SessionRequest, sensitive},
    entry::Purpose,
    fields::{PAGE_FIELDS, received_page_fields},
};
use crate::{
    gateway::{
        cookies::{self, CookieEdit, CookieValue, RequestCookies, SERVER_COOKIE},
        error::GatewayError,
        form::{self, REFRESH_TOKEN},
        headers::HeaderEdits,
        request::Route,
    },
    jwt::bearer,
    salesforce::slas::REFRESH_TOKEN_FIELD,
};

/// The field that names the session's server at Salesforce.
const SERVER_FIELD: HeaderName = HeaderName::from_static("sfdc_dwsid");

/// A request with tokens in place of cookies.
#[derive(Debug)]
pub(in crate::gateway) struct Translated {
    /// The head with the edits.
    pub(in crate::gateway) head: Parts,
    /// The edits of the header fields.
    pub(in crate::gateway) edits: HeaderEdits,
    /// The path and query to send upstream, if they differ from the route's.
    pub(in crate::gateway) target: Option<String>,
}

impl SessionRequest<'_> {
    /// Translates the head of a request. `access` replaces `Authorization`. `refresh` is the refresh token of the cookie.
    pub(in crate::gateway) fn translate(
        &self,
        route: &Route,
        head: &Parts,
        access: Option<&SecretString>,
        refresh: Option<&SecretString>,
    ) -> Translated {
        let mut edits = HeaderEdits { remove: received_page_fields(&head.headers).collect(), set: Vec::new() };
        match cookies::without_session_cookies(&head.headers, true) {
            CookieEdit::Keep => {}
            CookieEdit::Remove => edits.remove.push(COOKIE),
            CookieEdit::Set(rest) => edits.set.push((COOKIE, rest)),
        }
        if let Some(authorization) = access.and_then(bearer) {
            edits.set.push((AUTHORIZATION, authorization));
        }
        if self.purpose == Purpose::Call
            && let CookieValue::One(dwsid) = RequestCookies::read(&head.headers).get(SERVER_COOKIE)
            && let Some(dwsid) = sensitive(dwsid)
        {
            edits.set.push((SERVER_FIELD, dwsid));
        }
        if let Some(refresh) = refresh.filter(|_| self.purpose == Purpose::Token)
            && let Some(refresh) = sensitive(refresh.expose_secret())
        {
            edits.set.push((REFRESH_TOKEN_FIELD, refresh));
        }
        let mut translated = head.clone();
        apply(&edits, &mut translated);
        let mut target = None;
        if let Some(refresh) = refresh.filter(|_| self.purpose == Purpose::Logout) {
            let query = with_refresh_token(head.uri.query().unwrap_or_default(), refresh);
            let own = route.upstream_target.as_deref().unwrap_or(head.uri.path());
            let path = own.split('?').next().unwrap_or_default();
            if let Ok(uri) = format!("{}?{query}", head.uri.path()).parse::<Uri>() {
                translated.uri = uri;
            }
            target = Some(format!("{path}?{query}"));
        }
        Translated { head: translated, edits, target }
    }

    /// Returns the form of a token request with `valid` in place of its own refresh token.
    pub(super) fn form_with(form: &Bytes, valid: &SecretString) -> Bytes {
        match std::str::from_utf8(form) {
            Ok(text) => form::replace_value(text, REFRESH_TOKEN, valid.expose_secret()).into(),
            Err(_) => form.clone(),
        }
    }

    /// Returns the gateway's own token request for a session whose access cookie is missing or has expired: head and form.
    ///
    /// # Errors
    /// [`GatewayError::OperationUnknown`] if the path is no valid target.
    pub(in crate::gateway) fn refresh_request(
        &self,
        head: &Parts,
        path: &str,
        refresh: &SecretString,
        do_not_track: Option<&str>,
    ) -> Result<(Parts, Bytes), GatewayError> {
        let site = self.storefront.site.as_str();
        let client = self.storefront.client.as_str();
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", REFRESH_TOKEN)
            .append_pair(REFRESH_TOKEN, refresh.expose_secret())
            .append_pair("client_id", client)
            .append_pair("channel_id", site);
        if let Some(do_not_track) = do_not_track {
            form.append_pair("dnt", do_not_track);
        }
        let mut request = head.clone();
        request.method = Method::POST;
        request.uri = path.parse().map_err(|_| GatewayError::OperationUnknown)?;
        // The other fields tell who the client is.
        let of_the_call: Vec<HeaderName> =
            request.headers.keys().filter(|name| belongs_to_call(name)).cloned().collect();
        for name in of_the_call {
            request.headers.remove(name);
        }
        request.headers.insert(CONTENT_TYPE, http::HeaderValue::from_static("application/x-www-form-urlencoded"));
        Ok((request, form.finish().into()))
    }
}

/// Whether a field belongs to a page's call, and not to the gateway's own token request for it.
fn belongs_to_call(name: &HeaderName) -> bool {
    let text = name.as_str();
    [COOKIE, AUTHORIZATION, TRANSFER_ENCODING, EXPECT, RANGE].contains(name)
        || PAGE_FIELDS.contains(name)
        || ["content-", "if-", "sfdc_", "_sfdc_"].iter().any(|prefix| text.starts_with(prefix))
}

/// Applies the edits to a head.
fn apply(edits: &HeaderEdits, head: &mut Parts) {
    for name in &edits.remove {
        head.headers.remove(name);
    }
    for (name, value) in &edits.set {
        head.headers.insert(name, value.clone());
    }
}

/// A query with this refresh token in place of its own.
fn with_refresh_token(query: &str, refresh: &SecretString) -> String {
    let has_name = |pair: &str| form_urlencoded::parse(pair.as_bytes()).any(|(name, _)| name == REFRESH_TOKEN);
    let encoded =
        form_urlencoded::Serializer::new(String::new()).append_pair(REFRESH_TOKEN, refresh.expose_secret()).finish();
    let others = query.split('&').filter(|pair| !pair.is_empty() && !has_name(pair));
    others.chain([encoded.as_str()]).collect::<Vec<_>>().join("&")
}

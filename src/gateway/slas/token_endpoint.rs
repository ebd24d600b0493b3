//! Token requests whose response the gateway reads before the client does.
//!
//! The gateway sends such a request itself, because the session must be stored before the client has the token. Request and
//! response stay those of the client and SLAS. The gateway changes only a refresh token that it has renewed meanwhile.

use std::sync::Arc;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING},
    request::Parts,
};
use secrecy::{ExposeSecret, SecretString};

use super::{client_auth, response::response_edits};
use crate::{
    gateway::{
        authorization_header::Authorization,
        credential::UpstreamCredential,
        error::GatewayError,
        form::{self, Form},
        headers,
        policy::Operation,
        problem,
        request::RoutedRequest,
        response::LocalResponse,
    },
    salesforce::{
        error::SalesforceError,
        json,
        slas::{REFRESH_TOKEN_FIELD, Slas, TokenResponse},
        transport::Response,
    },
    tokens::sessions::{
        CallerHeldSession, CallerRefresh, PresentedRefreshToken, RefreshTokenEpoch, SessionError, Sessions, TokenOrigin,
    },
    types::{ClientId, OrganizationId, SiteId},
    verify::shopper_token::ShopperVerifier,
};

/// A token request.
pub(super) struct TokenRequest<'r> {
    pub(super) routed: RoutedRequest<'r>,
    pub(super) operation: &'r Operation,
    pub(super) form: Bytes,
    pub(super) credential: &'r UpstreamCredential,
}

/// A token request as the gateway sends it to SLAS.
#[derive(Clone)]
struct SlasRequest {
    slas: Slas,
    rest: String,
    headers: HeaderMap,
    form: Bytes,
}

/// The party that answers a token request.
enum RefreshTarget {
    /// SLAS, with the request as received.
    Slas,
    /// The session that the gateway has for the refresh token.
    Session(CallerHeldSession),
    /// The gateway, with an error: the session has ended.
    Ended,
}

/// Performs token requests.
#[derive(Debug)]
pub(super) struct TokenEndpoint {
    sessions: Arc<Sessions>,
    shoppers: Arc<ShopperVerifier>,
}

/// Whether a token request is a refresh.
fn is_refresh(operation: &Operation, form: &Form<'_>) -> Result<bool, GatewayError> {
    Ok(operation.id == "getAccessToken" && form.single("grant_type")?.as_deref() == Some(form::REFRESH_TOKEN))
}

/// Returns the refresh token of a request, in the form or in the header field.
fn presented(head: &Parts, form: &Form<'_>) -> Result<Option<SecretString>, GatewayError> {
    let in_form = form.single(form::REFRESH_TOKEN)?;
    let mut fields = head.headers.get_all(REFRESH_TOKEN_FIELD).iter();
    let in_header = match (fields.next().map(HeaderValue::to_str), fields.next()) {
        (None, _) => None,
        (Some(Ok(value)), None) => Some(value),
        _ => return Err(GatewayError::Ambiguous("the header names more than one refresh token".into())),
    };
    match (in_form.as_deref(), in_header) {
        (Some(form), Some(header)) if form != header => {
            Err(GatewayError::Ambiguous("the form and the header name different refresh tokens".into()))
        }
        (form, header) => Ok(form.or(header).map(SecretString::from)),
    }
}

impl TokenEndpoint {
    pub(super) fn new(sessions: Arc<Sessions>, shoppers: Arc<ShopperVerifier>) -> Self {
        Self { sessions, shoppers }
    }

    /// Sends a token request to SLAS, stores the session and returns SLAS's response.
    ///
    /// # Errors
    /// [`GatewayError::Ambiguous`] for a request with two readings; [`GatewayError::StoreUnavailable`];
    /// [`GatewayError::UpstreamUnavailable`] and [`GatewayError::UpstreamTimeout`] if SLAS does not answer.
    pub(super) async fn perform(&self, token_request: &TokenRequest<'_>) -> Result<LocalResponse, GatewayError> {
        let form = Form::parse(&token_request.form)?;
        let site = form.single("channel_id")?.and_then(|site| site.parse::<SiteId>().ok());
        let request = token_request.slas_request();
        let is_refresh = is_refresh(token_request.operation, &form)?;
        let refresh_token = if is_refresh { presented(token_request.routed.request.head, &form)? } else { None };
        let refreshed = match self.refresh_target(token_request, refresh_token.as_ref(), site.as_ref()).await? {
            RefreshTarget::Session(session) => {
                let proof =
                    request.headers.get(AUTHORIZATION).map(|value| value.as_bytes().to_vec()).unwrap_or_default();
                let key = [request.rest.as_bytes(), b"\0", &request.form].concat();
                let request = request.clone();
                let exchange = move |valid| async move { request.with(&valid).send().await };
                self.sessions.refresh_caller_held(session, &proof, &key, exchange).await
            }
            RefreshTarget::Ended => Ok(CallerRefresh::Revoked),
            RefreshTarget::Slas => Ok(CallerRefresh::Gone),
        };
        match refreshed {
            Ok(CallerRefresh::Response(response)) => return Ok(token_request.response(&response)),
            Ok(CallerRefresh::Revoked) => return Ok(problem::refresh_token_revoked()),
            // There is no session. SLAS decides about the request.
            Ok(CallerRefresh::Gone) => {}
            Err(SessionError::Slas(error)) => return Err(GatewayError::from_api(&error)),
            Err(_) => return Err(GatewayError::StoreUnavailable),
        }
        let origin = match (&refresh_token, is_refresh) {
            (Some(token), _) => TokenOrigin::Refresh(self.sessions.refresh_token_epoch(token).await),
            (None, true) => TokenOrigin::Refresh(RefreshTokenEpoch::Unknown),
            (None, false) => TokenOrigin::Login,
        };
        let response = request.send().await.map_err(|error| GatewayError::from_api(&error))?;
        if self.register_session(token_request.routed, site, &response, origin).await {
            Ok(token_request.response(&response))
        } else {
            Ok(problem::refresh_token_revoked())
        }
    }

    /// Returns `dnt` of the session of a refresh token.
    ///
    /// # Errors
    /// [`GatewayError::StoreUnavailable`].
    pub(super) async fn do_not_track(
        &self,
        organization: &OrganizationId,
        client: &ClientId,
        site: &SiteId,
        refresh_token: &SecretString,
    ) -> Result<Option<&'static str>, GatewayError> {
        let found = self.sessions.find_caller_held(organization, client, Some(site), refresh_token).await;
        Ok(match found.map_err(|_| GatewayError::StoreUnavailable)? {
            PresentedRefreshToken::Session(session) => session.do_not_track(),
            PresentedRefreshToken::Revoked | PresentedRefreshToken::Unknown => None,
        })
    }

    /// Whether the gateway must read the response of a request that begins no session. After a logout, the tokens of a later login
    /// must be distinguishable from those of the ended session.
    pub(super) fn must_record_epoch(&self, operation: &Operation, form: &[u8]) -> bool {
        let Ok(fields) = Form::parse(form) else { return false };
        // This replica may not know of the logout yet.
        let names_a_session =
            is_refresh(operation, &fields) == Ok(true) || matches!(fields.single("usid"), Ok(Some(_)));
        names_a_session || self.sessions.knows_of_logouts()
    }

    /// Finds the session of the refresh token, for the same client and site.
    async fn refresh_target(
        &self,
        token_request: &TokenRequest<'_>,
        refresh_token: Option<&SecretString>,
        site: Option<&SiteId>,
    ) -> Result<RefreshTarget, GatewayError> {
        let RoutedRequest { tenant, request, registers_session, .. } = token_request.routed;
        let Some(refresh_token) = refresh_token.filter(|_| registers_session) else {
            return Ok(RefreshTarget::Slas);
        };
        let client = match Authorization::parse(&request.head.headers) {
            Ok(Authorization::Basic(basic)) => Some(basic.user),
            _ => client_auth::named_client(request.head, Some(&token_request.form))?,
        };
        let client = client.and_then(|client| client.parse().ok());
        let (Some(client), Some(site)) = (client, site) else { return Ok(RefreshTarget::Slas) };
        let organization = &tenant.settings.organization;
        let found = self.sessions.find_caller_held(organization, &client, Some(site), refresh_token).await;
        match found.map_err(|_| GatewayError::StoreUnavailable)? {
            PresentedRefreshToken::Session(session) => Ok(RefreshTarget::Session(session)),
            PresentedRefreshToken::Revoked => Ok(RefreshTarget::Ended),
            PresentedRefreshToken::Unknown => Ok(RefreshTarget::Slas),
        }
    }

    /// Begins the session of a token response for a configured client, if the request registers one, and records that the login
    /// came after a logout. Returns `false` if the response is a refresh of a session that was logged out. In any other case the
    /// client gets SLAS's response, whatever is wrong with it.
    async fn register_session(
        &self,
        RoutedRequest { tenant, registers_session, .. }: RoutedRequest<'_>,
        site: Option<SiteId>,
        response: &Response,
        origin: TokenOrigin,
    ) -> bool {
        let organization = &tenant.settings.organization;
        if response.status != StatusCode::OK {
            return true;
        }
        let Ok(tokens) = json::read::<TokenResponse>(&response.body) else { return true };
        let verified = match self.shoppers.verify_issued(tokens.access_token.expose_secret(), organization).await {
            Ok(verified) => verified,
            Err(error) => {
                tracing::warn!(%error, %organization, "login at SLAS begins no session: its token does not verify");
                return true;
            }
        };
        let noted = self.sessions.note_epoch(&verified, tokens.refresh_token.as_ref(), origin).await;
        let after = match noted {
            Ok(Some(after)) => Some(after),
            Ok(None) => return false,
            Err(error) => {
                tracing::warn!(%error, "failed to record that a login came after a logout");
                None
            }
        };
        let shopper = &verified.shopper;
        let is_ours = tenant.settings.slas_clients.iter().any(|client| client.id == shopper.client);
        let site = shopper.site.clone().or(site).filter(|_| is_ours && registers_session);
        if let Some(site) = site {
            self.sessions.begin_caller_held(&site, &verified, &tokens, after).await;
        }
        true
    }
}

impl TokenRequest<'_> {
    /// Returns the request as the proxy would send it, with the credential of the SLAS client.
    fn slas_request(&self) -> SlasRequest {
        let RoutedRequest { tenant, request, .. } = self.routed;
        let mut headers = request.head.headers.clone();
        let correlation_id = HeaderValue::from_str(request.correlation_id).unwrap_or(HeaderValue::from_static("none"));
        let edits = headers::request_edits(&headers, &HeaderValue::from_static(""), &correlation_id);
        for name in edits.remove.into_iter().chain(headers::hop_by_hop_headers(&headers)) {
            headers.remove(name);
        }
        for (name, value) in edits.set {
            headers.insert(name, value);
        }
        // The HTTP client writes its own. The gateway must be able to read the response.
        for name in [HOST, CONTENT_LENGTH, EXPECT] {
            headers.remove(name);
        }
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some((field, value)) = self.credential.slas_client_field() {
            headers.insert(field, value.clone());
        }
        let below = self.operation.template.split_once("/oauth2").map_or("", |(_, below)| below);
        let rest = match request.head.uri.query() {
            Some(query) => format!("{below}?{query}"),
            None => below.to_owned(),
        };
        SlasRequest { slas: tenant.slas.clone(), rest, headers, form: self.form.clone() }
    }

    /// Returns SLAS's response for the client.
    fn response(&self, response: &Response) -> LocalResponse {
        let mut headers = response.headers.clone();
        let edits = headers::response_edits(&headers, &HeaderValue::from_static(""));
        for name in edits.remove.into_iter().chain([CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING]) {
            headers.remove(name);
        }
        let edits = response_edits(self.operation, response.status, &headers).unwrap_or_default();
        for (name, value) in edits.header.set {
            headers.insert(name, value);
        }
        LocalResponse { status: response.status, headers, body: response.body.clone(), code: None, reason: None }
    }
}

impl SlasRequest {
    /// Replaces the client's refresh token by the valid one.
    fn with(mut self, valid: &SecretString) -> Self {
        let valid = valid.expose_secret();
        if let Ok(text) = std::str::from_utf8(&self.form) {
            self.form = form::replace_value(text, form::REFRESH_TOKEN, valid).into();
        }
        if let Some(field) = self.headers.get_mut(REFRESH_TOKEN_FIELD)
            && let Ok(mut value) = HeaderValue::from_str(valid)
        {
            value.set_sensitive(true);
            *field = value;
        }
        self
    }

    async fn send(self) -> Result<Response, SalesforceError> {
        self.slas.forward(&self.rest, self.headers, self.form).await
    }
}

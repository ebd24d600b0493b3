//! Logins that callers perform at SLAS through this gateway, where the tenant wants them to be sessions.
//!
//! Owns what is done with a request for tokens then: it is sent on here and not by the proxy, because its
//! answer must be kept before the caller has it. Request and answer are the caller's and SLAS's own: all that
//! is changed is a refresh token that the gateway has renewed behind the caller's back.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING},
    request::Parts,
};
use secrecy::{ExposeSecret, SecretString};

use super::response::{answer_edits, gives_tokens};
use crate::gateway::form::{self, Form};
use crate::{
    config,
    gateway::{
        Gateway, Route, Tenant,
        authorization_header::Authorization,
        error::GatewayError,
        headers::{self, UpstreamCredential},
        path::Query,
        policy::Operation,
        problem::LocalResponse,
    },
    salesforce::{
        error::SalesforceError,
        json,
        slas::{Slas, TokenResponse},
        transport::Response,
    },
    tokens::sessions::{
        CallerHeldSession, CallerRefresh, PresentedRefreshToken as Presented, RefreshTokenEpoch, SessionError,
        TokenOrigin,
    },
    types::SiteId,
    verify::shopper_token::VerifiedToken,
};

/// The field of forms and queries with a refresh token.
const REFRESH_TOKEN: &str = "refresh_token";
/// The header field in which servers of storefronts that keep tokens in cookies send it instead.
const REFRESH_TOKEN_HEADER: HeaderName = HeaderName::from_static("sfdc_refresh_token");

/// A request for tokens.
pub(super) struct Login<'r> {
    pub(super) tenant: &'r Tenant,
    pub(super) operation: &'r Operation,
    pub(super) head: &'r Parts,
    pub(super) form: Bytes,
    pub(super) credential: UpstreamCredential,
    pub(super) correlation_id: &'r str,
}

/// The same as it is sent to SLAS.
#[derive(Clone)]
struct Passed {
    slas: Slas,
    rest: String,
    headers: HeaderMap,
    form: Bytes,
}

/// What is asked of a refresh token.
enum RefreshTarget {
    /// SLAS, as the request came.
    Slas,
    /// The session that the gateway has of it.
    Session(CallerHeldSession),
    /// Nothing: its session was ended.
    Ended,
}

/// Whether the answers of an operation become sessions.
pub(super) fn is_registered(tenant: &config::Tenant, operation: &Operation) -> bool {
    tenant.register_sessions && gives_tokens(operation)
}

/// Whether a request for tokens is a refresh.
fn is_refresh(operation: &Operation, form: &Form<'_>) -> Result<bool, GatewayError> {
    Ok(operation.id == "getAccessToken" && form.single("grant_type")?.as_deref() == Some(REFRESH_TOKEN))
}

/// The refresh token that a request presents, in the form or in the header field.
fn presented(head: &Parts, form: &Form<'_>) -> Result<Option<SecretString>, GatewayError> {
    let in_form = form.single(REFRESH_TOKEN)?;
    let mut fields = head.headers.get_all(REFRESH_TOKEN_HEADER).iter();
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

impl Gateway {
    /// Sends a request for tokens to SLAS, keeps what it answers, and answers the same.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub(super) async fn registered_login(&self, login: &Login<'_>) -> Result<LocalResponse, GatewayError> {
        let form = Form::read(&login.form)?;
        let site = form.single("channel_id")?.and_then(|site| site.parse::<SiteId>().ok());
        let passed = login.passed();
        let is_refresh = is_refresh(login.operation, &form)?;
        let refresh_token = if is_refresh { presented(login.head, &form)? } else { None };
        let answered = match self.caller_held_session(login, refresh_token.as_ref(), site.as_ref()).await? {
            RefreshTarget::Session(handed) => {
                let proof =
                    passed.headers.get(AUTHORIZATION).map(|value| value.as_bytes().to_vec()).unwrap_or_default();
                let passed = passed.clone();
                let request = [passed.rest.as_bytes(), b"\0", &passed.form].concat();
                let exchange = move |valid| async move { passed.with(&valid).send().await };
                self.sessions.refresh_caller_held(handed, &proof, &request, exchange).await
            }
            RefreshTarget::Ended => Ok(CallerRefresh::Revoked),
            RefreshTarget::Slas => Ok(CallerRefresh::Gone),
        };
        match answered {
            Ok(CallerRefresh::Response(answer)) => return Ok(login.reply(&answer)),
            Ok(CallerRefresh::Revoked) => return Ok(LocalResponse::refresh_token_void()),
            // There is no session: what the caller brings is for SLAS to judge.
            Ok(CallerRefresh::Gone) => {}
            Err(SessionError::Slas(error)) => return Err(GatewayError::of_api(&error)),
            Err(_) => return Err(GatewayError::StoreUnavailable),
        }
        let origin = match (&refresh_token, is_refresh) {
            (Some(token), _) => TokenOrigin::Refresh(self.sessions.refresh_token_epoch(token).await),
            (None, true) => TokenOrigin::Refresh(RefreshTokenEpoch::Unknown),
            (None, false) => TokenOrigin::Login,
        };
        let answer = passed.send().await.map_err(|error| GatewayError::of_api(&error))?;
        if self.take_over(login, site, &answer, origin).await {
            Ok(login.reply(&answer))
        } else {
            Ok(LocalResponse::refresh_token_void())
        }
    }

    /// Whether the answer to a request for tokens must be read although it becomes no session: after a logout, the
    /// tokens of a later login must be told from those of the session that was logged out.
    pub(super) fn must_record_epoch(&self, operation: &Operation, form: &[u8]) -> bool {
        let Ok(fields) = Form::read(form) else { return false };
        // This gateway may not have heard of the logout yet.
        let names_a_session =
            is_refresh(operation, &fields) == Ok(true) || matches!(fields.single("usid"), Ok(Some(_)));
        names_a_session || self.sessions.knows_of_logouts()
    }

    /// The session whose refresh token a request presents, under the name of the same client and site.
    async fn caller_held_session(
        &self,
        login: &Login<'_>,
        refresh_token: Option<&SecretString>,
        site: Option<&SiteId>,
    ) -> Result<RefreshTarget, GatewayError> {
        let Some(refresh_token) = refresh_token.filter(|_| login.tenant.settings.register_sessions) else {
            return Ok(RefreshTarget::Slas);
        };
        let client = match Authorization::read(&login.head.headers) {
            Ok(Authorization::Basic(basic)) => Some(basic.user),
            _ => super::client_auth::named(login.head, Some(&login.form))?,
        };
        let client = client.and_then(|client| client.parse().ok());
        let (Some(client), Some(site)) = (client, site) else { return Ok(RefreshTarget::Slas) };
        let organization = &login.tenant.settings.organization;
        let found = self.sessions.find_caller_held(organization, &client, Some(site), refresh_token).await;
        match found.map_err(|_| GatewayError::StoreUnavailable)? {
            Presented::Session(handed) => Ok(RefreshTarget::Session(handed)),
            Presented::Revoked => Ok(RefreshTarget::Ended),
            Presented::Unknown => Ok(RefreshTarget::Slas),
        }
    }

    /// Begins the session of an answer with tokens of a configured client, where the tenant wants that, and notes that a
    /// login came after a logout. Whatever is wrong with the answer, the caller gets it, unless it is that of a refresh of
    /// a session that was logged out.
    async fn take_over(&self, login: &Login<'_>, site: Option<SiteId>, answer: &Response, origin: TokenOrigin) -> bool {
        let organization = &login.tenant.settings.organization;
        if answer.status != StatusCode::OK {
            return true;
        }
        let Ok(tokens) = json::read::<TokenResponse>(&answer.body) else { return true };
        let verified = match self.shoppers.verify_issued(tokens.access_token.expose_secret(), organization).await {
            Ok(verified) => verified,
            Err(error) => {
                tracing::warn!(%error, %organization, "a login at SLAS becomes no session");
                return true;
            }
        };
        let noted = self.sessions.note_epoch(&verified, tokens.refresh_token.as_ref(), origin).await;
        let after = match noted {
            Ok(Some(after)) => Some(after),
            Ok(None) => return false,
            Err(error) => {
                tracing::warn!(%error, "whether a login came after a logout could not be asked, or not be told");
                None
            }
        };
        let shopper = &verified.shopper;
        let is_ours = login.tenant.settings.slas_clients.iter().any(|client| client.id == shopper.client);
        let site = shopper.site.clone().or(site).filter(|_| is_ours && login.tenant.settings.register_sessions);
        if let Some(site) = site {
            self.sessions.begin_caller_held(&site, &verified, &tokens, after).await;
        }
        true
    }

    /// The session whose refresh token a request revokes, if the gateway has it.
    ///
    /// # Errors
    /// [`GatewayError::StoreUnavailable`].
    pub(super) async fn revoked_session(
        &self,
        route: &Route,
        head: &Parts,
        form: &[u8],
    ) -> Result<Option<CallerHeldSession>, GatewayError> {
        let token = Form::read(form).ok().and_then(|form| Some(SecretString::from(&*form.single("token").ok()??)));
        let Ok(Authorization::Basic(basic)) = Authorization::read(&head.headers) else { return Ok(None) };
        let (Some(token), Ok(client)) = (token, basic.user.parse()) else { return Ok(None) };
        match self.sessions.find_caller_held(&route.organization, &client, None, &token).await {
            Ok(Presented::Session(handed)) => Ok(Some(handed)),
            Ok(Presented::Revoked | Presented::Unknown) => Ok(None),
            Err(_) => Err(GatewayError::StoreUnavailable),
        }
    }

    /// The target of a logout with the refresh token that is valid now in place of the caller's, where that
    /// differs: SLAS would not know the caller's any more.
    ///
    /// # Errors
    /// [`GatewayError::Ambiguous`], [`GatewayError::StoreUnavailable`].
    pub(super) async fn logout_target(
        &self,
        route: &Route,
        head: &Parts,
        token: &VerifiedToken,
    ) -> Result<Option<String>, GatewayError> {
        let ambiguous = |ambiguity: crate::gateway::path::PathError| GatewayError::Ambiguous(ambiguity.to_string());
        let text = head.uri.query().unwrap_or_default();
        let query = Query::parse(Some(text)).map_err(ambiguous)?;
        let presented = query.single(REFRESH_TOKEN).map_err(ambiguous)?.map(|token| SecretString::from(&*token));
        let site = query.single("channel_id").map_err(ambiguous)?.and_then(|site| site.parse::<SiteId>().ok());
        let (Some(presented), Some(site)) = (presented, site) else { return Ok(None) };
        let found =
            self.sessions.find_caller_held(&route.organization, &token.shopper.client, Some(&site), &presented).await;
        let handed = match found.map_err(|_| GatewayError::StoreUnavailable)? {
            Presented::Session(handed) => Some(handed).filter(|handed| handed.is_of(&token.shopper)),
            Presented::Revoked | Presented::Unknown => None,
        };
        Ok(handed.map(|handed| {
            let target = route.upstream_target.as_deref().unwrap_or(head.uri.path());
            let path = target.split('?').next().unwrap_or_default();
            format!("{path}?{}", form::replaced(text, REFRESH_TOKEN, handed.refresh_token().expose_secret()))
        }))
    }
}

impl Login<'_> {
    /// The request as the proxy would send it, with the client's proof where it is due.
    fn passed(&self) -> Passed {
        let mut headers = self.head.headers.clone();
        let correlation_id = HeaderValue::from_str(self.correlation_id).unwrap_or(HeaderValue::from_static("none"));
        let edits = headers::request_edits(&headers, &HeaderValue::from_static(""), &correlation_id);
        for name in edits.remove.into_iter().chain(headers::of_this_hop(&headers)) {
            headers.remove(name);
        }
        for (name, value) in edits.set {
            headers.insert(name, value);
        }
        // The client of this call writes its own; the answer must be readable here.
        for name in [HOST, CONTENT_LENGTH, EXPECT] {
            headers.remove(name);
        }
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some((field, proof)) = self.credential.client_proof() {
            headers.insert(field, proof.clone());
        }
        let below = self.operation.template.split_once("/oauth2").map_or("", |(_, below)| below);
        let rest = match self.head.uri.query() {
            Some(query) => format!("{below}?{query}"),
            None => below.to_owned(),
        };
        Passed { slas: self.tenant.slas.clone(), rest, headers, form: self.form.clone() }
    }

    /// SLAS's answer for the caller.
    fn reply(&self, answer: &Response) -> LocalResponse {
        let mut headers = answer.headers.clone();
        let edits = headers::response_edits(&headers, &HeaderValue::from_static(""));
        for name in edits.remove.into_iter().chain([CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING]) {
            headers.remove(name);
        }
        let edits = answer_edits(self.operation, answer.status, &headers).unwrap_or_default();
        for (name, value) in edits.header.set {
            headers.insert(name, value);
        }
        LocalResponse { status: answer.status, headers, body: answer.body.clone(), code: None, reason: None }
    }
}

impl Passed {
    /// The same with the refresh token that is valid now, wherever the caller wrote its own.
    fn with(mut self, valid: &SecretString) -> Self {
        let valid = valid.expose_secret();
        if let Ok(text) = std::str::from_utf8(&self.form) {
            self.form = form::replaced(text, REFRESH_TOKEN, valid).into();
        }
        if let Some(field) = self.headers.get_mut(REFRESH_TOKEN_HEADER)
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

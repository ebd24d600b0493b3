//! The settings that may change while the simulator runs: lifetimes, limits, scopes.

use serde::{Deserialize, Serialize};

/// The settings of the services. Every field may be changed at run time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// Lifetime of a shopper token.
    pub shopper_token_seconds: u64,
    /// Lifetime of a guest's refresh token.
    pub guest_refresh_token_seconds: u64,
    /// Lifetime of a registered shopper's refresh token.
    pub registered_refresh_token_seconds: u64,
    /// Lifetime of a trusted agent's shopper token.
    pub trusted_agent_token_seconds: u64,
    /// Seconds by which the issuers' clock is ahead of this machine's; negative: behind it.
    pub clock_ahead_seconds: i64,
    /// `exp - iat` of an Account Manager token; `expires_in` is one less.
    pub account_manager_token_seconds: u64,
    /// Lifetime of an authorization code.
    pub code_seconds: u64,
    /// Lifetime of a one-time token (password reset, passwordless, OTP).
    pub one_time_token_seconds: u64,
    /// Whether the two windows below are enforced.
    pub enforce_windows: bool,
    /// `/login` refuses the same login id within this time (409).
    pub login_window_ms: u64,
    /// `/trusted-system/token` refuses the same shopper within this time (409).
    pub tsob_window_ms: u64,
    /// SLAS requests a minute per tenant; five times as many in five minutes.
    pub slas_requests_per_minute: u32,
    /// Requests a minute per tenant for JWKS and OpenID configuration together.
    pub jwks_requests_per_minute: u32,
    /// Whether token requests need `channel_id`, as SLAS has required since July 2024. The `chid` of a token without site is a space.
    pub tokens_need_channel_id: bool,
    /// Domain of the cookie `dwsid`, with which SLAS binds a hybrid storefront to a B2C Commerce session. `""`: a cookie
    /// without domain; absent: no cookie.
    pub session_cookie_domain: Option<String>,
    /// Scopes of new shopper tokens instead of the client's own.
    pub shopper_scopes: Option<Vec<String>>,
    /// Whether an order needs addresses, a shipping method and a payment instrument.
    pub orders_need_complete_baskets: bool,
    /// `sfdc_load` in API responses.
    pub load: Option<u8>,
    /// `sfdc_load_status` in API responses: `WARN`, `THROTTLE`.
    pub load_status: Option<String>,
    /// Maximum of ledger entries; the oldest are removed first. 0 turns the ledger off.
    pub ledger_entries: usize,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            shopper_token_seconds: 1800,
            guest_refresh_token_seconds: 30 * 86_400,
            registered_refresh_token_seconds: 90 * 86_400,
            trusted_agent_token_seconds: 900,
            clock_ahead_seconds: 0,
            account_manager_token_seconds: 1800,
            code_seconds: 60,
            one_time_token_seconds: 1800,
            enforce_windows: true,
            login_window_ms: 1000,
            tsob_window_ms: 3000,
            slas_requests_per_minute: 24_000,
            jwks_requests_per_minute: 25,
            tokens_need_channel_id: true,
            session_cookie_domain: None,
            shopper_scopes: None,
            orders_need_complete_baskets: true,
            load: None,
            load_status: None,
            ledger_entries: 100_000,
        }
    }
}

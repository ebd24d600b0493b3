//! Sessions: the gateway keeps the refresh token of each login and refreshes the access token for the caller.
//!
//! A session is found by a verified access token of its own shopper, by the caller's refresh token (`caller_held`) or, for
//! tokens on behalf of a shopper, by a name (`by_name`). Its newest access token is in one of these states:
//!
//! ```text
//!                login
//!                  |
//!                  v      used, less than the refresh margin left         expired
//!              +-------+                                       +-----+              +---------+
//!         +--->| fresh |-------------------------------------->| due |------------->| expired |
//!         |    +-------+                                       +-----+              +---------+
//!         |                                                       |                      |
//!         |                    request uses the token             |                      | request waits
//!         |                    and waits 500 ms at most           v                      v
//!         |                                                    +------------------------------+
//!         +----------------------------------------------------|          refreshing          |
//!          SLAS issued tokens, a new version is stored:        +------------------------------+
//!          the token before is superseded                         |                      |
//!                                                                 | SLAS rejected        | SLAS or the store failed:
//!                                                                 | the refresh token    | due or expired as before
//!                                                                 v                      v
//!          any state -- logout --> +------------+             +-------+
//!          any state -- idle or    | logged out |             | ended |
//!            refresh token expired +------------+             +-------+
//! ```
//!
//! - *fresh*: the token that the caller presented is forwarded.
//! - *due*: a refresh runs behind the request. If it does not succeed in time, the presented token is forwarded.
//! - *expired*: the request waits for the refresh.
//! - *superseded*: a refresh has replaced the token. A caller that presents the old one is served with the newest.
//! - *logged out*: all tokens of the session are rejected by all replicas, including those of a refresh in progress.
//! - *ended*: no session is left. A token that is still valid is forwarded, an expired one is rejected.
//!
//! Invariants:
//! - At most one refresh of a session runs at a time: a single flight per session in this process, and a lock with a lease
//!   and a fencing token in the store among replicas. The others wait for its result.
//! - A new version is stored before any caller gets its token.
//! - Only a rejection by SLAS, a logout, or the end of its time ends a session. A failure never does.
//! - A logout covers a session at SLAS and not a list of tokens: see [`Revocation`](crate::store::Revocation).
//!
//! Revocation records are in the store, and each replica holds a copy that `background` keeps up to date. Only the first
//! request with a token reads them from the store. While the store is unavailable, valid tokens are forwarded as they are.

mod background;
mod by_name;
mod cache;
mod caller_held;
mod error;
mod failed_refreshes;
mod logout;
mod ready_token;
mod refresh;
mod resolve;
mod state;
#[cfg(test)]
mod tests;

pub(super) use self::cache::CachedSession;
pub use self::{
    by_name::TokenRecipient,
    caller_held::{CallerHeldSession, CallerRefresh, PresentedRefreshToken, RefreshTokenEpoch, TokenOrigin},
    error::SessionError,
    logout::LoggedOutSession,
    ready_token::ReadyToken,
    refresh::MIN_REFRESH_INTERVAL,
    resolve::TokenChoice,
    state::{Sessions, SlasEndpoint},
};

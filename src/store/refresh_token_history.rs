//! The refresh tokens of a session that callers hold.
//!
//! Only digests are stored. The token that is valid at SLAS is in the session, and may be a later one. A superseded
//! token remains usable for a minute, because two browser tabs may refresh at the same time, and responses get lost.

use crate::jwt::TokenDigest;

/// Maximum number of refresh tokens of a session in the history.
pub const MAX_CALLER_REFRESH_TOKENS: usize = 8;
/// How long a superseded refresh token is accepted, seconds.
pub const ROTATION_GRACE_SECONDS: u64 = 60;

/// A refresh token that a caller holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallerRefreshToken {
    /// Its digest, which identifies the session.
    pub name: TokenDigest,
    /// When another token superseded it, seconds since 1970.
    pub superseded_at: Option<u64>,
}

/// The refresh tokens of one session: the superseded ones first, then the others, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RefreshTokenHistory(Vec<CallerRefreshToken>);

impl CallerRefreshToken {
    fn is_good(&self, now: u64) -> bool {
        self.superseded_at.is_none_or(|at| at.saturating_add(ROTATION_GRACE_SECONDS) > now)
    }
}

impl RefreshTokenHistory {
    /// The history with one more token, which supersedes the presented one.
    #[must_use]
    pub fn with(mut self, name: TokenDigest, presented: Option<&TokenDigest>, now: u64) -> Self {
        let Self(all) = &mut self;
        all.retain(|handed| handed.is_good(now) && handed.name != name);
        if let Some(position) = all.iter().position(|handed| Some(&handed.name) == presented) {
            let before = all.remove(position);
            let superseded = all.iter().take_while(|handed| handed.superseded_at.is_some()).count();
            all.insert(superseded, CallerRefreshToken { superseded_at: before.superseded_at.or(Some(now)), ..before });
        }
        all.push(CallerRefreshToken { name, superseded_at: None });
        if all.len() > MAX_CALLER_REFRESH_TOKENS {
            all.remove(0);
        }
        self
    }

    /// Whether the token with this digest can be used.
    #[must_use]
    pub fn accepts(&self, name: &TokenDigest, now: u64) -> bool {
        self.iter().any(|handed| handed.name == *name && handed.is_good(now))
    }

    /// All tokens in order.
    pub fn iter(&self) -> impl Iterator<Item = &CallerRefreshToken> {
        self.0.iter()
    }
}

impl FromIterator<CallerRefreshToken> for RefreshTokenHistory {
    fn from_iter<I: IntoIterator<Item = CallerRefreshToken>>(handed: I) -> Self {
        Self(handed.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_bounded_and_accepts_superseded_token_for_a_minute() {
        let mut handed = RefreshTokenHistory::default().with([1; 32], None, 100);
        for name in 2..=20 {
            handed = handed.with([name; 32], Some(&[name - 1; 32]), 100);
            assert!(handed.accepts(&[name; 32], 100) && handed.accepts(&[name - 1; 32], 100));
        }
        assert_eq!(handed.iter().count(), MAX_CALLER_REFRESH_TOKENS);
        let later = handed.with([21; 32], Some(&[20; 32]), 100 + ROTATION_GRACE_SECONDS);
        assert!(
            later.accepts(&[20; 32], 100 + ROTATION_GRACE_SECONDS)
                && !later.accepts(&[19; 32], 100 + ROTATION_GRACE_SECONDS)
        );
        assert!(later.accepts(&[21; 32], u64::MAX));
    }

    #[test]
    fn history_accepts_tokens_of_concurrent_refreshes() {
        let first = RefreshTokenHistory::default().with([1; 32], None, 100);
        let raced = first.with([2; 32], Some(&[1; 32]), 100).with([3; 32], Some(&[1; 32]), 100);
        for name in [1, 2, 3] {
            assert!(raced.accepts(&[name; 32], 100), "{name}");
        }
        // The token that was presented last is dropped last.
        let pressed = (4..=20).fold(raced, |handed, name| handed.with([name; 32], Some(&[2; 32]), 100));
        assert!(!pressed.accepts(&[1; 32], 100) && pressed.accepts(&[20; 32], 100));
    }

    #[test]
    fn history_keeps_unrotated_token() {
        let same = RefreshTokenHistory::default().with([1; 32], None, 100).with([1; 32], Some(&[1; 32]), 200);
        assert!(same.accepts(&[1; 32], u64::MAX));
        assert_eq!(same.iter().count(), 1);
    }
}

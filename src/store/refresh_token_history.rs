//! The refresh tokens of a session that are in callers' hands.
//!
//! Owns which of them their holders may still use. Known are their names only; the one that is
//! valid at SLAS is the session's, and may be another by now.

use crate::jwt::TokenDigest;

/// So many refresh tokens of a session are remembered.
pub const MAX_CALLER_REFRESH_TOKENS: usize = 8;
/// How long a refresh token is still accepted once its holder has been given another, seconds: two tabs of
/// a browser ask at the same time, and answers get lost.
pub const ROTATION_GRACE_SECONDS: u64 = 60;

/// A refresh token in a caller's hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallerRefreshToken {
    /// SHA-256 of it, under which the session is found.
    pub name: TokenDigest,
    /// When it was followed by another, seconds since 1970.
    pub superseded_at: Option<u64>,
}

/// All of a session's: those superseded first, then the others, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RefreshTokenHistory(Vec<CallerRefreshToken>);

impl CallerRefreshToken {
    fn is_good(&self, now: u64) -> bool {
        self.superseded_at.is_none_or(|at| at.saturating_add(ROTATION_GRACE_SECONDS) > now)
    }
}

impl RefreshTokenHistory {
    /// Those with one more, which follows the one that the caller presented.
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

    /// Whether the holder of the token of this name may use it.
    #[must_use]
    pub fn accepts(&self, name: &TokenDigest, now: u64) -> bool {
        self.iter().any(|handed| handed.name == *name && handed.is_good(now))
    }

    /// One after the other.
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
    fn the_last_are_remembered_and_the_superseded_for_a_minute() {
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
    fn of_racing_holders_each_keeps_its_own() {
        let first = RefreshTokenHistory::default().with([1; 32], None, 100);
        let raced = first.with([2; 32], Some(&[1; 32]), 100).with([3; 32], Some(&[1; 32]), 100);
        for name in [1, 2, 3] {
            assert!(raced.accepts(&[name; 32], 100), "{name}");
        }
        // Whoever presented last is the last to be forgotten.
        let pressed = (4..=20).fold(raced, |handed, name| handed.with([name; 32], Some(&[2; 32]), 100));
        assert!(!pressed.accepts(&[1; 32], 100) && pressed.accepts(&[20; 32], 100));
    }

    #[test]
    fn a_private_clients_stays_the_same() {
        let same = RefreshTokenHistory::default().with([1; 32], None, 100).with([1; 32], Some(&[1; 32]), 200);
        assert!(same.accepts(&[1; 32], u64::MAX));
        assert_eq!(same.iter().count(), 1);
    }
}

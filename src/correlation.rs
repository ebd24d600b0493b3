//! The correlation id that ties a request, the calls to Salesforce that are made for it, and their log lines together.
//!
//! The code that serves a request wraps the work in [`scope`]. A call made anywhere below carries [`current`], without being
//! handed an id. Work that moves to a task of its own is wrapped in [`inherit`]. A call that no request asked for has an
//! id of its own.

use std::future::Future;

use http::{HeaderName, HeaderValue};
use tokio::task::futures::TaskLocalFuture;
use uuid::Uuid;

/// The field of requests and answers.
pub const HEADER: HeaderName = HeaderName::from_static("correlation-id");
/// Stands for an id that is no text. None of the gateway's is.
const NO_ID: &str = "none";

tokio::task_local! {
    static CURRENT: HeaderValue;
}

/// A new id.
#[must_use]
pub fn new() -> HeaderValue {
    let mut text = Uuid::encode_buffer();
    HeaderValue::from_str(Uuid::new_v4().hyphenated().encode_lower(&mut text))
        .unwrap_or(HeaderValue::from_static(NO_ID))
}

/// Work that is done for this id.
pub fn scope<F: Future>(id: HeaderValue, work: F) -> TaskLocalFuture<HeaderValue, F> {
    CURRENT.scope(id, work)
}

/// Work for another task, under the id of this one.
pub fn inherit<F: Future>(work: F) -> TaskLocalFuture<HeaderValue, F> {
    scope(current(), work)
}

/// The id of the work under way; a new one if no request asked for it.
#[must_use]
pub fn current() -> HeaderValue {
    CURRENT.try_with(HeaderValue::clone).unwrap_or_else(|_| new())
}

/// An id for a log line.
#[must_use]
pub fn text(id: &HeaderValue) -> &str {
    id.to_str().unwrap_or(NO_ID)
}

/// The id of the work under way, for its log lines.
#[must_use]
pub fn current_text() -> String {
    CURRENT.try_with(|id| text(id).to_owned()).unwrap_or_else(|_| NO_ID.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn correlation_id_is_inherited_by_spawned_tasks() {
        let mine = HeaderValue::from_static("mine");
        let seen = scope(mine.clone(), async {
            let here = current();
            let there = tokio::spawn(inherit(async { current() })).await.unwrap();
            let elsewhere = tokio::spawn(async { current() }).await.unwrap();
            (here, there, elsewhere)
        })
        .await;
        assert_eq!((&seen.0, &seen.1), (&mine, &mine));
        assert_ne!(seen.2, mine);
    }

    #[tokio::test]
    async fn correlation_id_outside_requests_is_shared_within_a_scope() {
        assert_ne!(current(), current());
        let (first, second) = inherit(async { (current(), current()) }).await;
        assert_eq!(first, second);
        assert_eq!(text(&first).len(), 36);
        assert_eq!(current_text(), "none");
    }
}

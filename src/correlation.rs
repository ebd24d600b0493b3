//! Correlation ids: one id for a request, its calls to Salesforce and their log lines.
//!
//! The code that serves a request wraps its work in [`scope`]. Calls anywhere below use [`current`] without passing the id along.
//! Work in another task is wrapped in [`inherit`]. Calls outside any request have an id of their own.

use std::future::Future;

use http::{HeaderName, HeaderValue};
use tokio::task::futures::TaskLocalFuture;
use uuid::Uuid;

/// Name of the header in requests and responses.
pub const HEADER: HeaderName = HeaderName::from_static("correlation-id");
/// Placeholder for an id that is not text. Ids of the gateway are text.
const NO_ID: &str = "none";

tokio::task_local! {
    static CURRENT: HeaderValue;
}

/// Generates an id.
#[must_use]
pub fn new() -> HeaderValue {
    let mut text = Uuid::encode_buffer();
    HeaderValue::from_str(Uuid::new_v4().hyphenated().encode_lower(&mut text))
        .unwrap_or(HeaderValue::from_static(NO_ID))
}

/// Runs `work` under this id.
pub fn scope<F: Future>(id: HeaderValue, work: F) -> TaskLocalFuture<HeaderValue, F> {
    CURRENT.scope(id, work)
}

/// Runs `work`, in another task, under the current id.
pub fn inherit<F: Future>(work: F) -> TaskLocalFuture<HeaderValue, F> {
    scope(current(), work)
}

/// The current id; a new one outside any request.
#[must_use]
pub fn current() -> HeaderValue {
    CURRENT.try_with(HeaderValue::clone).unwrap_or_else(|_| new())
}

/// An id as text.
#[must_use]
pub fn text(id: &HeaderValue) -> &str {
    id.to_str().unwrap_or(NO_ID)
}

/// The current id as text.
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

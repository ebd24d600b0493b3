//! Decides whether a failed request is sent upstream again.
//!
//! An API that rejected the token, or refused the request unread, has not processed it, so any method may be repeated. After other
//! failures only idempotent methods are. Every repetition needs the whole body in Pingora's retry buffer.

use std::mem;

use pingora::{Error, proxy::Session};

use super::{context::RequestContext, error};
use crate::correlation;

/// Maximum retries of a request that the API reported as not processed.
const MAX_UNPROCESSED_RETRIES: u32 = 2;

/// After a 401 for a token that the gateway injected: gets another token, and returns whether the request is retried with it.
/// A request is retried once this way.
pub(super) async fn refresh_credential(session: &Session, context: &mut RequestContext) -> bool {
    let (Some(route), Some(forward)) = (&context.route, &mut context.forward) else { return false };
    if context.has_retried_credential || !forward.credential.is_injected() || !is_body_kept(session) {
        return false;
    }
    let replaced = context.runtime.gateway.retry_after_401(route, &forward.credential);
    let Some(credential) = correlation::scope(context.correlation_id.clone(), replaced).await else { return false };
    forward.credential = credential;
    context.has_retried_credential = true;
    context.should_retry = true;
    true
}

/// Sets whether Pingora retries after an error of a connection to the API. `is_reused` is whether the connection had served
/// other requests before.
pub(super) fn decide(error: &mut Error, session: &Session, context: &mut RequestContext, is_reused: bool) {
    let is_body_kept = is_body_kept(session);
    if mem::take(&mut context.should_retry) {
        error.set_retry(is_body_kept);
    } else if error::is_unprocessed(error) {
        context.unprocessed_retries += 1;
        error.set_retry(is_body_kept && context.unprocessed_retries <= MAX_UNPROCESSED_RETRIES);
    } else if is_body_kept && session.req_header().method.is_idempotent() {
        error.retry.decide_reuse(is_reused);
    } else {
        error.set_retry(false);
    }
}

/// Whether the retry buffer holds all that has arrived of the body.
fn is_body_kept(session: &Session) -> bool {
    !session.as_downstream().retry_buffer_truncated()
}

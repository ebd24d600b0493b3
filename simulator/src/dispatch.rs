//! The steps of every request: read, name the flow, record, apply faults, into_http.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::response::Response;
use futures_util::stream;

use crate::connections::ResetSwitch;
use crate::faults::{Effect, ResetAt};
use crate::identifiers;
use crate::request::ReceivedRequest;
use crate::response::ServiceResponse;
use crate::world::World;
use crate::{account_manager, api, slas};

const MAX_BODY: usize = 64 * 1024 * 1024;

/// Handles every request outside the control API.
pub(crate) async fn handle(
    State(world): State<Arc<World>>,
    Extension(reset): Extension<ResetSwitch>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, MAX_BODY).await else {
        return into_http(ServiceResponse::empty(StatusCode::PAYLOAD_TOO_LARGE));
    };
    let mut request = ReceivedRequest {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body,
    };
    let received = request.clone();
    if request.method == Method::HEAD {
        // HEAD is GET without the body, which the HTTP library leaves out.
        request.method = Method::GET;
    }
    let (service, flow) = service_and_flow(&request);
    let kept = world.behaviour().ledger_entries;
    let sequence = world.ledger.record(service, &flow, &received, kept);
    let applied = world.faults.apply(service, &flow, &request.path);
    if applied.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(applied.delay_ms)).await;
    }
    match &applied.effect {
        Some(Effect::Hang) => std::future::pending().await,
        Some(Effect::Reset { at: ResetAt::Before }) => {
            reset.trip();
            return into_http(ServiceResponse::empty(StatusCode::OK));
        }
        Some(Effect::Status { code, retry_after, body }) => {
            let status = StatusCode::from_u16(*code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            world.ledger.set_status(sequence, status.as_u16());
            return into_http(failure(status, retry_after.as_deref(), body.as_deref()));
        }
        Some(Effect::HugeBody { bytes }) => {
            world.ledger.set_status(sequence, 200);
            return huge(*bytes);
        }
        _ => {}
    }
    let response = process(&world, service, &request);
    if let Some(Effect::Reset { at: ResetAt::After }) = applied.effect {
        reset.trip();
        return into_http(response);
    }
    world.ledger.set_status(sequence, response.status.as_u16());
    match applied.effect {
        Some(Effect::Reset { .. }) => broken_off(response, Some(reset)),
        Some(Effect::Truncate) => broken_off(response, None),
        Some(Effect::Garbage { html }) => into_http(garbage(response, html)),
        _ => into_http(response),
    }
}

/// The service of a request, and its flow or operation.
fn service_and_flow(request: &ReceivedRequest) -> (&'static str, String) {
    if request.path.starts_with(account_manager::BASE) {
        ("account_manager", account_manager::flow(request).to_owned())
    } else if request.path.starts_with(slas::BASE) {
        ("slas", slas::flow(request))
    } else {
        ("api", api::flow(request))
    }
}

fn process(world: &World, service: &str, request: &ReceivedRequest) -> ServiceResponse {
    let response = match service {
        "account_manager" => return account_manager::respond(world, request),
        "slas" => slas::respond(world, request),
        _ => api::respond(world, request),
    };
    let correlation = request.header("correlation-id").map_or_else(identifiers::usid, str::to_owned);
    response.with("x-correlation-id", correlation)
}

/// Converts a response to axum's type. Invalid header values are left out.
pub(crate) fn into_http(response: ServiceResponse) -> Response {
    assemble(response.status, &response.headers, Body::from(response.body))
}

fn assemble(status: StatusCode, headers: &[(String, String)], body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in headers {
        let parsed = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value));
        if let (Ok(name), Ok(value)) = parsed {
            response.headers_mut().append(name, value);
        }
    }
    response
}

fn failure(status: StatusCode, retry_after: Option<&str>, body: Option<&str>) -> ServiceResponse {
    let body = body.unwrap_or_default();
    let kind = if body.starts_with('{') { "application/json" } else { "text/plain" };
    let response = ServiceResponse::body(status, kind, body.as_bytes().to_vec());
    match retry_after {
        Some(value) => response.with("retry-after", value),
        None => response,
    }
}

fn garbage(mut response: ServiceResponse, html: bool) -> ServiceResponse {
    if html {
        let page = b"<!DOCTYPE html><html><body><h1>Service Unavailable</h1></body></html>";
        return ServiceResponse::body(response.status, "text/html", page.to_vec());
    }
    response.body = (0..response.body.len().max(64))
        .map(|place| u8::try_from(place * 167 % 251).unwrap_or_default() | 0x80)
        .collect();
    response
}

/// Declares the length of the whole body and sends half of it. Then a switch resets the connection (RST),
/// or without one it closes (FIN).
fn broken_off(mut response: ServiceResponse, reset: Option<ResetSwitch>) -> Response {
    if response.body.len() < 2 {
        response.body = vec![b' '; 64];
    }
    let whole = response.body.len();
    let half = Bytes::from(response.body[..whole / 2].to_vec());
    let parts = stream::unfold((0, reset), move |(step, reset)| {
        let half = half.clone();
        async move {
            match step {
                0 => Some((Ok(half), (1, reset))),
                _ => {
                    // The client receives the first half before the connection ends.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    if let Some(reset) = &reset {
                        reset.trip();
                        return Some((Ok(Bytes::from_static(b" ")), (step, None)));
                    }
                    Some((Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)), (step, None)))
                }
            }
        }
    });
    let headers = with_length(response.headers, whole);
    assemble(response.status, &headers, Body::from_stream(parts))
}

fn huge(bytes: usize) -> Response {
    const OPENING: &[u8] = b"{\"padding\":\"";
    const CLOSING: &[u8] = b"\"}";
    static FILLING: [u8; 64 * 1024] = [b'x'; 64 * 1024];
    let bytes = bytes.max(OPENING.len() + CLOSING.len());
    let filling = bytes - OPENING.len() - CLOSING.len();
    let parts = stream::unfold((OPENING, filling, false), |(next, left, last)| async move {
        if next.is_empty() {
            return None;
        }
        let chunk = Ok::<_, std::io::Error>(Bytes::from_static(next));
        let after = if last {
            (&next[..0], 0, true)
        } else if left == 0 {
            (CLOSING, 0, true)
        } else {
            let size = left.min(FILLING.len());
            (&FILLING[..size], left - size, false)
        };
        Some((chunk, after))
    });
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    let headers = with_length(headers, bytes);
    assemble(StatusCode::OK, &headers, Body::from_stream(parts))
}

fn with_length(mut headers: Vec<(String, String)>, length: usize) -> Vec<(String, String)> {
    headers.push(("content-length".to_owned(), length.to_string()));
    headers
}

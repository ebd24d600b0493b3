//! The steps of every request: read, name the flow, record, apply faults, respond.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use futures_util::stream;

use crate::answer::Answer;
use crate::faults::{Effect, ResetAt};
use crate::identifiers;
use crate::inbound::Inbound;
use crate::wire::Cut;
use crate::world::World;
use crate::{account_manager, api, slas};

const LARGEST_BODY: usize = 64 * 1024 * 1024;

/// Answers everything but the control API.
pub(crate) async fn handle(
    State(world): State<Arc<World>>,
    Extension(cut): Extension<Cut>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, LARGEST_BODY).await else {
        return respond(Answer::empty(StatusCode::PAYLOAD_TOO_LARGE));
    };
    let inbound = Inbound {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body,
    };
    let (service, flow) = name(&inbound);
    let kept = world.behaviour().ledger_entries;
    let sequence = world.ledger.record(service, &flow, &inbound, kept);
    let strike = world.faults.strike(service, &flow, &inbound.path);
    if strike.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(strike.delay_ms)).await;
    }
    match &strike.effect {
        Some(Effect::Hang) => std::future::pending().await,
        Some(Effect::Reset { at: ResetAt::Before }) => {
            cut.now();
            return respond(Answer::empty(StatusCode::OK));
        }
        Some(Effect::Status { code, retry_after, body }) => {
            let status = StatusCode::from_u16(*code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            world.ledger.answered(sequence, status.as_u16());
            return respond(failure(status, retry_after.as_deref(), body.as_deref()));
        }
        Some(Effect::HugeBody { bytes }) => {
            world.ledger.answered(sequence, 200);
            return huge(*bytes);
        }
        _ => {}
    }
    let answer = process(&world, service, &inbound);
    if let Some(Effect::Reset { at: ResetAt::After }) = strike.effect {
        cut.now();
        return respond(answer);
    }
    world.ledger.answered(sequence, answer.status.as_u16());
    match strike.effect {
        Some(Effect::Reset { .. }) => broken(answer, Some(cut)),
        Some(Effect::Truncate) => broken(answer, None),
        Some(Effect::Garbage { html }) => respond(garbage(answer, html)),
        _ => respond(answer),
    }
}

/// Which service a request is for, and the flow or operation it means.
fn name(inbound: &Inbound) -> (&'static str, String) {
    if inbound.path.starts_with(account_manager::BASE) {
        ("account_manager", account_manager::flow(inbound).to_owned())
    } else if inbound.path.starts_with(slas::BASE) {
        ("slas", slas::flow(inbound))
    } else {
        ("api", api::flow(inbound))
    }
}

fn process(world: &World, service: &str, inbound: &Inbound) -> Answer {
    let answer = match service {
        "account_manager" => return account_manager::answer(world, inbound),
        "slas" => slas::answer(world, inbound),
        _ => api::answer(world, inbound),
    };
    let correlation = inbound.header("correlation-id").map_or_else(identifiers::usid, str::to_owned);
    answer.with("x-correlation-id", correlation)
}

/// Writes an answer as a response. A value that is no header value is left out.
pub(crate) fn respond(answer: Answer) -> Response {
    assemble(answer.status, &answer.headers, Body::from(answer.body))
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

fn failure(status: StatusCode, retry_after: Option<&str>, body: Option<&str>) -> Answer {
    let body = body.unwrap_or_default();
    let kind = if body.starts_with('{') { "application/json" } else { "text/plain" };
    let answer = Answer::body(status, kind, body.as_bytes().to_vec());
    match retry_after {
        Some(value) => answer.with("retry-after", value),
        None => answer,
    }
}

fn garbage(mut answer: Answer, html: bool) -> Answer {
    if html {
        let page = b"<!DOCTYPE html><html><body><h1>Service Unavailable</h1></body></html>";
        return Answer::body(answer.status, "text/html", page.to_vec());
    }
    answer.body = (0..answer.body.len().max(64))
        .map(|place| u8::try_from(place * 167 % 251).unwrap_or_default() | 0x80)
        .collect();
    answer
}

/// Promises the whole body, sends half, then breaks: by RST with a cut, else by FIN.
fn broken(mut answer: Answer, cut: Option<Cut>) -> Response {
    if answer.body.len() < 2 {
        answer.body = vec![b' '; 64];
    }
    let whole = answer.body.len();
    let half = Bytes::from(answer.body[..whole / 2].to_vec());
    let parts = stream::unfold((0, cut), move |(step, cut)| {
        let half = half.clone();
        async move {
            match step {
                0 => Some((Ok(half), (1, cut))),
                _ => {
                    // The first half shall arrive before the end.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    if let Some(cut) = &cut {
                        cut.now();
                        return Some((Ok(Bytes::from_static(b" ")), (step, None)));
                    }
                    Some((Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)), (step, None)))
                }
            }
        }
    });
    let headers = with_length(answer.headers, whole);
    assemble(answer.status, &headers, Body::from_stream(parts))
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

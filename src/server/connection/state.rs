//! State that the requests of one connection share. Pingora passes it to each request inside the proxy digest.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use pingora::protocols::http::ServerSession;

use super::{HeadDeadline, h1_framing::RequestFraming};
use crate::server::address_usage::{AddressEntry, BoundedCounter};

/// State of one client connection.
#[derive(Debug)]
pub(crate) struct ConnectionState {
    pub(super) deadline: Arc<HeadDeadline>,
    /// Address that the connection comes from.
    pub(in crate::server) address: Arc<AddressEntry>,
    /// Whether the address is in `server.trusted_proxies`. Then each request names its own client.
    pub(in crate::server) is_proxy: bool,
    /// HTTP/2: requests whose body has not arrived completely.
    pub(in crate::server) incomplete_requests: BoundedCounter,
    /// HTTP/1.1: faults of the current request that Pingora does not report.
    is_request_line_irregular: AtomicBool,
    is_body_malformed: AtomicBool,
    must_close: AtomicBool,
}

impl ConnectionState {
    pub(in crate::server) fn new(deadline: Arc<HeadDeadline>, address: Arc<AddressEntry>, is_proxy: bool) -> Arc<Self> {
        Arc::new(Self {
            deadline,
            address,
            is_proxy,
            incomplete_requests: BoundedCounter::default(),
            is_request_line_irregular: AtomicBool::new(false),
            is_body_malformed: AtomicBool::new(false),
            must_close: AtomicBool::new(false),
        })
    }

    /// Copies the faults found so far in the current request.
    pub(super) fn note_syntax(&self, framing: &RequestFraming) {
        self.is_request_line_irregular.store(framing.is_request_line_irregular(), Ordering::Relaxed);
        self.is_body_malformed.store(framing.is_malformed(), Ordering::Relaxed);
        if framing.is_endless() {
            self.close_after_this();
        }
    }

    /// Marks the current HTTP/1.1 request as the last of its connection.
    pub(super) fn close_after_this(&self) {
        self.must_close.store(true, Ordering::Relaxed);
    }

    /// Whether the current HTTP/1.1 request is the last of its connection, because its length is ambiguous or too many pipelined
    /// bytes have arrived.
    pub(in crate::server) fn must_close(&self) -> bool {
        self.must_close.load(Ordering::Relaxed)
    }

    /// Whether Pingora sees a different request line than the client sent.
    pub(in crate::server) fn is_request_line_irregular(&self) -> bool {
        self.is_request_line_irregular.load(Ordering::Relaxed)
    }

    /// Whether the body violates chunked encoding (RFC 9112, 7.1).
    pub(in crate::server) fn is_body_malformed(&self) -> bool {
        self.is_body_malformed.load(Ordering::Relaxed)
    }

    /// The state of a request's connection.
    pub(in crate::server) fn of(session: &ServerSession) -> Option<&Arc<Self>> {
        session.digest()?.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref()
    }

    /// The head deadline of a request's HTTP/1.1 connection; `None` for HTTP/2. There, frames show when heads start and end, and
    /// several requests run at once.
    pub(in crate::server) fn head_deadline(session: &ServerSession) -> Option<&HeadDeadline> {
        session.as_http1()?;
        Self::of(session).map(|client| client.deadline.as_ref())
    }
}

//! What the requests of one connection share: whose it is, its deadline, how many of its requests are incomplete.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use pingora::protocols::http::ServerSession;

use super::{HeadDeadline, h1_framing::RequestFraming};
use crate::server::address_usage::{AddressEntry, BoundedCounter};

/// The client of one connection.
#[derive(Debug)]
pub(crate) struct ConnectionState {
    pub(super) deadline: Arc<HeadDeadline>,
    /// The address that the connection comes from.
    pub(in crate::server) address: Arc<AddressEntry>,
    /// Whether that is one of `server.trusted_proxies`, so that each request names a client of its own.
    pub(in crate::server) is_proxy: bool,
    /// HTTP/2: requests whose body has not arrived to its end.
    pub(in crate::server) incomplete_requests: BoundedCounter,
    /// HTTP/1.1: what is wrong with the request under way, that the library does not say.
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

    /// Takes over what was found so far in the request under way.
    pub(super) fn note_syntax(&self, framing: &RequestFraming) {
        self.is_request_line_irregular.store(framing.is_request_line_irregular(), Ordering::Relaxed);
        self.is_body_malformed.store(framing.is_malformed(), Ordering::Relaxed);
        if framing.is_endless() {
            self.close_after_this();
        }
    }

    /// Notes that the HTTP/1.1 request under way is the last of its connection.
    pub(super) fn close_after_this(&self) {
        self.must_close.store(true, Ordering::Relaxed);
    }

    /// Whether the HTTP/1.1 request under way is the last of its connection: its head does not say where it ends, or more
    /// of the next ones has arrived than is kept.
    pub(in crate::server) fn must_close(&self) -> bool {
        self.must_close.load(Ordering::Relaxed)
    }

    /// Whether the HTTP/1.1 library sees another request line than the one that arrived.
    pub(in crate::server) fn is_request_line_irregular(&self) -> bool {
        self.is_request_line_irregular.load(Ordering::Relaxed)
    }

    /// Whether the body that arrives is not chunked as RFC 9112, 7.1 writes it.
    pub(in crate::server) fn is_body_malformed(&self) -> bool {
        self.is_body_malformed.load(Ordering::Relaxed)
    }

    /// The client of a request.
    pub(in crate::server) fn of(session: &ServerSession) -> Option<&Arc<Self>> {
        session.digest()?.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref()
    }

    /// The deadline of the HTTP/1.1 connection that a request came by. In HTTP/2 the frames themselves
    /// say when a head begins and ends, and other requests are under way beside this one.
    pub(in crate::server) fn head_deadline(session: &ServerSession) -> Option<&HeadDeadline> {
        session.as_http1()?;
        Self::of(session).map(|client| client.deadline.as_ref())
    }
}

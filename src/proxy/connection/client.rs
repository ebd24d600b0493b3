//! What the requests of one connection share: whose it is, its clock, how many of its requests are incomplete.

use std::sync::Arc;

use pingora::protocols::http::ServerSession;

use super::HeadClock;
use crate::proxy::addresses::{Address, Counter};

/// The client of one connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(super) clock: Arc<HeadClock>,
    /// The address that the connection comes from.
    pub(in crate::proxy) address: Arc<Address>,
    /// Whether that is one of `server.trusted_proxies`, so that each request names a client of its own.
    pub(in crate::proxy) is_proxy: bool,
    /// HTTP/2: requests whose body has not arrived to its end.
    pub(in crate::proxy) incomplete_requests: Counter,
}

impl Client {
    pub(in crate::proxy) fn new(clock: Arc<HeadClock>, address: Arc<Address>, is_proxy: bool) -> Arc<Self> {
        Arc::new(Self { clock, address, is_proxy, incomplete_requests: Counter::default() })
    }

    /// The client of a request.
    pub(in crate::proxy) fn of(session: &ServerSession) -> Option<&Arc<Self>> {
        session.digest()?.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref()
    }

    /// The clock of the HTTP/1.1 connection that a request came by. In HTTP/2 the frames themselves
    /// say when a head begins and ends, and other requests are under way beside this one.
    pub(in crate::proxy) fn head_clock(session: &ServerSession) -> Option<&HeadClock> {
        session.as_http1()?;
        Self::of(session).map(|client| client.clock.as_ref())
    }
}

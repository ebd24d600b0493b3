//! Where each request of a connection begins, before its head is there.
//!
//! Stands before the library's proxy, and owns what lies between two requests in HTTP/1.1, where a connection holds
//! nothing but itself: the library's own loop makes the room for the next request, and the buffer for its head, as soon
//! as the one before is done. What lies between them in HTTP/2 is the library's.

use std::{net::IpAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use pingora::{
    apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream, ServerApp},
    protocols::{Stream, http::ServerSession},
    proxy::HttpProxy,
    server::ShutdownWatch,
};

use super::{Proxy, Runtime, connection::Connection, connection_limit::AddressPolicy};
use crate::gateway::limits::client_address::owner;

/// Seconds for any part of a connection's first head, as in the library; all of it has `timeouts.client_head`.
const FIRST_READ_TIMEOUT_SECS: u64 = 60;

/// The library's proxy, with its entrance watched.
pub struct ConnectionServer {
    proxy: Arc<HttpProxy<Proxy>>,
    runtime: Arc<ArcSwap<Runtime>>,
}

impl ConnectionServer {
    /// In front of `proxy`, with the times of what is in `runtime`.
    #[must_use]
    pub fn new(proxy: HttpProxy<Proxy>, runtime: Arc<ArcSwap<Runtime>>) -> Self {
        Self { proxy: Arc::new(proxy), runtime }
    }

    /// How long a client may take nothing of what is written to it.
    pub(super) fn write_timeout(&self) -> Duration {
        self.runtime.load().timeouts.client_write
    }

    /// What the configuration says of the connections from one address.
    pub(super) fn address_policy(&self, client: IpAddr) -> AddressPolicy {
        let runtime = self.runtime.load();
        if runtime.gate.bounds.is_proxy(client) {
            return AddressPolicy { is_proxy: true, connections: None };
        }
        AddressPolicy { is_proxy: false, connections: runtime.gate.limits.of_address(owner(client)).connections }
    }

    /// Serves a connection until it ends.
    pub(super) async fn serve(&self, mut connection: Box<Connection>, stop: &mut ShutdownWatch) {
        match connection.is_http2().await {
            Ok(true) => drop(self.proxy.process_new(connection, stop).await),
            Ok(false) => self.serve_http1(connection, stop).await,
            // Gone before it said anything.
            Err(_) => {}
        }
    }

    /// Closes connections that have not sent the whole head of a request.
    pub async fn close_incomplete(&self) {
        self.proxy.http_cleanup().await;
    }

    /// Serves the requests of HTTP/1.1, one after the other.
    async fn serve_http1(&self, connection: Box<Connection>, stop: &mut ShutdownWatch) {
        let mut session = ServerSession::new_http1(connection);
        session.set_keepalive((!*stop.borrow()).then_some(FIRST_READ_TIMEOUT_SECS));
        let mut done = self.proxy.process_new_http(session, stop).await;
        while let Some((stream, settings)) = done.map(ReusedHttpStream::consume) {
            let Some(stream) = self.wait_for_next_request(stream, stop).await else { return };
            done = self.proxy.process_new_http(next_session(stream, settings), stop).await;
        }
    }

    /// Waits until the next request begins. There is none when the client has gone, or the gateway stops. The library has
    /// seen nothing of it before: with pipelining off, it ends a connection of which it has read more than one request.
    async fn wait_for_next_request(&self, stream: Stream, stop: &mut ShutdownWatch) -> Option<Stream> {
        let mut connection = stream.into_any().downcast::<Connection>().ok()?;
        let idle_timeout = self.runtime.load().timeouts.idle;
        let has_begun = tokio::select! {
            // What has arrived is served, even if it is also time to end.
            biased;
            has_begun = connection.wait_for_request(idle_timeout) => has_begun,
            _ = stop.wait_for(|stop| *stop) => false,
        };
        if has_begun { Some(connection) } else { None }
    }
}

/// The session of a request after the first.
fn next_session(stream: Stream, settings: Option<HttpPersistentSettings>) -> ServerSession {
    let mut session = ServerSession::new_http1(stream);
    if let Some(settings) = settings {
        settings.apply_to_session(&mut session);
    }
    session
}

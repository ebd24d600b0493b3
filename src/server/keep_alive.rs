//! Serves a connection: the loop over its requests, and the idle time between them.
//!
//! For HTTP/1.1, the loop replaces Pingora's. Pingora allocates the next request's state and head buffer as soon as a response is
//! done; here, an idle connection holds no buffers. HTTP/2 connections use Pingora's loop.

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

/// Timeout of each read of the first head, as in Pingora. `timeouts.client_head` limits the whole head.
const FIRST_READ_TIMEOUT_SECS: u64 = 60;

/// Serves connections with Pingora's proxy.
pub struct ConnectionServer {
    proxy: Arc<HttpProxy<Proxy>>,
    runtime: Arc<ArcSwap<Runtime>>,
}

impl ConnectionServer {
    /// Creates a server that uses the timeouts of the current `runtime`.
    #[must_use]
    pub fn new(proxy: HttpProxy<Proxy>, runtime: Arc<ArcSwap<Runtime>>) -> Self {
        Self { proxy: Arc::new(proxy), runtime }
    }

    /// Timeout of a pending write to a client.
    pub(super) fn write_timeout(&self) -> Duration {
        self.runtime.load().timeouts.client_write
    }

    /// How the configuration treats connections from `client`.
    pub(super) fn address_policy(&self, client: IpAddr) -> AddressPolicy {
        let runtime = self.runtime.load();
        if runtime.client_addresses.is_trusted_proxy(client) {
            return AddressPolicy { is_proxy: true, connections: None };
        }
        AddressPolicy { is_proxy: false, connections: runtime.limits.for_address(owner(client)).connections }
    }

    /// Serves a connection until it ends.
    pub(super) async fn serve(&self, mut connection: Box<Connection>, stop: &mut ShutdownWatch) {
        match connection.is_http2().await {
            Ok(true) => drop(self.proxy.process_new(connection, stop).await),
            Ok(false) => self.serve_http1(connection, stop).await,
            // The client disconnected before it sent anything.
            Err(_) => {}
        }
    }

    /// Closes connections whose request head is incomplete.
    pub async fn close_incomplete(&self) {
        self.proxy.http_cleanup().await;
    }

    /// Serves the HTTP/1.1 requests of a connection one after the other.
    async fn serve_http1(&self, connection: Box<Connection>, stop: &mut ShutdownWatch) {
        let mut session = ServerSession::new_http1(connection);
        session.set_keepalive((!*stop.borrow()).then_some(FIRST_READ_TIMEOUT_SECS));
        let mut done = self.proxy.process_new_http(session, stop).await;
        while let Some((stream, settings)) = done.map(ReusedHttpStream::consume) {
            let Some(stream) = self.wait_for_next_request(stream, stop).await else { return };
            done = self.proxy.process_new_http(next_session(stream, settings), stop).await;
        }
    }

    /// Waits for the next request. Returns `None` if the client disconnects or the gateway stops. Pingora has not read any byte of
    /// the next request: without pipelining, it would close a connection on which it read more than one.
    async fn wait_for_next_request(&self, stream: Stream, stop: &mut ShutdownWatch) -> Option<Stream> {
        let mut connection = stream.into_any().downcast::<Connection>().ok()?;
        let idle_timeout = self.runtime.load().timeouts.idle;
        let has_begun = tokio::select! {
            // A request that has arrived is served even if the gateway stops.
            biased;
            has_begun = connection.wait_for_request(idle_timeout) => has_begun,
            _ = stop.wait_for(|stop| *stop) => false,
        };
        if has_begun { Some(connection) } else { None }
    }
}

/// The session of a later request on a connection.
fn next_session(stream: Stream, settings: Option<HttpPersistentSettings>) -> ServerSession {
    let mut session = ServerSession::new_http1(stream);
    if let Some(settings) = settings {
        settings.apply_to_session(&mut session);
    }
    session
}

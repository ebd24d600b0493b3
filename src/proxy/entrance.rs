//! Where each request of a connection begins, before its head is there.
//!
//! Stands before the library's proxy and passes everything on. It knows one thing that no phase of a
//! request does: that the one before is done, the rest of its body thrown away, and the next is awaited.

use std::{pin::Pin, sync::Arc};

use async_trait::async_trait;
use pingora::{
    apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream},
    protocols::http::{ServerSession, v2::server::H2Options},
    proxy::{HttpProxy, ProxyHttp},
    server::ShutdownWatch,
};

use super::connection::HeadClock;

/// The library's proxy, with its entrance watched.
pub struct Entrance<P>(pub Arc<HttpProxy<P>>);

#[async_trait]
impl<P> HttpServerApp for Entrance<P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    // Written out, so that the library's future is passed on as it is: another one around it would be as large, and
    // would be copied as often.
    fn process_new_http<'proxy, 'watch, 'request>(
        self: &'proxy Arc<Self>,
        session: ServerSession,
        shutdown: &'watch ShutdownWatch,
    ) -> Pin<Box<dyn Future<Output = Option<ReusedHttpStream>> + Send + 'request>>
    where
        'proxy: 'request,
        'watch: 'request,
        Self: 'request,
    {
        if let Some(clock) = HeadClock::of(&session) {
            clock.request_done();
        }
        self.0.process_new_http(session, shutdown)
    }

    fn h2_options(&self) -> Option<H2Options> {
        self.0.h2_options.clone()
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.0.server_options.as_ref()
    }

    async fn http_cleanup(&self) {
        self.0.http_cleanup().await;
    }
}

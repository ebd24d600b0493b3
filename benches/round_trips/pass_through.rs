//! The least that Pingora can do, in its own defaults: what everything else is measured against.

use async_trait::async_trait;
use pingora::{
    Result,
    proxy::{ProxyHttp, Session, http_proxy_service},
    server::Server,
    upstreams::peer::HttpPeer,
};

struct PassThrough {
    upstream: String,
}

#[async_trait]
impl ProxyHttp for PassThrough {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _session: &mut Session, _context: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(&self.upstream, false, String::new())))
    }
}

/// Serves at `listen` until killed.
pub fn serve(listen: &str, upstream: &str) -> ! {
    let mut server = Server::new(None).expect("the library's defaults");
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, PassThrough { upstream: upstream.to_owned() });
    service.add_tcp(listen);
    server.add_service(service);
    server.run_forever()
}

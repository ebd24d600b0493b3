//! The least that Pingora can do, in its own defaults: what everything else is measured against. With the feature `tuned`,
//! the same as lean as the library lets it be, to tell what the library costs from what is done with it.
//!
//! `pass-through LISTEN UPSTREAM`

use std::sync::Arc;

use async_trait::async_trait;
use pingora::{
    Result,
    listeners::ListenerConfig,
    prelude::Opt,
    protocols::l4::stream::L4BufferSettings,
    proxy::{ProxyHttp, Session, http_proxy_service},
    server::{Server, configuration::ServerConf},
    upstreams::peer::HttpPeer,
};

#[cfg(feature = "tuned")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TUNED: bool = cfg!(feature = "tuned");

struct PassThrough {
    upstream: String,
}

#[async_trait]
impl ProxyHttp for PassThrough {
    type CTX = ();

    fn new_ctx(&self) {}

    /// The library's own has a module for compression.
    #[cfg(feature = "tuned")]
    fn init_downstream_modules(&self, _modules: &mut pingora::modules::http::HttpModules) {}

    async fn upstream_peer(&self, _session: &mut Session, _context: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(&self.upstream, false, String::new())))
    }
}

fn main() -> std::result::Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, upstream] = arguments.as_slice() else { return Err("pass-through LISTEN UPSTREAM".to_owned()) };
    let mut server = Server::new(None::<Opt>).map_err(|error| error.to_string())?;
    if TUNED {
        server.configuration = Arc::new(ServerConf { work_stealing: false, ..ServerConf::default() });
    }
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, PassThrough { upstream: upstream.clone() });
    let mut listener = ListenerConfig::tcp(listen);
    if TUNED {
        listener = listener.l4_buffer(L4BufferSettings { read: Some(0), write: None });
    }
    service.add_listener(listener);
    server.add_service(service);
    server.run_forever()
}

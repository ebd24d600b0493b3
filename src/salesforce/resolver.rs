//! Name resolution of the gateway's own calls, by the operating system.
//!
//! Its errors are told from other errors of connecting, and a host that was written with the root's dot is looked up with it.

use std::net::SocketAddr;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::{connect_failure::ResolutionError, host};

/// Resolves the names of one server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Resolver {
    is_absolute: bool,
}

impl Resolver {
    /// For a server whose name is an absolute one, or not.
    pub(super) fn new(is_absolute: bool) -> Self {
        Self { is_absolute }
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let name = host::lookup_name(name.as_str(), self.is_absolute);
        Box::pin(async move {
            // The library puts the port in.
            let addresses = tokio::net::lookup_host((name, 0)).await.map_err(ResolutionError)?;
            let addresses: Vec<SocketAddr> = addresses.collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

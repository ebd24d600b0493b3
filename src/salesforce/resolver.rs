//! DNS resolution of the gateway's own calls, by the operating system.
//!
//! Its errors have their own type, so the log can tell them from other connection errors. A host name with a trailing dot is
//! resolved as an absolute name.

use std::net::SocketAddr;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::{connect_failure::ResolutionError, host};

/// Resolves the name of one server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Resolver {
    is_absolute: bool,
}

impl Resolver {
    /// Creates a resolver. `is_absolute` adds the trailing dot to names.
    pub(super) fn new(is_absolute: bool) -> Self {
        Self { is_absolute }
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let name = host::lookup_name(name.as_str(), self.is_absolute);
        Box::pin(async move {
            // The library replaces the port.
            let addresses = tokio::net::lookup_host((name, 0)).await.map_err(ResolutionError)?;
            let addresses: Vec<SocketAddr> = addresses.collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

//! An organization's API: its addresses and the options of connections to it.
//!
//! The host is always the configured one. After the first resolution, names are resolved in the background; if a resolution fails,
//! the last addresses stay in use. An address that refuses connections is skipped for a while, because a name often has
//! addresses of a family that this machine has no route to.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use http::HeaderValue;
use pingora::{
    protocols::tls::CaType,
    upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy},
    utils::tls::{WrappedX509, parse_x509},
};
use rustls::pki_types::CertificateDer;
use url::{Host, Url};

use crate::{
    config::Timeouts,
    connect_failure::{ConnectFailure, LogThrottle},
    host::{has_root_dot, lookup_name, url_without_root_dot},
};

/// How long resolved addresses are used before the next resolution.
const ADDRESS_TTL: Duration = Duration::from_secs(30);
/// How long an unreachable address is skipped while the name has others.
const UNREACHABLE_TTL: Duration = Duration::from_secs(10);
/// Maximum concurrent streams of one HTTP/2 connection.
const MAX_STREAMS_PER_CONNECTION: usize = 100;

/// One organization's API as a destination of requests.
#[derive(Debug)]
pub struct Upstream {
    /// The host as in its certificate, without the root dot.
    host: String,
    /// The host as it is looked up in DNS.
    lookup_name: String,
    /// The host, if it is an IP address.
    literal: Option<IpAddr>,
    port: u16,
    tls: bool,
    authority: HeaderValue,
    authorities: Option<Arc<CaType>>,
    /// Separates its connections from those to the same server that other authorities verified.
    group: u64,
    timeouts: Timeouts,
    resolved: ArcSwap<ResolvedAddresses>,
    resolving: AtomicBool,
    turn: AtomicUsize,
    unreachable: ArcSwap<Vec<(SocketAddr, Instant)>>,
    failure_log: LogThrottle,
}

#[derive(Debug, Default)]
struct ResolvedAddresses {
    addresses: Vec<SocketAddr>,
    at: Option<Instant>,
}

/// Why an upstream cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The URL has no host that is a valid header value. The configuration is checked for this.
    #[error("the API's URL has no usable host")]
    Host,
}

/// The API's host name has no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the API's host name cannot be resolved")]
pub struct UnresolvedHost;

impl Upstream {
    /// The API at `url` (origin only). Trusts only `authorities` if given, each of which must be readable (`certificates`). Otherwise
    /// it trusts the system's authorities, which Pingora read when the process started.
    ///
    /// # Errors
    /// Returns [`UpstreamError`] if the URL has no usable host.
    pub fn new(
        url: &Url,
        authorities: Option<&[CertificateDer<'_>]>,
        timeouts: &Timeouts,
    ) -> Result<Self, UpstreamError> {
        let is_absolute = has_root_dot(url);
        let url = &url_without_root_dot(url);
        let host = match url.host().ok_or(UpstreamError::Host)? {
            Host::Domain(name) => name.to_owned(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        };
        let bracketed = url.host_str().ok_or(UpstreamError::Host)?;
        let authority = url.port().map_or_else(|| bracketed.to_owned(), |port| format!("{bracketed}:{port}"));
        let authorities = authorities.map(library_authorities);
        Ok(Self {
            literal: host.parse().ok(),
            group: connection_group(authorities.as_deref()),
            port: url.port_or_known_default().ok_or(UpstreamError::Host)?,
            tls: url.scheme() == "https",
            authority: HeaderValue::from_str(&authority).map_err(|_| UpstreamError::Host)?,
            authorities,
            timeouts: timeouts.clone(),
            resolved: ArcSwap::default(),
            resolving: AtomicBool::new(false),
            turn: AtomicUsize::new(0),
            unreachable: ArcSwap::default(),
            failure_log: LogThrottle::default(),
            lookup_name: lookup_name(&host, is_absolute),
            host,
        })
    }

    /// `Host` of requests to the API.
    #[must_use]
    pub fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    /// A peer to connect to. Its response has to start within `response_timeout`.
    ///
    /// # Errors
    /// Returns [`UnresolvedHost`] if the host name has no address.
    pub async fn peer(self: &Arc<Self>, response_timeout: Duration) -> Result<Box<HttpPeer>, UnresolvedHost> {
        let address = self.next_address().await?;
        let mut peer = HttpPeer::new(address, self.tls, self.host.clone());
        peer.group_key = self.group;
        let options = &mut peer.options;
        options.connection_timeout = Some(self.timeouts.connect);
        options.total_connection_timeout = Some(self.timeouts.connect * 2);
        options.read_timeout = Some(response_timeout);
        options.write_timeout = Some(response_timeout);
        options.idle_timeout = Some(self.timeouts.idle);
        options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
        options.ca.clone_from(&self.authorities);
        if self.tls {
            options.set_http_version(2, 1);
            options.max_h2_streams = MAX_STREAMS_PER_CONNECTION;
        }
        Ok(Box::new(peer))
    }

    /// The next address, in turn.
    async fn next_address(self: &Arc<Self>) -> Result<SocketAddr, UnresolvedHost> {
        if let Some(address) = self.literal {
            return Ok(SocketAddr::new(address, self.port));
        }
        let resolved = self.resolved.load();
        match resolved.at {
            None => self.resolve().await,
            Some(at) if at.elapsed() > ADDRESS_TTL && !self.resolving.swap(true, Ordering::AcqRel) => {
                let upstream = Arc::clone(self);
                tokio::spawn(async move {
                    upstream.resolve().await;
                    upstream.resolving.store(false, Ordering::Release);
                });
            }
            Some(_) => {}
        }
        let resolved = self.resolved.load();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut in_turn = (0..resolved.addresses.len()).map(|step| (turn + step) % resolved.addresses.len());
        let next = in_turn.clone().find(|index| !self.is_unreachable(&resolved.addresses[*index])).or(in_turn.next());
        next.map(|index| resolved.addresses[index]).ok_or(UnresolvedHost)
    }

    /// Marks an address as unreachable. Returns whether another address is left to try.
    pub fn mark_unreachable(&self, address: SocketAddr) -> bool {
        self.unreachable.rcu(|unreachable| {
            let others = unreachable.iter().filter(|(other, at)| *other != address && at.elapsed() < UNREACHABLE_TTL);
            others.copied().chain([(address, Instant::now())]).collect::<Vec<_>>()
        });
        self.resolved.load().addresses.iter().any(|other| !self.is_unreachable(other))
    }

    fn is_unreachable(&self, address: &SocketAddr) -> bool {
        self.unreachable.load().iter().any(|(unreachable, at)| unreachable == address && at.elapsed() < UNREACHABLE_TTL)
    }

    /// Logs why no connection could be made, at most once per minute and cause.
    pub fn log_failure(&self, cause: ConnectFailure) {
        if self.failure_log.admits(cause) {
            let (host, advice) = (format!("{}:{}", self.host, self.port), cause.advice());
            tracing::warn!(service = "api", host, cause = cause.label(), "no connection: {cause}; {advice}");
        }
    }

    async fn resolve(&self) {
        let lookup = tokio::net::lookup_host((self.lookup_name.as_str(), self.port));
        match tokio::time::timeout(self.timeouts.connect, lookup).await {
            Ok(Ok(addresses)) => {
                self.resolved
                    .store(Arc::new(ResolvedAddresses { addresses: addresses.collect(), at: Some(Instant::now()) }));
            }
            // Without any address the request fails and reports it.
            _ if self.resolved.load().addresses.is_empty() => {}
            Ok(Err(error)) if self.failure_log.admits(ConnectFailure::Unresolved) => {
                tracing::warn!(host = self.host, %error, "host name not resolved, keeping the last addresses")
            }
            Err(_) if self.failure_log.admits(ConnectFailure::Unresolved) => {
                tracing::warn!(host = self.host, "host name resolution timed out, keeping the last addresses")
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }
}

/// The connection group of a set of authorities. By itself, Pingora shares connections by address and name only.
fn connection_group(authorities: Option<&CaType>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for authority in authorities.into_iter().flatten() {
        authority.borrow_raw_cert().hash(&mut hasher);
    }
    hasher.finish()
}

/// The authorities in Pingora's form. Its parser panics over unreadable ones.
fn library_authorities(authorities: &[CertificateDer<'_>]) -> Arc<CaType> {
    authorities.iter().map(|authority| WrappedX509::new(authority.to_vec(), parse_x509)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream_at(url: &str) -> Arc<Upstream> {
        let timeouts = Timeouts {
            upstream: Duration::from_secs(1),
            upstream_admin: Duration::from_secs(1),
            connect: Duration::from_secs(1),
            exchange: Duration::from_secs(1),
            client_head: Duration::from_secs(1),
            client_body: Duration::from_secs(1),
            held_body: Duration::from_secs(1),
            client_write: Duration::from_secs(1),
            idle: Duration::from_secs(1),
            drain: Duration::from_secs(1),
        };
        Arc::new(Upstream::new(&url.parse().unwrap(), None, &timeouts).unwrap())
    }

    #[tokio::test]
    async fn root_dot_is_used_for_dns_only() {
        assert_eq!(upstream_at("https://api.example.").lookup_name, "api.example.");
        assert_eq!(upstream_at("https://api.example").lookup_name, "api.example");
        let upstream = upstream_at("https://localhost.:8443");
        assert_eq!(upstream.authority(), "localhost:8443");
        let peer = upstream.peer(Duration::from_secs(1)).await.unwrap();
        assert_eq!(peer.sni, "localhost");
    }

    #[tokio::test]
    async fn unreachable_address_is_skipped_while_others_exist() {
        let upstream = upstream_at("https://api.example");
        let [one, two]: [SocketAddr; 2] = ["[2001:db8::1]:443".parse().unwrap(), "192.0.2.1:443".parse().unwrap()];
        upstream.resolved.store(Arc::new(ResolvedAddresses { addresses: vec![one, two], at: Some(Instant::now()) }));
        let mut seen = [upstream.next_address().await.unwrap(), upstream.next_address().await.unwrap()];
        seen.sort();
        assert_eq!(seen, [two, one], "each in turn");

        assert!(upstream.mark_unreachable(one), "there is another to try");
        for _ in 0..4 {
            assert_eq!(upstream.next_address().await, Ok(two));
        }
        assert!(!upstream.mark_unreachable(two), "there is none left to try");
        assert!(upstream.next_address().await.is_ok(), "but a later request tries again");
    }
}

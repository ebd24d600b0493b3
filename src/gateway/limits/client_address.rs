//! The client address that a request counts for.
//!
//! Any client can write `X-Forwarded-For`, so the gateway reads only the entries that configured proxies wrote. The address is used
//! for counting only: it grants nothing, and no log contains it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The proxies in front of the gateway whose `X-Forwarded-For` it trusts.
#[derive(Debug)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// The proxies of `server.trusted_proxies`.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Returns the [`owner`] of the address that a request counts for: the peer of the connection, or the last address of
    /// `X-Forwarded-For` that is not a trusted proxy. A request with an unreadable entry counts for the proxy that wrote the entry.
    #[must_use]
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        owner(self.last_untrusted(peer, headers))
    }

    fn last_untrusted(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let fields = headers.get_all(FORWARDED_FOR).into_iter().rev();
        let entries = fields.flat_map(|field| field.to_str().unwrap_or_default().rsplit(','));
        for text in entries {
            if !self.includes(client) {
                break;
            }
            let Some(before) = parse(text) else { break };
            client = before;
        }
        client
    }

    /// Whether an address belongs to a trusted proxy.
    #[must_use]
    pub fn includes(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// Parses an address as proxies write it: alone, in brackets, or with a port.
fn parse(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let alone = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = alone.parse().or_else(|_| text.parse().map(|address: SocketAddr| address.ip()));
    address.ok().map(|address| address.to_canonical())
}

/// Returns the addresses that one client controls: an IPv4 address, or the first address of an IPv6 /64.
#[must_use]
pub fn owner(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn client(proxies: &[&str], peer: &str, fields: &[&str]) -> String {
        let proxies = TrustedProxies::new(proxies.iter().map(|network| network.parse().unwrap()).collect());
        let fields = fields.iter().map(|field| (FORWARDED_FOR, HeaderValue::from_str(field).unwrap()));
        proxies.last_untrusted(peer.parse().unwrap(), &fields.collect()).to_string()
    }

    #[test]
    fn forwarded_for_of_untrusted_peer_is_ignored() {
        assert_eq!(client(&[], "192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(client(&["10.0.0.0/8"], "192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(client(&["10.0.0.0/8"], "10.1.1.1", &[]), "10.1.1.1");
    }

    #[test]
    fn last_untrusted_address_is_the_client() {
        let proxies = ["10.0.0.0/8", "2001:db8:1::/48"];
        for (fields, expected) in [
            (&["198.51.100.7"][..], "198.51.100.7"),
            (&["1.1.1.1, 198.51.100.7"], "198.51.100.7"),
            (&["1.1.1.1", "198.51.100.7, 10.2.2.2"], "198.51.100.7"),
            (&["1.1.1.1, 198.51.100.7", "10.2.2.2 , 2001:db8:1::5"], "198.51.100.7"),
            (&["10.9.9.9, 10.2.2.2"], "10.9.9.9"),
            (&["198.51.100.7:4711"], "198.51.100.7"),
            (&["[2001:db8::7]:4711"], "2001:db8::7"),
            (&["[2001:db8::7]"], "2001:db8::7"),
            (&["::ffff:198.51.100.7"], "198.51.100.7"),
            (&["198.51.100.7, unknown"], "10.1.1.1"),
            (&["198.51.100.7, unknown, 10.2.2.2"], "10.2.2.2"),
            (&["198.51.100.7,"], "10.1.1.1"),
        ] {
            assert_eq!(client(&proxies, "::ffff:10.1.1.1", fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn ipv6_network_is_one_client() {
        let owner = |text: &str| owner(text.parse().unwrap());
        assert_eq!(owner("2001:db8::1"), owner("2001:db8::ffff:1:1:1"));
        assert_ne!(owner("2001:db8::1"), owner("2001:db8:0:1::1"));
        assert_eq!(owner("::ffff:192.0.2.1"), owner("192.0.2.1"));
        assert_ne!(owner("192.0.2.1"), owner("192.0.2.2"));
    }
}

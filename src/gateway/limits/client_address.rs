//! The client address that a request counts for.
//!
//! Any client can write `X-Forwarded-For` or another header, so the gateway reads only what configured proxies and storefront servers
//! wrote. The address is used for counting only: it grants nothing, and no log contains it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use crate::config::NetworkLimits;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Finds the address that a request counts for.
#[derive(Debug)]
pub struct ClientAddresses {
    /// The proxies whose `X-Forwarded-For` is trusted.
    proxies: Vec<IpNet>,
    /// The networks whose addresses name the client in a header of their own, the longest prefix first.
    naming: Vec<(IpNet, Option<HeaderName>)>,
}

impl ClientAddresses {
    /// Reads what these proxies (`server.trusted_proxies`) and networks (`limits.networks`, the longest prefix first) write.
    #[must_use]
    pub fn new(proxies: &[IpNet], networks: &[NetworkLimits]) -> Self {
        let names_clients = networks.iter().any(|own| own.client_address_header.is_some());
        let naming = networks.iter().filter(|_| names_clients);
        let naming = naming.map(|own| (own.network, own.client_address_header.clone())).collect();
        Self { proxies: proxies.to_vec(), naming }
    }

    /// Returns the [`owner`] of the address that a request counts for: the peer of the connection, or the last address of
    /// `X-Forwarded-For` that is not a trusted proxy. If the network of this address has a `client_address_header`, it is the address in
    /// that header. A request with an unreadable entry counts for the proxy or server that wrote the entry.
    #[must_use]
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let sender = self.last_untrusted(peer, headers);
        owner(self.named_by(sender, headers).unwrap_or(sender))
    }

    /// The address in the header of a network that contains `sender`. A storefront's server that renders a page calls itself, so a
    /// loopback address names no client.
    fn named_by(&self, sender: IpAddr, headers: &HeaderMap) -> Option<IpAddr> {
        let (_, header) = self.naming.iter().find(|(network, _)| network.contains(&owner(sender)))?;
        let mut fields = headers.get_all(header.as_ref()?).into_iter();
        let field = fields.next().filter(|_| fields.next().is_none())?;
        parse(field.to_str().ok()?).filter(|named| !named.is_loopback() && !named.is_unspecified())
    }

    fn last_untrusted(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let fields = headers.get_all(FORWARDED_FOR).into_iter().rev();
        let entries = fields.flat_map(|field| field.to_str().unwrap_or_default().rsplit(','));
        for text in entries {
            if !self.is_trusted_proxy(client) {
                break;
            }
            let Some(before) = parse(text) else { break };
            client = before;
        }
        client
    }

    /// Whether an address belongs to a trusted proxy.
    #[must_use]
    pub fn is_trusted_proxy(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.proxies.iter().any(|network| network.contains(&address))
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
    use crate::config::AddressLimits;

    fn client(proxies: &[&str], peer: &str, fields: &[&str]) -> String {
        let proxies: Vec<_> = proxies.iter().map(|network| network.parse().unwrap()).collect();
        let addresses = ClientAddresses::new(&proxies, &[]);
        let fields = fields.iter().map(|field| (FORWARDED_FOR, HeaderValue::from_str(field).unwrap()));
        addresses.last_untrusted(peer.parse().unwrap(), &fields.collect()).to_string()
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
    fn header_of_listed_network_names_the_client() {
        let network = |network: &str, header: Option<&'static str>| NetworkLimits {
            network: network.parse().unwrap(),
            client_address_header: header.map(HeaderName::from_static),
            per_address: AddressLimits::default(),
        };
        let networks = [network("203.0.113.9/32", None), network("203.0.113.0/24", Some("x-client-ip"))];
        let addresses = ClientAddresses::new(&["10.0.0.0/8".parse().unwrap()], &networks);
        let client = |peer: &str, forwarded_for: &'static str, named: &[&'static str]| {
            let named = named.iter().map(|named| (HeaderName::from_static("x-client-ip"), *named));
            let fields = [(FORWARDED_FOR, forwarded_for)].into_iter().filter(|(_, value)| !value.is_empty());
            let fields = fields.chain(named).map(|(name, value)| (name, HeaderValue::from_static(value)));
            addresses.client(peer.parse().unwrap(), &fields.collect()).to_string()
        };
        let server = "203.0.113.7";
        for (peer, forwarded_for, named, expected) in [
            (server, "", &["198.51.100.1"][..], "198.51.100.1"),
            (server, "", &["[2001:db8::7]:4711"], "2001:db8::"),
            (server, "198.51.100.2", &[], server),
            (server, "", &[], server),
            (server, "", &["198.51.100.1", "198.51.100.2"], server),
            (server, "", &["198.51.100.1, 198.51.100.2"], server),
            (server, "", &["unknown"], server),
            (server, "", &["127.0.0.1"], server),
            (server, "", &["::1"], server),
            (server, "", &["0.0.0.0"], server),
            ("10.1.1.1", server, &["198.51.100.1"], "198.51.100.1"),
            ("10.1.1.1", "198.51.100.5", &["198.51.100.1"], "198.51.100.5"),
            ("198.51.100.5", "", &["198.51.100.1"], "198.51.100.5"),
            ("203.0.113.9", "", &["198.51.100.1"], "203.0.113.9"),
        ] {
            assert_eq!(client(peer, forwarded_for, named), expected, "{peer} {forwarded_for} {named:?}");
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

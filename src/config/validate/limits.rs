//! Validates `[limits]`.
//!
//! For limits per address, 0 means no limit. Sizes for all clients together must be greater than zero.

use http::HeaderName;

use super::table::{MINUTE, Table};
use crate::config::{AddressLimits, Limits, NetworkLimits, SlasCalls, file};

/// Default of `connections_per_address`: a tenth of the default for all clients.
const DEFAULT_CONNECTIONS_PER_ADDRESS: usize = 1000;
/// IPv6 clients are counted by this prefix, so longer prefixes cannot have their own limits.
const IPV6_CLIENT_PREFIX_LENGTH: u8 = 64;
const MAX_SIZE: u64 = 1 << 30;
/// Size of the largest form that the gateway reads, in bytes.
const MAX_FORM_SIZE: usize = 64 * 1024;
/// Failed logins per minute of a storefront's server: fifty times the default of an address.
const STOREFRONT_SERVER_FAILED_LOGINS: u32 = 3000;
/// Header fields that every request may have, and `Forwarded`, whose format the gateway does not read.
const NOT_ADDRESS_HEADERS: [&str; 5] = ["authorization", "cookie", "forwarded", "host", "user-agent"];
/// Pingora rejects larger heads.
const MAX_HEAD_SIZE: u64 = 1 << 20;

pub(super) fn limits(raw: &file::Limits, logins: &file::Logins, table: &mut Table<'_>) -> Limits {
    let max_header_bytes = table.size("max_header_bytes", &raw.max_header_bytes, MAX_HEAD_SIZE);
    let max_uri_bytes = table.size("max_uri_bytes", &raw.max_uri_bytes, MAX_HEAD_SIZE);
    if let (Some(max_header_bytes), Some(max_uri_bytes)) = (max_header_bytes, max_uri_bytes)
        && max_uri_bytes > max_header_bytes
    {
        table.error("max_uri_bytes", "greater than limits.max_header_bytes, which includes the URI; lower it");
    }
    if raw.connections_per_address.is_some_and(|per_address| per_address > raw.connections) {
        table.error("connections_per_address", "greater than limits.connections, so it has no effect; lower it");
    }
    let held_bodies = table.size("held_bodies", &raw.held_bodies, u64::MAX);
    if held_bodies.is_some_and(|bytes| bytes < MAX_FORM_SIZE) {
        table.warn("held_bodies", "less than 64KiB, so a large login form gets 503 overloaded; raise it");
    }
    let per_address = AddressLimits {
        connections: limit_or_none(raw.connections_per_address.unwrap_or(DEFAULT_CONNECTIONS_PER_ADDRESS)),
        requests: limit_or_none(raw.requests_per_address),
        incomplete_requests: limit_or_none(raw.incomplete_requests_per_address),
        held_bodies: table.size("held_bodies_per_address", &raw.held_bodies_per_address, u64::MAX),
        slas_calls: limit_or_none(raw.slas_calls_per_address).map(SlasCalls::Shared),
        guests: limit_or_none(logins.guests_per_address),
        failed_logins: limit_or_none(logins.failed_per_address),
        failed_logins_per_id: limit_or_none(logins.failed_per_address_and_login),
    };
    let mut limits = Limits {
        body: table.size("body", &raw.body, MAX_SIZE).unwrap_or_default(),
        min_body_rate: table.size("min_body_rate", &raw.min_body_rate, MAX_SIZE).unwrap_or_default(),
        max_header_bytes: max_header_bytes.unwrap_or_default(),
        max_headers: raw.max_headers,
        max_uri_bytes: max_uri_bytes.unwrap_or_default(),
        connections: raw.connections,
        requests: raw.requests,
        incomplete_requests: raw.incomplete_requests,
        held_bodies: held_bodies.unwrap_or(usize::MAX),
        max_concurrent_requests: raw.max_concurrent_requests,
        queue_timeout: table.duration("queue_timeout", &raw.queue_timeout, MINUTE).unwrap_or_default(),
        per_address,
        networks: Vec::new(),
    };
    let AddressLimits { requests, incomplete_requests, held_bodies, .. } = per_address;
    warn_if_greater([None, requests, incomplete_requests, held_bodies], &limits, table);
    for (position, raw) in raw.networks.iter().enumerate() {
        let table = &mut table.table(&format!("networks[{position}]"));
        let Some(own) = network(raw, &limits, table) else { continue };
        if limits.networks.iter().any(|other| other.network == own.network) {
            table.error("network", "duplicate network; merge the two entries");
        }
        limits.networks.push(own);
    }
    limits.networks.sort_by_key(|own| std::cmp::Reverse(own.network.prefix_len()));
    limits
}

/// Adds a warning if no entry names the servers of the storefronts. Only for a gateway without TLS and trusted proxies: browsers hardly
/// connect to it without something in between.
pub(super) fn warn_if_shoppers_share_an_address(raw: &file::Limits, table: &mut Table<'_>) {
    if !raw.networks.iter().any(|own| own.storefront_server || own.client_address_header.is_some()) {
        table.warn(
            "networks",
            "no entry has storefront_server or client_address_header, and server.trusted_proxies is empty, so all shoppers behind a \
             storefront's server count as one address, and 60 wrong passwords a minute of one attacker block the logins of all; list \
             the server here with storefront_server = true, or a load balancer in server.trusted_proxies",
        );
    }
}

/// Adds a warning for each limit per address in the file that is greater than the limit for all clients together.
fn warn_if_greater(per_address: [Option<usize>; 4], limits: &Limits, table: &mut Table<'_>) {
    let totals = [
        ("connections", limits.connections),
        ("requests", limits.requests),
        ("incomplete_requests", limits.incomplete_requests),
        ("held_bodies", limits.held_bodies),
    ];
    for (per_address, (name, total)) in per_address.into_iter().zip(totals) {
        if per_address.is_some_and(|per_address| per_address > total) {
            let message = format!("greater than limits.{name}, so one address can use the whole limit; lower it");
            table.warn(&format!("{name}_per_address"), message);
        }
    }
}

/// Validates one network. Its limits are those of the file, or else those for all addresses.
fn network(raw: &file::Network, limits: &Limits, table: &mut Table<'_>) -> Option<NetworkLimits> {
    let network = table.network("network", raw.network.as_deref().unwrap_or_default()).map(|network| network.trunc());
    if network.is_some_and(|network| network.addr().is_ipv6() && network.prefix_len() > IPV6_CLIENT_PREFIX_LENGTH) {
        table.error("network", "prefix longer than /64; IPv6 clients are counted per /64 network");
    }
    let held_bodies = match &raw.held_bodies_per_address {
        Some(file::Size::Bytes(0)) => Some(None),
        Some(file::Size::Text(text)) if text.trim() == "0" => Some(None),
        Some(size) => Some(table.size("held_bodies_per_address", size, u64::MAX)),
        None => None,
    };
    let (requests, incomplete) = (raw.requests_per_address, raw.incomplete_requests_per_address);
    warn_if_greater([raw.connections_per_address, requests, incomplete, held_bodies.flatten()], limits, table);
    let header = raw.client_address_header.as_deref();
    let client_address_header = header.and_then(|name| client_address_header(name, table));
    let defaults = if raw.storefront_server { storefront_server(limits) } else { limits.per_address };
    let per_address = AddressLimits {
        connections: raw.connections_per_address.map_or(defaults.connections, limit_or_none),
        requests: raw.requests_per_address.map_or(defaults.requests, limit_or_none),
        incomplete_requests: raw.incomplete_requests_per_address.map_or(defaults.incomplete_requests, limit_or_none),
        held_bodies: held_bodies.unwrap_or(defaults.held_bodies),
        slas_calls: match raw.slas_calls_per_address {
            Some(calls) => limit_or_none(calls).map(SlasCalls::Exactly),
            None => defaults.slas_calls,
        },
        guests: raw.guests_per_address.map_or(defaults.guests, limit_or_none),
        failed_logins: raw.failed_per_address.map_or(defaults.failed_logins, limit_or_none),
        failed_logins_per_id: raw.failed_per_address_and_login.map_or(defaults.failed_logins_per_id, limit_or_none),
    };
    if raw.has_no_effect() {
        table.error("network", "this entry sets no limit; add one, or remove the entry");
    }
    Some(NetworkLimits { network: network?, client_address_header, per_address })
}

/// The limits of a storefront's server unless its entry sets others. Strangers reach the gateway through the server, so no server may use
/// up what all clients share.
fn storefront_server(limits: &Limits) -> AddressLimits {
    AddressLimits {
        connections: None,
        requests: None,
        incomplete_requests: Some((limits.incomplete_requests / 2).max(1)),
        held_bodies: Some((limits.held_bodies / 2).max(1)),
        slas_calls: Some(SlasCalls::Half),
        guests: None,
        failed_logins: Some(STOREFRONT_SERVER_FAILED_LOGINS),
        failed_logins_per_id: None,
    }
}

/// The header field in which the addresses of a network name the client.
fn client_address_header(name: &str, table: &mut Table<'_>) -> Option<HeaderName> {
    let key = "client_address_header";
    match HeaderName::from_bytes(name.as_bytes()) {
        Err(_) => table.error(key, "not the name of a header, e.g. \"X-Client-IP\""),
        Ok(name) if name == "x-forwarded-for" => {
            table.error(
                key,
                "X-Forwarded-For lists several addresses; list the network in server.trusted_proxies instead",
            );
        }
        Ok(name) if NOT_ADDRESS_HEADERS.contains(&name.as_str()) => {
            table.error(key, "this header has another meaning; use one with an address alone, e.g. \"X-Client-IP\"");
        }
        Ok(name) => return Some(name),
    }
    None
}

impl file::Network {
    fn has_no_effect(&self) -> bool {
        let Self {
            network: _,
            storefront_server,
            client_address_header,
            connections_per_address,
            requests_per_address,
            incomplete_requests_per_address,
            held_bodies_per_address,
            slas_calls_per_address,
            guests_per_address,
            failed_per_address,
            failed_per_address_and_login,
        } = self;
        !storefront_server
            && client_address_header.is_none()
            && connections_per_address.or(*requests_per_address).or(*incomplete_requests_per_address).is_none()
            && held_bodies_per_address.is_none()
            && slas_calls_per_address.or(*guests_per_address).is_none()
            && failed_per_address.or(*failed_per_address_and_login).is_none()
    }
}

/// `None` for 0, which means no limit.
fn limit_or_none<T: Default + PartialEq>(number: T) -> Option<T> {
    Some(number).filter(|number| *number != T::default())
}

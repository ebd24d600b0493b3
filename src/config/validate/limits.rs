//! Validates `[limits]`.
//!
//! For limits per address, 0 means no limit. Sizes for all clients together must be greater than zero.

use super::table::{MINUTE, TableValidator};
use crate::config::{AddressLimits, Limits, NetworkLimits, SlasCalls, diagnostics::Diagnostics, file};

/// Default of `connections_per_address`: a tenth of the default for all clients.
const DEFAULT_CONNECTIONS_PER_ADDRESS: usize = 1000;
/// IPv6 clients are counted by this prefix, so longer prefixes cannot have their own limits.
const IPV6_CLIENT_PREFIX_LENGTH: u8 = 64;
const MAX_SIZE: u64 = 1 << 30;
/// Size of the largest form that the gateway reads, in bytes.
const MAX_FORM_SIZE: usize = 64 * 1024;
/// Pingora rejects larger heads.
const MAX_HEAD_SIZE: u64 = 1 << 20;

pub(super) fn limits(raw: &file::Limits, logins: &file::Logins, diagnostics: &mut Diagnostics) -> Option<Limits> {
    let mut table = TableValidator::new("limits", diagnostics);
    let body = table.size("body", &raw.body, MAX_SIZE);
    let min_body_rate = table.size("min_body_rate", &raw.min_body_rate, MAX_SIZE);
    let max_header_bytes = table.size("max_header_bytes", &raw.max_header_bytes, MAX_HEAD_SIZE);
    let max_uri_bytes = table.size("max_uri_bytes", &raw.max_uri_bytes, MAX_HEAD_SIZE);
    let queue_timeout = table.duration("queue_timeout", &raw.queue_timeout, MINUTE);
    if let (Some(max_header_bytes), Some(max_uri_bytes)) = (max_header_bytes, max_uri_bytes)
        && max_uri_bytes > max_header_bytes
    {
        table.error("max_uri_bytes", "greater than limits.max_header_bytes, which includes the URI; lower it");
    }
    if raw.connections_per_address.is_some_and(|per_address| per_address > raw.connections) {
        table.error("connections_per_address", "greater than limits.connections, so it has no effect; lower it");
    }
    let held_bodies = table.size("held_bodies", &raw.held_bodies, u64::MAX);
    let held_bodies_per_address = table.size("held_bodies_per_address", &raw.held_bodies_per_address, u64::MAX);
    let totals = TotalLimits {
        connections: raw.connections,
        requests: raw.requests,
        incomplete_requests: raw.incomplete_requests,
        held_bodies: held_bodies.unwrap_or(usize::MAX),
    };
    if held_bodies.is_some_and(|bytes| bytes < MAX_FORM_SIZE) {
        table.warn("held_bodies", "less than 64KiB, so a large login form gets 503 overloaded; raise it");
    }
    let per_address = AddressLimits {
        connections: limit_or_none(raw.connections_per_address.unwrap_or(DEFAULT_CONNECTIONS_PER_ADDRESS)),
        requests: limit_or_none(raw.requests_per_address),
        incomplete_requests: limit_or_none(raw.incomplete_requests_per_address),
        held_bodies: held_bodies_per_address,
        slas_calls: limit_or_none(raw.slas_calls_per_address).map(SlasCalls::Shared),
        guests: limit_or_none(logins.guests_per_address),
        failed_logins: limit_or_none(logins.failed_per_address),
    };
    let written = [None, per_address.requests, per_address.incomplete_requests, per_address.held_bodies];
    totals.warn_if_greater(written, &mut table);
    let networks = networks(&raw.networks, &per_address, &totals, diagnostics);
    Some(Limits {
        body: body?,
        min_body_rate: min_body_rate?,
        max_header_bytes: max_header_bytes?,
        max_headers: raw.max_headers,
        max_uri_bytes: max_uri_bytes?,
        connections: raw.connections,
        requests: raw.requests,
        incomplete_requests: raw.incomplete_requests,
        held_bodies: held_bodies?,
        max_concurrent_requests: raw.max_concurrent_requests,
        queue_timeout: queue_timeout?,
        per_address: AddressLimits { held_bodies: Some(held_bodies_per_address?), ..per_address },
        networks: networks?,
    })
}

/// Limits for all clients together.
struct TotalLimits {
    connections: usize,
    requests: usize,
    incomplete_requests: usize,
    held_bodies: usize,
}

impl TotalLimits {
    /// Adds a warning for each limit per address in the file that is greater than the limit for all clients.
    fn warn_if_greater(
        &self,
        [connections, requests, incomplete_requests, held_bodies]: [Option<usize>; 4],
        table: &mut TableValidator<'_>,
    ) {
        for (name, per_address, totals) in [
            ("connections", connections, self.connections),
            ("requests", requests, self.requests),
            ("incomplete_requests", incomplete_requests, self.incomplete_requests),
            ("held_bodies", held_bodies, self.held_bodies),
        ] {
            if per_address.is_some_and(|per_address| per_address > totals) {
                let message = format!("greater than limits.{name}, so one address can use the whole limit; lower it");
                table.warn(&format!("{name}_per_address"), message);
            }
        }
    }
}

/// The networks, sorted by prefix length, the longest first.
fn networks(
    raw: &[file::Network],
    defaults: &AddressLimits,
    totals: &TotalLimits,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<NetworkLimits>> {
    let mut networks: Vec<NetworkLimits> = Vec::new();
    let mut has_errors = false;
    for (position, raw) in raw.iter().enumerate() {
        let mut table = TableValidator::new(format!("limits.networks[{position}]"), diagnostics);
        let Some(read) = network(raw, defaults, &mut table) else {
            has_errors = true;
            continue;
        };
        let held_bodies = raw.held_bodies_per_address.as_ref().and(read.per_address.held_bodies);
        let (requests, incomplete) = (raw.requests_per_address, raw.incomplete_requests_per_address);
        totals.warn_if_greater([raw.connections_per_address, requests, incomplete, held_bodies], &mut table);
        if networks.iter().any(|other| other.network == read.network) {
            table.error("network", "duplicate network; merge the two entries");
            has_errors = true;
        }
        networks.push(read);
    }
    networks.sort_by_key(|own| std::cmp::Reverse(own.network.prefix_len()));
    (!has_errors).then_some(networks)
}

fn network(raw: &file::Network, defaults: &AddressLimits, table: &mut TableValidator<'_>) -> Option<NetworkLimits> {
    let text = table.required("network", raw.network.as_deref());
    let network = text.and_then(|text| table.network("network", text)).map(|network| network.trunc());
    if network.is_some_and(|network| network.addr().is_ipv6() && network.prefix_len() > IPV6_CLIENT_PREFIX_LENGTH) {
        table.error("network", "prefix longer than /64; IPv6 clients are counted per /64 network");
        return None;
    }
    let held_bodies = match &raw.held_bodies_per_address {
        Some(file::Size::Bytes(0)) => Some(None),
        Some(file::Size::Text(text)) if text.trim() == "0" => Some(None),
        Some(size) => Some(Some(table.size("held_bodies_per_address", size, u64::MAX)?)),
        None => None,
    };
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
    };
    let network = network?;
    if raw.sets_no_limit() {
        table.error("network", "this entry sets no limit; add one, or remove the entry");
        return None;
    }
    Some(NetworkLimits { network, per_address })
}

impl file::Network {
    fn sets_no_limit(&self) -> bool {
        let Self {
            network: _,
            connections_per_address,
            requests_per_address,
            incomplete_requests_per_address,
            held_bodies_per_address,
            slas_calls_per_address,
            guests_per_address,
            failed_per_address,
        } = self;
        connections_per_address.or(*requests_per_address).or(*incomplete_requests_per_address).is_none()
            && held_bodies_per_address.is_none()
            && slas_calls_per_address.or(*guests_per_address).or(*failed_per_address).is_none()
    }
}

/// `None` for 0, which means no limit.
fn limit_or_none<T: Default + PartialEq>(number: T) -> Option<T> {
    Some(number).filter(|number| *number != T::default())
}

//! Validates a configuration and converts it into [`Settings`].
//!
//! `schema_check` runs before, so each value has the right type. Each function checks all keys of its table, so that one run
//! reports all errors. In place of an invalid value it returns a default or `None`, and `load` returns no settings if there is
//! any error. A missing required key is an empty value here: `schema_check` has reported it, and further errors of the key are
//! suppressed.

use std::{collections::BTreeMap, net::SocketAddr, num::NonZero, path::Path, thread, time::Duration};

use ipnet::IpNet;

use super::{
    Admin, CookieMode, Load, Logins, PartialPolicy, PartialSettings, PartialTls, Policy, PolicyMode, Server, Sessions,
    Settings, Store, Timeouts, UnknownOperations, diagnostics::Diagnostics, file, secret_files::Resolver,
};

mod callers;
mod keys;
mod limits;
mod log;
mod origins;
mod redis_url;
mod routes;
mod shared_domains;
mod store;
mod storefronts;
mod table;
mod tenants;
mod traces;

pub use log::is_log_filter;
pub use table::is_loopback;
use table::{MINUTE, Table};

/// Lifetime of SLAS access tokens. `refresh_ahead` must be shorter, or each request would refresh the token.
const ACCESS_TOKEN_TTL: Duration = Duration::from_secs(30 * 60);
/// Lifetime of SLAS refresh tokens.
const REFRESH_TOKEN_TTL: Duration = Duration::from_secs(90 * 24 * 3600);
/// The maximum of every time limit.
const MAX_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// Returns the valid part of the configuration, and the settings. If there is an error, the settings must not be used.
pub(super) fn validate(
    mut file: file::File,
    base_dir: &Path,
    environment: &BTreeMap<String, String>,
    diagnostics: &mut Diagnostics,
) -> (PartialSettings, Option<Settings>) {
    let resolver = Resolver { base_dir, environment };
    let root = &mut Table::root(&resolver, diagnostics);
    let client_certificates =
        file.server.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()) || root.has_errors("server.tls");
    let tls = file.server.tls.take().map(|tls| tls_files(tls, &mut root.table("server.tls")));
    let server = server(file.server, &mut root.table("server"));
    let admin = admin(&file.admin, &server, &mut root.table("admin"));
    let has_reference_cookies =
        file.tenants.iter().flat_map(|tenant| &tenant.storefronts).any(|entry| entry.cookies == CookieMode::Reference);
    let has_storefronts = file.tenants.iter().any(|tenant| !tenant.storefronts.is_empty());
    let mut tenants = tenants::tenants(file.tenants, root);
    let callers = callers::callers(file.callers, &tenants, client_certificates, root);
    tenants::resolve_on_behalf_clients(&mut tenants, &callers, root);
    let sessions = sessions(&file.sessions, &mut root.table("sessions"));
    let timeouts = timeouts(&file.timeouts, &mut root.table("timeouts"));
    let limits = limits::limits(&file.limits, &file.logins, &mut root.table("limits"));
    if has_storefronts && tls.is_none() && server.trusted_proxies.is_empty() {
        limits::warn_if_shoppers_share_an_address(&file.limits, &mut root.table("limits"));
    }
    let file::Logins { max_concurrent, failed_per_address, failed_per_address_and_login, failed_per_login, .. } =
        file.logins;
    let log = log::log(file.log, &mut root.table("log"));
    let traces = traces::traces(&file.traces, &mut root.table("traces"));
    let store = store::store(file.store, &mut root.table("store"));
    if has_reference_cookies && matches!(store, Some(Store::Memory)) {
        root.table("store").warn("type", "the ids in reference cookies end with this process, and only this process knows them: a restart logs every shopper out; use Redis in production");
    }
    let keys = keys::keys(&file.keys, base_dir, &mut root.table("keys"));
    check_policy(&file.policy, &mut root.table("policy"));
    let routes = routes::routes(file.routes, root);
    let low_priority = file.load.low_priority.into_texts();
    let collector = traces.endpoint.clone();
    let partial =
        PartialSettings { tls, tenants, store, collector, policy: PartialPolicy { callers, routes, low_priority } };
    let complete = || {
        let PartialPolicy { callers, routes, low_priority } = &partial.policy;
        let tls = match &partial.tls {
            Some(files) => Some(files.complete()?),
            None => None,
        };
        Some(Settings {
            server: Server { tls, ..server },
            admin: admin?,
            tenants: partial.tenants.iter().map(|tenant| tenant.complete.clone()).collect::<Option<_>>()?,
            callers: callers.iter().map(|caller| caller.complete.clone()).collect::<Option<_>>()?,
            sessions,
            timeouts,
            limits,
            load: Load { low_priority: low_priority.clone() },
            logins: Logins { max_concurrent, failed_per_address, failed_per_address_and_login, failed_per_login },
            log,
            traces,
            store: partial.store.clone()?,
            keys,
            policy: file.policy,
            routes: routes.iter().map(|route| route.complete.clone()).collect::<Option<_>>()?,
        })
    };
    let settings = complete();
    (partial, settings)
}

/// `[server]` without `[server.tls]`.
fn server(raw: file::Server, table: &mut Table<'_>) -> Server {
    let texts = raw.listen.into_texts();
    if texts.is_empty() {
        table.error("listen", "empty; expected at least one address, e.g. [\"127.0.0.1:8080\"]");
    }
    let mut listen: Vec<SocketAddr> = Vec::new();
    for (position, text) in texts.iter().enumerate() {
        let key = format!("listen[{position}]");
        if let Some(address) = table.address(&key, text) {
            if listen.iter().any(|other| conflicts(*other, address)) {
                table.error(&key, "overlaps another address of this list");
            }
            listen.push(address);
        }
    }
    let threads = raw.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, NonZero::get));
    let networks = raw.trusted_proxies.into_texts();
    let networks = networks.iter().enumerate();
    let trusted_proxies: Vec<IpNet> =
        networks.filter_map(|(position, text)| table.network(&format!("trusted_proxies[{position}]"), text)).collect();
    if IpNet::aggregate(&trusted_proxies).iter().any(|network| network.prefix_len() == 0) {
        table.warn("trusted_proxies", "these networks contain every address, so any client can choose its address and avoid the limits per address; list only the networks of your proxies");
    }
    Server { listen, threads, tls: None, trusted_proxies }
}

fn tls_files(raw: file::Tls, table: &mut Table<'_>) -> PartialTls {
    let certificate = table.file("certificate", raw.certificate, Resolver::readable_file);
    let private_key = table.file("private_key", raw.private_key, Resolver::private_key_file);
    let has_client_ca = raw.client_ca.is_some() || table.has_errors("client_ca");
    let client_ca = table.file("client_ca", raw.client_ca, Resolver::trusted_file);
    if raw.client_crl.is_some() && !has_client_ca {
        table.error("client_crl", "the gateway requests no client certificates; set server.tls.client_ca");
    }
    let client_crl = raw.client_crl.filter(|_| has_client_ca);
    let client_crl = table.file("client_crl", client_crl, Resolver::trusted_file);
    PartialTls { certificate, private_key, client_ca, client_crl }
}

/// Adds warnings for settings that weaken the policy, because an operator may have forgotten them.
fn check_policy(policy: &Policy, table: &mut Table<'_>) {
    if policy.mode == PolicyMode::Report {
        table.warn(
            "mode",
            "\"report\": requests that the policy rejects are forwarded; set \"enforce\" when the log shows no more rejections \
             of legitimate requests",
        );
    }
    if policy.unknown_operations == UnknownOperations::Forward {
        table.warn(
            "unknown_operations",
            "\"forward\": any shopper token can call unknown operations; add these as [[routes]] and set \"deny\"",
        );
    }
}

fn admin(raw: &file::Admin, server: &Server, table: &mut Table<'_>) -> Option<Admin> {
    let listen = table.address("listen", &raw.listen)?;
    if server.listen.iter().any(|public| conflicts(*public, listen)) {
        table.error("listen", "overlaps an address of server.listen; set another port");
    }
    if !listen.ip().is_loopback() {
        table.warn(
            "listen",
            "not a loopback address, and the listener requires no authentication; make sure that only operators can reach it",
        );
    }
    Some(Admin { listen })
}

/// Whether two listeners cannot both use these addresses. Port 0 is a free port for each. `[::]` also accepts IPv4 connections,
/// unless `0.0.0.0` has its own listener.
fn conflicts(one: SocketAddr, other: SocketAddr) -> bool {
    if one.port() == 0 || one.port() != other.port() {
        return false;
    }
    let (one, other) = (one.ip().to_canonical(), other.ip().to_canonical());
    match (one.is_ipv6(), other.is_ipv6()) {
        (true, false) => one.is_unspecified() && !other.is_unspecified(),
        (false, true) => other.is_unspecified() && !one.is_unspecified(),
        _ => one == other || one.is_unspecified() || other.is_unspecified(),
    }
}

fn sessions(raw: &file::Sessions, table: &mut Table<'_>) -> Sessions {
    let mut duration = |key, text: &str, max| table.duration(key, text, max).unwrap_or_default();
    Sessions {
        refresh_ahead: duration("refresh_ahead", &raw.refresh_ahead, ACCESS_TOKEN_TTL - MINUTE),
        idle_timeout: duration("idle_timeout", &raw.idle_timeout, REFRESH_TOKEN_TTL),
        capacity: raw.capacity,
        background_refreshes_per_minute: raw.background_refreshes_per_minute,
    }
}

fn timeouts(raw: &file::Timeouts, table: &mut Table<'_>) -> Timeouts {
    let mut duration = |key, text: &str| table.duration(key, text, MAX_TIMEOUT).unwrap_or_default();
    Timeouts {
        upstream: duration("upstream", &raw.upstream),
        upstream_admin: duration("upstream_admin", &raw.upstream_admin),
        connect: duration("connect", &raw.connect),
        exchange: duration("exchange", &raw.exchange),
        client_head: duration("client_head", &raw.client_head),
        client_body: duration("client_body", &raw.client_body),
        held_body: duration("held_body", &raw.held_body),
        client_write: duration("client_write", &raw.client_write),
        idle: duration("idle", &raw.idle),
        drain: duration("drain", &raw.drain),
    }
}

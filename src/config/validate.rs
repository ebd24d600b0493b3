//! Validates a configuration and converts it into [`Settings`].
//!
//! `schema_check` runs before, so each value has the right type. Each function checks all its keys before it returns, so that
//! one run reports all errors. A function returns `None` only after it has added an error.

use std::{collections::BTreeMap, net::SocketAddr, num::NonZero, path::Path, thread, time::Duration};

use super::{
    Admin, Load, Logins, PartialSettings, PartialTls, Policy, PolicyMode, Server, Sessions, Settings, Timeouts, Tls,
    UnknownOperations, diagnostics::Diagnostics, file, partial, secret_files::Resolver,
};

mod callers;
mod keys;
mod limits;
mod log;
mod redis_url;
mod routes;
mod store;
mod table;
mod tenants;
mod traces;

pub use log::is_log_filter;
pub use table::is_loopback;
use table::{MINUTE, TableValidator};

/// Lifetime of SLAS access tokens. `refresh_ahead` must be shorter, or each request would refresh the token.
const ACCESS_TOKEN_TTL: Duration = Duration::from_secs(30 * 60);
/// Lifetime of SLAS refresh tokens.
const REFRESH_TOKEN_TTL: Duration = Duration::from_secs(90 * 24 * 3600);
/// The maximum of every time limit.
const MAX_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// Returns the valid part of the configuration, and the settings if there is no error.
pub(super) fn validate(
    mut file: file::File,
    base_dir: &Path,
    environment: &BTreeMap<String, String>,
    diagnostics: &mut Diagnostics,
) -> (PartialSettings, Option<Settings>) {
    let resolver = Resolver { base_dir, environment };
    let client_certificates =
        file.server.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()) || diagnostics.has_errors("server.tls");

    let files = file.server.tls.take().map(|tls| tls_files(tls, &resolver, diagnostics));
    let tls = match &files {
        Some(files) => files.complete.clone().map(Some),
        None => Some(None),
    };
    let server = server(file.server, diagnostics);
    let admin = admin(&file.admin, server.as_ref(), diagnostics);
    let mut tenants = tenants::tenants(file.tenants, &resolver, diagnostics);
    let callers = callers::callers(file.callers, &tenants, client_certificates, diagnostics);
    tenants::resolve_on_behalf_clients(&mut tenants, &callers, diagnostics);
    let sessions = sessions(&file.sessions, diagnostics);
    let timeouts = timeouts(&file.timeouts, diagnostics);
    let limits = limits::limits(&file.limits, &file.logins, diagnostics);
    let low_priority = file.load.low_priority.into_texts();
    let file::Logins {
        max_concurrent,
        failed_per_address,
        guests_per_address: _,
        failed_per_address_and_login,
        failed_per_login,
    } = file.logins;
    let logins = Logins { max_concurrent, failed_per_address, failed_per_address_and_login, failed_per_login };
    let log = log::log(file.log, &resolver, diagnostics);
    let traces = traces::traces(&file.traces, diagnostics);
    let store = store::store(file.store, &resolver, diagnostics);
    let keys = keys::keys(&file.keys, &resolver, diagnostics);
    let policy = policy(&file.policy, diagnostics);
    let routes = routes::routes(file.routes, diagnostics);
    let endpoint = traces.as_ref().and_then(|traces| traces.endpoint.as_ref());
    let partial = PartialSettings {
        tls: files.unwrap_or_default(),
        tenants: tenants.iter().map(tenants::ParsedTenant::partial).collect(),
        store_authorities: store.as_ref().map(partial::store_authorities).unwrap_or_default(),
        store_client: store.as_ref().and_then(partial::store_client),
        verified_by_system: partial::verified_by_system(store.as_ref(), endpoint),
        callers,
        routes,
        low_priority,
    };
    let complete = || {
        Some(Settings {
            server: Server { tls: tls?, ..server? },
            admin: admin?,
            tenants: tenants.into_iter().map(|tenant| tenant.complete).collect::<Option<_>>()?,
            callers: partial.callers.iter().map(|caller| caller.complete.clone()).collect::<Option<_>>()?,
            sessions: sessions?,
            timeouts: timeouts?,
            limits: limits?,
            load: Load { low_priority: partial.low_priority.clone() },
            logins,
            log: log?,
            traces: traces?,
            store: store?,
            keys: keys?,
            policy,
            routes: partial.routes.iter().map(|route| route.complete.clone()).collect::<Option<_>>()?,
        })
    };
    let settings = complete();
    (partial, settings)
}

/// `[server]` without `[server.tls]`.
fn server(raw: file::Server, diagnostics: &mut Diagnostics) -> Option<Server> {
    let mut table = TableValidator::new("server", diagnostics);
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
    let trusted_proxies =
        networks.filter_map(|(position, text)| table.network(&format!("trusted_proxies[{position}]"), text));
    let trusted_proxies: Vec<ipnet::IpNet> = trusted_proxies.collect();
    if ipnet::IpNet::aggregate(&trusted_proxies).iter().any(|network| network.prefix_len() == 0) {
        table.warn("trusted_proxies", "these networks contain every address, so any client can choose its address and avoid the limits per address; list only the networks of your proxies");
    }
    Some(Server { listen, threads, tls: None, trusted_proxies })
}

fn tls_files(raw: file::Tls, resolver: &Resolver<'_>, diagnostics: &mut Diagnostics) -> PartialTls {
    let certificate = diagnostics
        .required("server.tls.certificate", raw.certificate)
        .and_then(|file| resolver.readable_file("server.tls.certificate", &file, diagnostics));
    let private_key = diagnostics
        .required("server.tls.private_key", raw.private_key)
        .and_then(|file| resolver.private_key_file("server.tls.private_key", &file, diagnostics));
    let has_client_ca = raw.client_ca.is_some() || diagnostics.has_errors("server.tls.client_ca");
    let client_ca = match raw.client_ca {
        Some(file) => resolver.trusted_file("server.tls.client_ca", &file, diagnostics).map(Some),
        None => Some(None),
    };
    let client_crl = match raw.client_crl {
        Some(_) if !has_client_ca => {
            diagnostics.error(
                "server.tls.client_crl",
                "the gateway requests no client certificates; set server.tls.client_ca",
            );
            None
        }
        Some(file) => resolver.trusted_file("server.tls.client_crl", &file, diagnostics).map(Some),
        None => Some(None),
    };
    let complete = match (&certificate, &private_key, &client_ca, &client_crl) {
        (Some(certificate), Some(private_key), Some(client_ca), Some(client_crl)) => Some(Tls {
            certificate: certificate.clone(),
            private_key: private_key.clone(),
            client_ca: client_ca.clone(),
            client_crl: client_crl.clone(),
        }),
        _ => None,
    };
    PartialTls { certificate, private_key, client_ca: client_ca.flatten(), client_crl: client_crl.flatten(), complete }
}

/// `[policy]`. Adds warnings for settings that weaken the policy, because an operator may have forgotten them.
fn policy(raw: &file::Policy, diagnostics: &mut Diagnostics) -> Policy {
    if raw.mode == PolicyMode::Report {
        diagnostics.warn(
            "policy.mode",
            "\"report\": requests that the policy rejects are forwarded; set \"enforce\" when the log shows no more rejections \
             of legitimate requests",
        );
    }
    if raw.unknown_operations == UnknownOperations::Forward {
        diagnostics.warn(
            "policy.unknown_operations",
            "\"forward\": any shopper token can call unknown operations; add these as [[routes]] and set \"deny\"",
        );
    }
    Policy { mode: raw.mode, unknown_operations: raw.unknown_operations, deprecated_logins: raw.deprecated_logins }
}

fn admin(raw: &file::Admin, server: Option<&Server>, diagnostics: &mut Diagnostics) -> Option<Admin> {
    let mut table = TableValidator::new("admin", diagnostics);
    let listen = table.address("listen", &raw.listen)?;
    if server.is_some_and(|server| server.listen.iter().any(|public| conflicts(*public, listen))) {
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

fn sessions(raw: &file::Sessions, diagnostics: &mut Diagnostics) -> Option<Sessions> {
    let mut table = TableValidator::new("sessions", diagnostics);
    let refresh_ahead = table.duration("refresh_ahead", &raw.refresh_ahead, ACCESS_TOKEN_TTL - MINUTE);
    let idle_timeout = table.duration("idle_timeout", &raw.idle_timeout, REFRESH_TOKEN_TTL);
    Some(Sessions {
        refresh_ahead: refresh_ahead?,
        idle_timeout: idle_timeout?,
        capacity: raw.capacity,
        background_refreshes_per_minute: raw.background_refreshes_per_minute,
    })
}

fn timeouts(raw: &file::Timeouts, diagnostics: &mut Diagnostics) -> Option<Timeouts> {
    let mut table = TableValidator::new("timeouts", diagnostics);
    let mut duration = |key, text: &str| table.duration(key, text, MAX_TIMEOUT);
    let upstream = duration("upstream", &raw.upstream);
    let upstream_admin = duration("upstream_admin", &raw.upstream_admin);
    let connect = duration("connect", &raw.connect);
    let exchange = duration("exchange", &raw.exchange);
    let client_head = duration("client_head", &raw.client_head);
    let client_body = duration("client_body", &raw.client_body);
    let held_body = duration("held_body", &raw.held_body);
    let client_write = duration("client_write", &raw.client_write);
    let idle = duration("idle", &raw.idle);
    let drain = duration("drain", &raw.drain);
    Some(Timeouts {
        upstream: upstream?,
        upstream_admin: upstream_admin?,
        connect: connect?,
        exchange: exchange?,
        client_head: client_head?,
        client_body: client_body?,
        held_body: held_body?,
        client_write: client_write?,
        idle: idle?,
        drain: drain?,
    })
}

//! The defaults of the configuration file, in the notation of the file, because the schema shows them.
//!
//! A key without a default is required, or absent means "off".

use super::{
    AccountManager, Admin, Keys, Limits, List, Load, Log, Logins, Origin, Server, Sessions, Size, Store, StoreKind,
    Timeouts, Traces,
};
use crate::config::{DeprecatedLogins, LogFormat, Policy, PolicyMode, UnknownOperations};

impl Default for List {
    fn default() -> Self {
        Self::Array(Vec::new())
    }
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: List::Array(vec!["127.0.0.1:8080".to_owned()]),
            threads: None,
            tls: None,
            trusted_proxies: List::default(),
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9090".to_owned() }
    }
}

impl AccountManager {
    pub(super) fn url() -> String {
        "https://account.demandware.com".to_owned()
    }

    pub(super) fn scopes() -> List {
        List::Array(vec!["sfcc.shopper-customers.login".to_owned()])
    }
}

impl Origin {
    pub(super) fn max_age() -> String {
        "2h".to_owned()
    }
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            refresh_ahead: "5m".to_owned(),
            idle_timeout: "30m".to_owned(),
            capacity: 100_000,
            background_refreshes_per_minute: 0,
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            kind: StoreKind::Memory,
            url: None,
            ca: None,
            certificate: None,
            private_key: None,
            sentinel_username: None,
            sentinel_password: None,
            sentinel_tls: None,
            sentinel_ca: None,
            encryption_key: None,
            previous_encryption_key: None,
            key_prefix: "shopper-gateway".to_owned(),
            timeout: "50ms".to_owned(),
        }
    }
}

impl Default for Keys {
    fn default() -> Self {
        Self { max_age: "72h".to_owned(), jwks_cache_dir: None }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            upstream: "10s".to_owned(),
            upstream_admin: "60s".to_owned(),
            connect: "3s".to_owned(),
            exchange: "3s".to_owned(),
            client_head: "10s".to_owned(),
            client_body: "30s".to_owned(),
            held_body: "10s".to_owned(),
            client_write: "30s".to_owned(),
            idle: "60s".to_owned(),
            drain: "25s".to_owned(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let size = |text: &str| Size::Text(text.to_owned());
        Self {
            body: size("1MiB"),
            min_body_rate: size("1KiB"),
            max_header_bytes: size("64KiB"),
            max_headers: 100,
            max_uri_bytes: size("8KiB"),
            connections: 10_000,
            connections_per_address: None,
            requests: 10_000,
            requests_per_address: 1000,
            incomplete_requests: 4096,
            incomplete_requests_per_address: 256,
            held_bodies: size("64MiB"),
            held_bodies_per_address: size("8MiB"),
            slas_calls_per_address: 600,
            max_concurrent_requests: 2000,
            queue_timeout: "100ms".to_owned(),
            networks: Vec::new(),
        }
    }
}

impl Default for Load {
    fn default() -> Self {
        let low_priority = ["shopper-search.*", "shopper-products.*", "shopper-seo.*"].map(str::to_owned);
        Self { low_priority: List::Array(low_priority.to_vec()) }
    }
}

impl Default for Logins {
    fn default() -> Self {
        Self {
            max_concurrent: 256,
            failed_per_address: 60,
            guests_per_address: 300,
            failed_per_address_and_login: 5,
            failed_per_login: 100,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Json,
            audit_file: None,
            pseudonym_key: None,
            success_sample_rate: 1.0,
            slow: "1s".to_owned(),
        }
    }
}

impl Default for Traces {
    fn default() -> Self {
        Self { endpoint: None, sample_ratio: 1.0, parent_sampled_per_second: 100 }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: PolicyMode::Enforce,
            unknown_operations: UnknownOperations::Deny,
            deprecated_logins: DeprecatedLogins::Allow,
        }
    }
}

//! Why the store is unavailable: a closed set of causes, each with a label, a description and advice for operators.
//!
//! The log, `/status` and `check --online` show these texts, and no text of a server. A reply such as `OOM` or
//! `READONLY` counts as an outage, because the gateway's writes fail.

use std::fmt;

/// The server that the cause applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorePeer {
    /// Redis itself, or a node of the cluster.
    Redis,
    /// A Sentinel, which names the master.
    Sentinel,
}

/// An outage of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    /// The server that the cause applies to.
    pub peer: StorePeer,
    /// The cause.
    pub cause: UnavailableCause,
}

macro_rules! causes {
    ($($name:ident = $label:literal, $fault:literal, $advice:expr;)*) => {
        /// The cause of an outage.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum UnavailableCause {
            $(#[doc = concat!("The server ", $fault, ".")] $name,)*
        }

        impl UnavailableCause {
            /// Every cause.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The label in logs and metrics, what is wrong with the server (a predicate), and what to check. The label never
            /// changes.
            const fn texts(self) -> (&'static str, &'static str, Advice) {
                match self {
                    $(Self::$name => ($label, $fault, $advice),)*
                }
            }
        }
    };
}

/// What an operator should check.
enum Advice {
    /// The same for Redis and for Sentinels.
    Same(&'static str),
    /// For Redis, and for Sentinels.
    PerPeer(&'static str, &'static str),
}

use Advice::{PerPeer, Same};

causes! {
    NameUnresolved = "name_unresolved", "has a host name that does not resolve", Same("check the host in store.url, and DNS");
    ConnectionRefused = "connection_refused", "refuses connections: no process listens at the address",
        Same("check host and port in store.url, and that the server runs");
    Unreachable = "unreachable", "is not reachable: there is no route to its address",
        Same("check the host in store.url, and the network");
    TimedOut = "timed_out", "does not respond in time",
        Same("check the server's load, the network, firewalls, and store.timeout");
    ConnectionLost = "connection_lost", "closes the connection",
        Same("check its log, and proxies in between; a TLS port needs rediss://");
    SocketMissing = "socket_missing", "has no socket at this path", Same("check the path in store.url, and that the server runs");
    SocketForbidden = "socket_forbidden", "does not accept connections from the gateway's user",
        Same("check the permissions of the socket in store.url, or the firewall");
    CertificateUntrusted = "certificate_untrusted", "has a certificate that no trusted authority has signed",
        PerPeer("check store.ca", "check store.sentinel_ca and store.ca");
    CertificateName = "certificate_name", "has a certificate for another name",
        Same("check the host in store.url, and the names in the certificate");
    CertificateExpired = "certificate_expired", "has a certificate that has expired or is not valid yet",
        Same("renew the certificate, and check both clocks");
    ClientCertificateRefused = "client_certificate_refused", "rejects the gateway's client certificate, or requires one",
        Same("check store.certificate and store.private_key");
    TlsFiles = "tls_files", "is not called, because the gateway's TLS configuration cannot be used",
        Same("check store.ca, store.certificate and store.private_key, and the system's authorities");
    TlsNotSpoken = "tls_not_spoken", "does not use TLS at this port", Same("write redis:// in store.url, or the TLS port");
    TlsIncompatible = "tls_incompatible", "and the gateway have no TLS version or cipher in common",
        Same("allow TLS 1.2 or 1.3 on the server");
    NotRedis = "not_redis", "does not respond as Redis does",
        Same("check host and port in store.url; a TLS port needs rediss://");
    NotSentinel = "not_sentinel", "is not a Sentinel", Same("check the hosts and ports in store.url");
    PasswordRefused = "password_refused", "rejects the user or the password (WRONGPASS)",
        PerPeer("check the password in store.url", "check store.sentinel_username and store.sentinel_password");
    PasswordMissing = "password_missing", "requires a password (NOAUTH)",
        PerPeer("add the password to store.url", "set store.sentinel_password");
    PasswordUnexpected = "password_unexpected", "has no password for this user, but the gateway sends one",
        PerPeer("remove it from store.url, or set it on the server", "remove store.sentinel_password, or set it on the server");
    PermissionDenied = "permission_denied", "does not allow the gateway's user to run a command (NOPERM)",
        PerPeer(
            "check the user's ACL: check --online names the command",
            "check the user's ACL: SENTINEL GET-MASTER-ADDR-BY-NAME is needed"
        );
    CommandUnknown = "command_unknown", "does not know a command that the gateway needs",
        Same("use Redis 6.2 or later without renamed commands: check --online names the command");
    DatabaseUnknown = "database_unknown", "has no database with this number", Same("check the number in store.url");
    TopologyWrong = "topology_wrong", "is a cluster where store.url names a single server, or the reverse",
        Same("write redis+cluster:// for a cluster, redis:// otherwise");
    ProtectedMode = "protected_mode", "accepts local connections only (protected mode)", Same("set a password on the server");
    TooManyClients = "too_many_clients", "has reached its maximum number of connections", Same("check maxclients of the server");
    MasterUnknown = "master_unknown", "knows no master with this name", Same("check the name in store.url");
    ReadOnly = "read_only", "is a replica, which rejects writes (READONLY)",
        Same("name its master in store.url, or Sentinels, which know the master");
    Loading = "loading", "is still loading its data (LOADING)", Same("wait until it has started");
    Busy = "busy", "is busy with a script (BUSY)", Same("check its other clients");
    OutOfMemory = "out_of_memory", "is out of memory and rejects writes (OOM)", Same("check maxmemory of the server");
    NotPersisted = "not_persisted", "cannot save to its disk and rejects writes (MISCONF)", Same("check its disk and its log");
    TooFewReplicas = "too_few_replicas", "has too few replicas and rejects writes (NOREPLICAS)",
        Same("check its replicas, and min-replicas-to-write");
    MasterDown = "master_down", "is a replica that has lost its master (MASTERDOWN)", Same("check its master");
    ClusterDown = "cluster_down", "belongs to a cluster without a node for some slots (CLUSTERDOWN)",
        Same("check CLUSTER INFO");
    ReplyUnknown = "reply_unknown", "sends an error that the gateway does not know",
        Same("check its log, and proxies in between");
}

impl UnavailableCause {
    /// The label in logs and metrics. It never changes.
    #[must_use]
    pub const fn label(self) -> &'static str {
        self.texts().0
    }

    /// Whether the server may still answer reads, so that an answer does not mean that it accepts writes again.
    #[must_use]
    pub const fn outlasts_answers(self) -> bool {
        matches!(
            self,
            Self::PermissionDenied
                | Self::CommandUnknown
                | Self::ReadOnly
                | Self::OutOfMemory
                | Self::NotPersisted
                | Self::TooFewReplicas
                | Self::ClusterDown
                | Self::TopologyWrong
                | Self::ReplyUnknown
        )
    }
}

impl Outage {
    /// An outage of Redis itself.
    #[must_use]
    pub const fn of_redis(cause: UnavailableCause) -> Self {
        Self { peer: StorePeer::Redis, cause }
    }

    /// An outage of a Sentinel.
    #[must_use]
    pub const fn of_sentinel(cause: UnavailableCause) -> Self {
        Self { peer: StorePeer::Sentinel, cause }
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, fault, advice) = self.cause.texts();
        let (subject, advice) = match (self.peer, advice) {
            (StorePeer::Redis, Same(advice) | PerPeer(advice, _)) => ("Redis", advice),
            (StorePeer::Sentinel, Same(advice) | PerPeer(_, advice)) => ("the Sentinel", advice),
        };
        write!(f, "{subject} {fault}; {advice}")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn causes_have_distinct_labels_and_descriptions() {
        let labels: BTreeSet<_> = UnavailableCause::ALL.iter().map(|cause| cause.label()).collect();
        let words: BTreeSet<_> = UnavailableCause::ALL.iter().map(|cause| cause.texts().1).collect();
        assert_eq!((labels.len(), words.len()), (UnavailableCause::ALL.len(), UnavailableCause::ALL.len()));
        for label in labels {
            assert!(label.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{label}");
        }
    }

    #[test]
    fn outage_text_names_server_and_configuration_key() {
        let words = |outage: Outage| outage.to_string();
        let redis = words(Outage::of_redis(UnavailableCause::PasswordRefused));
        assert_eq!(redis, "Redis rejects the user or the password (WRONGPASS); check the password in store.url");
        let sentinel = words(Outage::of_sentinel(UnavailableCause::PasswordRefused));
        assert!(
            sentinel.starts_with("the Sentinel rejects") && sentinel.contains("store.sentinel_password"),
            "{sentinel}"
        );
    }
}

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
    ($($(#[$doc:meta])* $name:ident = $label:literal, $what:literal, $advice:expr;)*) => {
        /// The cause of an outage.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum UnavailableCause {
            $($(#[$doc])* $name,)*
        }

        impl UnavailableCause {
            /// Every cause.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The label in logs and metrics. It never changes.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }

            /// What the server does, as a predicate.
            const fn what(self) -> &'static str {
                match self {
                    $(Self::$name => $what,)*
                }
            }

            /// What to look at.
            const fn advice(self) -> Advice {
                match self {
                    $(Self::$name => $advice,)*
                }
            }
        }
    };
}

/// What an operator should look at.
enum Advice {
    /// The same for Redis and for Sentinels.
    See(&'static str),
    /// One for Redis, one for Sentinels.
    Each(&'static str, &'static str),
}

use Advice::{Each, See};

causes! {
    /// The name has no address.
    NameUnresolved = "name_unresolved", "has a name that does not resolve", See("see the host in store.url, and DNS");
    /// Nothing listens at the address.
    ConnectionRefused = "connection_refused", "refuses connections: nothing listens there",
        See("see host and port in store.url, and whether it runs");
    /// There is no route to the address.
    Unreachable = "unreachable", "cannot be reached: there is no route", See("see the host in store.url, and the network");
    /// No answer came in time.
    TimedOut = "timed_out", "does not answer in time", See("see its load, the network, a firewall, and store.timeout");
    /// The connection was closed.
    ConnectionLost = "connection_lost", "closes the connection", See("see its log, and what stands between; a TLS port needs rediss://");
    /// There is no socket at the path.
    SocketMissing = "socket_missing", "has no socket at this path", See("see the path in store.url, and whether it runs");
    /// The gateway's user may not use the socket.
    SocketForbidden = "socket_forbidden", "may not be reached by the gateway's user",
        See("see the permissions of the socket in store.url, or the firewall");
    /// No trusted authority signed the certificate.
    CertificateUntrusted = "certificate_untrusted", "shows a certificate that no trusted authority signed",
        Each("see store.ca", "see store.sentinel_ca and store.ca");
    /// The certificate is for another name.
    CertificateName = "certificate_name", "shows a certificate for another name",
        See("see the host in store.url, and the names in its certificate");
    /// The certificate has ended or has not begun.
    CertificateExpired = "certificate_expired", "shows a certificate that has expired or is not valid yet",
        See("renew it, and see both clocks");
    /// It wants a client certificate, or another one.
    ClientCertificateRefused = "client_certificate_refused", "does not take the gateway's client certificate, or wants one",
        See("see store.certificate and store.private_key");
    /// The gateway's own side of TLS cannot be set up.
    TlsFiles = "tls_files", "cannot be asked: the gateway's TLS cannot be set up",
        See("see store.ca, store.certificate and store.private_key, and the system's authorities");
    /// The port speaks no TLS.
    TlsNotSpoken = "tls_not_spoken", "speaks no TLS at this port", See("write redis:// in store.url, or its TLS port");
    /// No version of TLS is in common.
    TlsIncompatible = "tls_incompatible", "and the gateway have no version or cipher of TLS in common",
        See("allow TLS 1.2 or 1.3 there");
    /// What answers is no Redis.
    NotRedis = "not_redis", "does not answer as Redis does",
        See("see host and port in store.url; a TLS port needs rediss://");
    /// What answers is no Sentinel.
    NotSentinel = "not_sentinel", "is no Sentinel", See("see the hosts and ports in store.url");
    /// The user or the password is wrong.
    PasswordRefused = "password_refused", "refuses the user or the password (WRONGPASS)",
        Each("see the password in store.url", "see store.sentinel_username and store.sentinel_password");
    /// A password is needed.
    PasswordMissing = "password_missing", "wants a password (NOAUTH)",
        Each("put it into store.url", "set store.sentinel_password");
    /// A password was given where none is set.
    PasswordUnexpected = "password_unexpected", "has no password set for this user, but the gateway gives one",
        Each("take it out of store.url, or set it there", "take store.sentinel_password out, or set it there");
    /// The user lacks a right.
    PermissionDenied = "permission_denied", "does not let the gateway's user do this (NOPERM)",
        Each("see its ACL: check --online names the command", "see its ACL: SENTINEL GET-MASTER-ADDR-BY-NAME is needed");
    /// A command is not there: too old, renamed or disabled.
    CommandUnknown = "command_unknown", "does not know a command that the gateway needs",
        See("use Redis 6.2 or later without renamed commands: check --online names the command");
    /// There is no such database.
    DatabaseUnknown = "database_unknown", "has no database of this number", See("see the number in store.url");
    /// A cluster where one server is configured, or the reverse.
    TopologyWrong = "topology_wrong", "is a cluster where store.url names one server, or the reverse",
        See("write redis+cluster:// for a cluster, redis:// otherwise");
    /// It takes local connections only.
    ProtectedMode = "protected_mode", "takes local connections only (protected mode)", See("set a password there");
    /// It has all the connections that it takes.
    TooManyClients = "too_many_clients", "has all the connections that it takes", See("see maxclients there");
    /// No Sentinel knows a master of this name.
    MasterUnknown = "master_unknown", "knows no master of this name", See("see the name in store.url");
    /// It is a replica, or was made one.
    ReadOnly = "read_only", "is a replica, which takes no writes (READONLY)",
        See("name its master in store.url, or Sentinels, which say which it is");
    /// It reads its data after a start.
    Loading = "loading", "still reads its data (LOADING)", See("it goes on by itself");
    /// A script or command keeps it busy.
    Busy = "busy", "is busy with a script (BUSY)", See("see what else uses it");
    /// Its memory is used up.
    OutOfMemory = "out_of_memory", "has no memory left and takes no writes (OOM)", See("see maxmemory there");
    /// It cannot write to its disk.
    NotPersisted = "not_persisted", "cannot save to its disk and takes no writes (MISCONF)", See("see its disk and its log");
    /// It has fewer replicas than it needs.
    TooFewReplicas = "too_few_replicas", "has too few replicas to take writes (NOREPLICAS)",
        See("see its replicas, and min-replicas-to-write");
    /// A replica has lost its master.
    MasterDown = "master_down", "is a replica that has lost its master (MASTERDOWN)", See("see its master");
    /// A cluster has slots that nobody serves.
    ClusterDown = "cluster_down", "has slots that nobody serves (CLUSTERDOWN)", See("see CLUSTER INFO there");
    /// A reply that the gateway does not know: of a proxy in between, or of a newer Redis.
    ReplyUnknown = "reply_unknown", "refuses with a reply that the gateway does not know",
        See("see what stands between, and its log");
}

impl UnavailableCause {
    /// Whether the server may go on answering reads, so that an answer does not mean that it takes writes again.
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

    /// An outage for the sake of a Sentinel.
    #[must_use]
    pub const fn of_sentinel(cause: UnavailableCause) -> Self {
        Self { peer: StorePeer::Sentinel, cause }
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (subject, advice) = match (self.peer, self.cause.advice()) {
            (StorePeer::Redis, See(advice) | Each(advice, _)) => ("Redis", advice),
            (StorePeer::Sentinel, See(advice) | Each(_, advice)) => ("the Sentinel", advice),
        };
        write!(f, "{subject} {}; {advice}", self.cause.what())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn causes_have_distinct_labels_and_descriptions() {
        let labels: BTreeSet<_> = UnavailableCause::ALL.iter().map(|cause| cause.label()).collect();
        let words: BTreeSet<_> = UnavailableCause::ALL.iter().map(|cause| cause.what()).collect();
        assert_eq!((labels.len(), words.len()), (UnavailableCause::ALL.len(), UnavailableCause::ALL.len()));
        for label in labels {
            assert!(label.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{label}");
        }
    }

    #[test]
    fn outage_text_names_server_and_configuration_key() {
        let words = |outage: Outage| outage.to_string();
        let redis = words(Outage::of_redis(UnavailableCause::PasswordRefused));
        assert_eq!(redis, "Redis refuses the user or the password (WRONGPASS); see the password in store.url");
        let sentinel = words(Outage::of_sentinel(UnavailableCause::PasswordRefused));
        assert!(
            sentinel.starts_with("the Sentinel refuses") && sentinel.contains("store.sentinel_password"),
            "{sentinel}"
        );
    }
}

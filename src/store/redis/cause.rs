//! Classifies errors of the Redis library as causes of an outage. No other file reads replies or I/O errors.

use std::{error::Error, io, sync::Arc};

use redis::{ErrorKind, RedisError};
use rustls::AlertDescription;

use crate::{connect_failure::ConnectFailure, store::UnavailableCause as Cause};

/// The cause of the outage that an error means. `None` if the server rejected this one command, or its reply could not
/// be read; other commands may succeed.
pub(super) fn of(error: &RedisError) -> Option<Cause> {
    match error.kind() {
        ErrorKind::Io => Some(of_io(error)),
        ErrorKind::Parse => Some(Cause::NotRedis),
        ErrorKind::AuthenticationFailed => Some(Cause::PasswordRefused),
        ErrorKind::InvalidClientConfig => Some(Cause::TlsFiles),
        ErrorKind::ClusterConnectionNotFound => Some(Cause::ConnectionLost),
        ErrorKind::UnexpectedReturnType | ErrorKind::Client => None,
        _ => match error.code() {
            Some(code) => of_reply(code, error.detail().unwrap_or_default()),
            None => Some(Cause::ReplyUnknown),
        },
    }
}

/// The cause that an error reply means, by its first word and the rest. `None` if the server rejected this one command.
pub(super) fn of_reply(code: &str, detail: &str) -> Option<Cause> {
    match code {
        // The code of every error without a code of its own.
        "ERR" => of_sentence(detail),
        // The command met a value of another type, or a key of another slot: an error of the gateway or of another
        // application.
        "WRONGTYPE" | "CROSSSLOT" | "EXECABORT" | "NOSCRIPT" | "NOTBUSY" | "NOSUB" | "BUSYKEY" | "BUSYGROUP"
        | "UNKILLABLE" | "INVALIDOBJ" => None,
        _ => Some(of_code(code).unwrap_or(Cause::ReplyUnknown)),
    }
}

/// The codes that mean an outage: <https://redis.io/docs/latest/develop/reference/protocol-spec/#simple-errors> and the
/// servers' sources.
fn of_code(code: &str) -> Option<Cause> {
    Some(match code {
        "OOM" => Cause::OutOfMemory,
        "MISCONF" => Cause::NotPersisted,
        "NOREPLICAS" | "NOREPLICA" => Cause::TooFewReplicas,
        "READONLY" => Cause::ReadOnly,
        "NOPERM" => Cause::PermissionDenied,
        "NOAUTH" => Cause::PasswordMissing,
        "WRONGPASS" => Cause::PasswordRefused,
        "DENIED" => Cause::ProtectedMode,
        "LOADING" => Cause::Loading,
        "BUSY" => Cause::Busy,
        "CLUSTERDOWN" | "TRYAGAIN" | "ASK" => Cause::ClusterDown,
        "MOVED" => Cause::TopologyWrong,
        "MASTERDOWN" => Cause::MasterDown,
        // The server has unblocked a waiting client because its role changed.
        "UNBLOCKED" => Cause::ConnectionLost,
        "NOPROTO" => Cause::NotRedis,
        _ => return None,
    })
}

fn of_sentence(sentence: &str) -> Option<Cause> {
    const SENTENCES: &[(&str, Cause)] = &[
        ("max number of clients", Cause::TooManyClients),
        ("max number of connections", Cause::TooManyClients),
        ("without any password configured", Cause::PasswordUnexpected),
        ("but no password is set", Cause::PasswordUnexpected),
        ("invalid password", Cause::PasswordRefused),
        ("operation not permitted", Cause::PasswordMissing),
        ("DB index is out of range", Cause::DatabaseUnknown),
        ("invalid DB index", Cause::DatabaseUnknown),
        ("SELECT is not allowed in cluster mode", Cause::TopologyWrong),
        ("cluster support disabled", Cause::TopologyWrong),
        // The words of Redis 7.0 and 7.1 for a command in a script.
        ("The user executing the script can't", Cause::PermissionDenied),
        ("unknown command", Cause::CommandUnknown),
        ("unknown subcommand", Cause::CommandUnknown),
        ("Unknown Redis command called from", Cause::CommandUnknown),
    ];
    let found = SENTENCES.iter().find(|(part, _)| sentence.contains(part)).map(|(_, cause)| *cause);
    // Redis 6 wraps the reply to a command in a script: "Error running script (call to f_…): @user_script:1:
    // @user_script: 1: -OOM command not allowed when used memory > 'maxmemory'."
    let inner = || {
        let words = sentence.contains("script").then(|| sentence.split(": ")).into_iter().flatten();
        words.filter_map(|part| of_code(part.trim_start_matches('-').split(' ').next()?)).next()
    };
    found.or_else(inner)
}

fn of_io(error: &RedisError) -> Cause {
    // The library's source is its shared pointer, not the error inside it.
    let source = error.source();
    let Some(inner) = source.and_then(|source| source.downcast_ref::<Arc<dyn Error + Send + Sync>>()) else {
        return source.and_then(|source| source.downcast_ref()).map_or(Cause::ConnectionLost, of_io_error);
    };
    if let Some(error) = inner.downcast_ref::<io::Error>() {
        of_io_error(error)
    } else if let Some(error) = inner.downcast_ref::<rustls::Error>() {
        of_tls(error)
    } else if inner.is::<rustls::pki_types::InvalidDnsNameError>() {
        // No certificate can be issued for this name.
        Cause::CertificateName
    } else {
        Cause::ConnectionLost
    }
}

fn of_io_error(error: &io::Error) -> Cause {
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return of_tls(error);
    }
    match error.kind() {
        io::ErrorKind::NotFound => Cause::SocketMissing,
        io::ErrorKind::PermissionDenied => Cause::SocketForbidden,
        io::ErrorKind::WouldBlock => Cause::TimedOut,
        io::ErrorKind::AddrNotAvailable => Cause::Unreachable,
        // A failed name lookup has no kind and no number of its own, only the standard library's words.
        _ if error.to_string().contains("failed to lookup address information") => Cause::NameUnresolved,
        _ => match ConnectFailure::from_error(error) {
            ConnectFailure::Refused => Cause::ConnectionRefused,
            ConnectFailure::TimedOut => Cause::TimedOut,
            ConnectFailure::Unreachable => Cause::Unreachable,
            _ => Cause::ConnectionLost,
        },
    }
}

fn of_tls(error: &rustls::Error) -> Cause {
    match error {
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied,
        ) => Cause::ClientCertificateRefused,
        rustls::Error::AlertReceived(_) => Cause::TlsIncompatible,
        _ => match ConnectFailure::from_tls_error(error) {
            ConnectFailure::WrongName => Cause::CertificateName,
            ConnectFailure::Expired | ConnectFailure::NotYetValid => Cause::CertificateExpired,
            ConnectFailure::Untrusted | ConnectFailure::CertificateInvalid => Cause::CertificateUntrusted,
            ConnectFailure::NotTls => Cause::TlsNotSpoken,
            _ => Cause::TlsIncompatible,
        },
    }
}

#[cfg(test)]
mod tests {
    use rustls::CertificateError;

    use super::*;

    #[test]
    fn outage_reply_has_its_cause() {
        for (reply, cause) in [
            ("OOM command not allowed when used memory > 'maxmemory'.", Cause::OutOfMemory),
            ("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to", Cause::NotPersisted),
            ("NOREPLICAS Not enough good replicas to write.", Cause::TooFewReplicas),
            ("READONLY You can't write against a read only replica.", Cause::ReadOnly),
            ("READONLY You can't write against a read only replica. script: 1, on @user_script:1.", Cause::ReadOnly),
            ("NOPERM this user has no permissions to run the 'set' command", Cause::PermissionDenied),
            ("NOPERM No permissions to access a key", Cause::PermissionDenied),
            ("NOPERM ACL failure in script: User x has no permissions to run", Cause::PermissionDenied),
            (
                "ERR The user executing the script can't run this command or subcommand script: 1",
                Cause::PermissionDenied,
            ),
            ("NOAUTH Authentication required.", Cause::PasswordMissing),
            ("WRONGPASS invalid username-password pair or user is disabled.", Cause::PasswordRefused),
            ("ERR invalid password", Cause::PasswordRefused),
            (
                "ERR AUTH <password> called without any password configured for the default user.",
                Cause::PasswordUnexpected,
            ),
            ("ERR Client sent AUTH, but no password is set", Cause::PasswordUnexpected),
            ("LOADING Redis is loading the dataset in memory", Cause::Loading),
            ("BUSY Redis is busy running a script.", Cause::Busy),
            ("CLUSTERDOWN The cluster is down", Cause::ClusterDown),
            ("CLUSTERDOWN Hash slot not served", Cause::ClusterDown),
            ("TRYAGAIN Multiple keys request during rehashing of slot", Cause::ClusterDown),
            ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", Cause::MasterDown),
            ("MOVED 3999 127.0.0.1:6381", Cause::TopologyWrong),
            ("ERR This instance has cluster support disabled", Cause::TopologyWrong),
            ("ERR max number of clients reached", Cause::TooManyClients),
            ("ERR max number of clients + cluster connections reached", Cause::TooManyClients),
            ("ERR DB index is out of range", Cause::DatabaseUnknown),
            ("ERR unknown command 'EVALSHA', with args beginning with: ", Cause::CommandUnknown),
            ("DENIED Redis is running in protected mode because", Cause::ProtectedMode),
            ("UNBLOCKED force unblock from blocking operation, instance state changed", Cause::ConnectionLost),
            ("no healthy upstream", Cause::ReplyUnknown),
            // In Redis 6, the reply follows the script's own words.
            (
                "ERR Error running script (call to f_1): @user_script:1: @user_script: 1: -OOM command not",
                Cause::OutOfMemory,
            ),
            ("ERR Error running script (call to f_1): @user_script:1: @user_script: 1: -READONLY You", Cause::ReadOnly),
            (
                "ERR Error running script (call to f_1): @user_script:1: @user_script: 1: -NOPERM The",
                Cause::PermissionDenied,
            ),
            (
                "ERR Error running script (call to f_1): @user_script:1: @user_script: 1: MISCONF Re",
                Cause::NotPersisted,
            ),
        ] {
            let (code, detail) = reply.split_once(' ').unwrap();
            assert_eq!(of_reply(code, detail), Some(cause), "{reply}");
        }
    }

    #[test]
    fn reply_about_one_command_is_no_outage() {
        for reply in [
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "CROSSSLOT Keys in request don't hash to the same slot",
            "ERR value is not an integer or out of range",
            "ERR syntax error",
            "ERR Error running script (call to f_1): @user_script:1: @user_script: 1: attempt to compare nil",
        ] {
            let (code, detail) = reply.split_once(' ').unwrap();
            assert_eq!(of_reply(code, detail), None, "{reply}");
        }
    }

    #[test]
    fn io_error_has_cause_of_its_kind() {
        let of_kind = |kind: io::ErrorKind| of(&RedisError::from(io::Error::from(kind)));
        for (kind, cause) in [
            (io::ErrorKind::ConnectionRefused, Cause::ConnectionRefused),
            (io::ErrorKind::NotFound, Cause::SocketMissing),
            (io::ErrorKind::PermissionDenied, Cause::SocketForbidden),
            (io::ErrorKind::TimedOut, Cause::TimedOut),
            (io::ErrorKind::NetworkUnreachable, Cause::Unreachable),
            (io::ErrorKind::ConnectionReset, Cause::ConnectionLost),
            (io::ErrorKind::UnexpectedEof, Cause::ConnectionLost),
        ] {
            assert_eq!(of_kind(kind), Some(cause), "{kind}");
        }
        let of_tls = |error: rustls::Error| of(&RedisError::from(io::Error::new(io::ErrorKind::InvalidData, error)));
        let certificate = |error: CertificateError| of_tls(rustls::Error::InvalidCertificate(error));
        assert_eq!(certificate(CertificateError::UnknownIssuer), Some(Cause::CertificateUntrusted));
        assert_eq!(certificate(CertificateError::NotValidForName), Some(Cause::CertificateName));
        assert_eq!(certificate(CertificateError::Expired), Some(Cause::CertificateExpired));
        let alert = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
        assert_eq!(of_tls(alert), Some(Cause::ClientCertificateRefused));
    }

    #[tokio::test]
    async fn failed_lookup_is_name_unresolved() {
        let error = tokio::net::lookup_host("no-such-host.invalid:6379").await.err().unwrap();
        assert_eq!(of(&RedisError::from(error)), Some(Cause::NameUnresolved));
    }
}

//! Runs every command that the store needs, on keys of its own that are deleted afterwards.
//!
//! An ACL may forbid a command, and a server may lack one. `check --online` names it. An outage of writes ends when the
//! server accepts all of them.

use redis::{Cmd, cmd};

use super::connection::ConnectionManager;
use crate::{
    store::{RejectedCommand, StoreError, random_bytes},
    time::unix_now,
};

/// Expiry of the keys if they cannot be deleted, seconds.
const KEY_TTL_SECONDS: u64 = 60;
/// A script with one command.
const SCRIPT: &str = "return redis.call('EXISTS', KEYS[1])";

/// Runs every command.
///
/// # Errors
/// The first command that failed.
pub(super) async fn run(link: &ConnectionManager, prefix: &str) -> Result<(), RejectedCommand> {
    let refused = |command: &str, error: StoreError| {
        let outage = link.health().outage().filter(|_| error == StoreError::Unavailable);
        RejectedCommand { command: command.to_owned(), outage }
    };
    let random = random_bytes().map_err(|error| refused("SET", error))?;
    // All keys are in one slot of a cluster.
    let keys = Keys::new(prefix, u128::from_be_bytes(random));
    let mut outcome = Ok(());
    for command in commands(&keys) {
        let tried = link.query::<redis::Value>(&command).await;
        outcome = tried.map(|_| ()).map_err(|error| refused(&name(&command), error));
        if outcome.is_err() {
            break;
        }
    }
    if outcome.is_ok() {
        let loaded = link.query::<String>(cmd("SCRIPT").arg("LOAD").arg(SCRIPT)).await;
        outcome = match loaded {
            Ok(digest) => {
                let evaluated = cmd("EVALSHA").arg(digest).arg(1).arg(&keys.text).to_owned();
                let evaluated = link.query::<redis::Value>(&evaluated).await;
                evaluated.map(|_| ()).map_err(|error| refused("EVALSHA", error))
            }
            Err(error) => Err(refused("SCRIPT LOAD", error)),
        };
    }
    let deleted = link.query::<redis::Value>(&delete(&keys)).await;
    outcome.and(deleted.map(|_| ()).map_err(|error| refused("DEL", error)))
}

struct Keys {
    text: String,
    hash: String,
    set: String,
    stream: String,
}

impl Keys {
    fn new(prefix: &str, random: u128) -> Self {
        let key = |kind: &str| format!("{prefix}:try:{{{random:032x}}}:{kind}");
        Self { text: key("text"), hash: key("hash"), set: key("set"), stream: key("stream") }
    }
}

fn delete(keys: &Keys) -> Cmd {
    cmd("DEL").arg(&[&keys.text, &keys.hash, &keys.set, &keys.stream]).to_owned()
}

fn name(command: &Cmd) -> String {
    match command.args_iter().next() {
        Some(redis::Arg::Simple(name)) => String::from_utf8_lossy(name).into_owned(),
        _ => String::new(),
    }
}

/// Commands that delete keys, or let them expire, come before those that create keys.
fn commands(keys: &Keys) -> Vec<Cmd> {
    let Keys { text, hash, set, stream } = keys;
    let ends_at = unix_now() + KEY_TTL_SECONDS;
    let of = |name: &str, key: &str| cmd(name).arg(key).to_owned();
    let lasting = |key: &str| cmd("EXPIREAT").arg(key).arg(ends_at).to_owned();
    vec![
        delete(keys),
        lasting(text),
        cmd("PEXPIREAT").arg(text).arg(ends_at * 1000).to_owned(),
        cmd("SET").arg(text).arg(1).arg("NX").arg("EXAT").arg(ends_at).to_owned(),
        of("GET", text),
        of("EXISTS", text),
        of("TTL", text),
        cmd("HSET").arg(hash).arg("f").arg(1).to_owned(),
        lasting(hash),
        cmd("HGET").arg(hash).arg("f").to_owned(),
        cmd("HMGET").arg(hash).arg("f").arg("g").to_owned(),
        cmd("HINCRBY").arg(hash).arg("f").arg(1).to_owned(),
        cmd("SADD").arg(set).arg(1).arg(2).to_owned(),
        lasting(set),
        of("SMEMBERS", set),
        cmd("SREM").arg(set).arg(1).to_owned(),
        cmd("XADD").arg(stream).arg("MINID").arg("~").arg(0).arg("*").arg("d").arg(1).to_owned(),
        lasting(stream),
        cmd("XRANGE").arg(stream).arg("-").arg("+").arg("COUNT").arg(1).to_owned(),
        cmd("XREVRANGE").arg(stream).arg("+").arg("-").arg("COUNT").arg(1).to_owned(),
        cmd("TIME"),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn command_check_covers_every_command_of_the_store() {
        let source = concat!(
            include_str!("../redis.rs"),
            include_str!("key_comparer.rs"),
            include_str!("keyspace.rs"),
            include_str!("revocations.rs"),
            include_str!("scripts.rs"),
        );
        let named = |start: &str| {
            let words = source.split(start).skip(1).filter_map(|rest| rest.split(['\'', '"']).next());
            words.map(str::to_owned).collect::<BTreeSet<_>>()
        };
        let sent: BTreeSet<_> = named("cmd(\"").union(&named("redis.call('")).cloned().collect();
        assert!(sent.len() > 15, "{sent:?}");
        let tried: BTreeSet<_> = commands(&Keys::new("test", 1)).iter().map(name).collect();
        assert_eq!(sent, tried);
    }
}

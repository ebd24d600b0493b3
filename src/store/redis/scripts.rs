//! The Lua scripts that the store runs in Redis.
//!
//! Redis runs a script as one step: no other command is executed meanwhile. The keys of each script are those of one session,
//! or one key, so that they are in one slot of a cluster. Each script that writes a key also sets when the key expires.

use std::sync::LazyLock;

use redis::Script;

/// Writes a session with its expiry. One step, so that no session is ever without an expiry.
///
/// KEYS: session. ARGV: its expiry in s, then the fields and values of the hash.
pub(super) static INSERT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "redis.call('HSET', KEYS[1], unpack(ARGV, 2))
         return redis.call('EXPIREAT', KEYS[1], ARGV[1])",
    )
});

/// Appends an entry to the stream of ended tokens. One step, so that the stream is never without an expiry.
///
/// KEYS: stream. ARGV: the oldest time that is kept in ms, the stream's expiry in s, then the fields and values of an entry.
pub(super) static APPEND_EVENT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "redis.call('XADD', KEYS[1], 'MINID', '~', ARGV[1], '*', unpack(ARGV, 3))
         return redis.call('EXPIREAT', KEYS[1], ARGV[2])",
    )
});

/// Locks a session that exists. One step, so that only the holder of the lock increments its number: the numbers of two
/// locks of a session differ, and the later one is higher.
///
/// KEYS: session, lock. ARGV: owner, lease in ms. Returns the lock's number, 0 if it is taken, -1 if the session is gone.
pub(super) static LOCK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
         if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return redis.call('HINCRBY', KEYS[1], 'f', 1) end
         return 0",
    )
});

/// Removes a lock that the caller still owns. One step, so that a lock that has expired and was taken by another owner in
/// between is not removed.
///
/// KEYS: lock. ARGV: owner.
pub(super) static UNLOCK: LazyLock<Script> = LazyLock::new(|| {
    Script::new("if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0")
});

/// Compare-and-set: writes a new version of a session if the stored one is the version that was read, and no later lock has
/// written. One step, so that two writers cannot both succeed. Gives the lock back, if the caller still owns it.
///
/// KEYS: session, lock. ARGV: version read, lock's number, owner, encrypted session, expiry in ms. Returns 1 if it was written.
pub(super) static REPLACE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('HGET', KEYS[1], 'v') ~= ARGV[1] then return 0 end
         if tonumber(redis.call('HGET', KEYS[1], 'w') or '0') > tonumber(ARGV[2]) then return 0 end
         redis.call('HSET', KEYS[1], 'r', ARGV[4], 'v', tonumber(ARGV[1]) + 1, 'w', ARGV[2])
         redis.call('PEXPIREAT', KEYS[1], ARGV[5])
         if redis.call('GET', KEYS[2]) == ARGV[3] then redis.call('DEL', KEYS[2]) end
         return 1",
    )
});

/// Deletes a session and its lock. One step, so that the version that is returned is the last one: a refresh writes its
/// version before, and it is returned, or finds no session.
///
/// KEYS: session, lock. Returns the encrypted session.
pub(super) static DELETE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local sealed = redis.call('HGET', KEYS[1], 'r')
         redis.call('DEL', KEYS[1], KEYS[2])
         return sealed",
    )
});

/// Writes a revocation record, unless the stored one covers what is ended. One step, so that the numbers of one key only grow.
///
/// KEYS: record. ARGV: how to tell whether the stored record covers what is ended (`after` a number, `issued` at a time,
/// `never`), that number or time, the time of the end, a record of an earlier key (number, time), life in ms. Returns the
/// record's number and time. A number is the server's time in µs, and higher than every earlier one.
pub(super) static RECORD_REVOCATION: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local number, at = tonumber(ARGV[4]), tonumber(ARGV[5])
         local kept_number, kept_at = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+):(%d+)$')
         if kept_number and tonumber(kept_number) > number then number, at = tonumber(kept_number), tonumber(kept_at) end
         local covered = number > 0
           and ((ARGV[1] == 'after' and number > tonumber(ARGV[2])) or (ARGV[1] == 'issued' and tonumber(ARGV[2]) <= at))
         if not covered then
           local time = redis.call('TIME')
           number = math.max(time[1] * 1000000 + time[2], number + 1)
           at = math.max(at, tonumber(ARGV[3]))
           redis.call('SET', KEYS[1], string.format('%.0f:%.0f', number, at), 'PX', ARGV[6])
         end
         return {string.format('%.0f', number), string.format('%.0f', at)}",
    )
});

/// Adds a session to its customer's set, which lasts as long as the longest of them. One step, so that a session with an
/// earlier expiry does not shorten the set's life.
///
/// KEYS: the customer's sessions. ARGV: id, its expiry in s.
pub(super) static ADD_TO_CUSTOMER: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "redis.call('SADD', KEYS[1], ARGV[1])
         local left = redis.call('TTL', KEYS[1])
         if left < 0 or redis.call('TIME')[1] + left < tonumber(ARGV[2]) then redis.call('EXPIREAT', KEYS[1], ARGV[2]) end
         return 1",
    )
});

/// Notes when a session was used. One step, so that an earlier use never replaces a later one, and a deleted session is not
/// created again.
///
/// KEYS: session. ARGV: last use.
pub(super) static TOUCH: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local used = redis.call('HGET', KEYS[1], 'u')
         if used and tonumber(used) < tonumber(ARGV[1]) then redis.call('HSET', KEYS[1], 'u', ARGV[1]) end
         return 1",
    )
});

/// Takes time out of a bucket, which is stored as the time at which nothing is missing. One step, so that replicas cannot take
/// the same time twice.
///
/// KEYS: bucket. ARGV: the time to take and the maximum that may be missing then, in units, and the number of units in a second.
/// Returns 1 and the time that was missing before; or 0, if nothing was taken, and the time until it can be taken.
pub(super) static RESERVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local time, unit = redis.call('TIME'), tonumber(ARGV[3])
         local now = time[1] * unit + math.floor(time[2] * unit / 1000000)
         local missing = math.max(tonumber(redis.call('GET', KEYS[1]) or '0') - now, 0)
         local after = missing + tonumber(ARGV[1])
         if after > tonumber(ARGV[2]) then return {0, after - tonumber(ARGV[2])} end
         redis.call('SET', KEYS[1], string.format('%.0f', now + after), 'PX', math.max(math.ceil(after * 1000 / unit), 1))
         return {1, missing}",
    )
});

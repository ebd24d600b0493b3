//! The connection to Redis: made when a command needs it, and again when it breaks or the server refuses commands.
//!
//! A command waits no longer than `store.timeout`. For a moment after a failed attempt to connect, commands fail at
//! once. A server that refuses writes (out of memory, made a replica) keeps its connection, because it still serves
//! reads. At most once a second, a refused command is sent on a new connection, for which Sentinels and DNS are read
//! again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use redis::{Cmd, FromRedisValue, RedisError, ScriptInvocation};
use tokio::sync::{Mutex, RwLock};

use super::{
    cause,
    config_error::RedisConfigError,
    connector::{Connection, Connector},
    health::Health,
};
use crate::{
    config::RedisStore,
    observability::metrics::Metrics,
    store::{Outage, StoreError, UnavailableCause as Cause},
};

/// How long commands fail at once after a failed attempt to connect.
const RECONNECT_INTERVAL: Duration = Duration::from_millis(250);
/// How long a connection is kept whose server refuses commands.
const REFUSAL_RECONNECT_INTERVAL: Duration = Duration::from_secs(1);

/// Sends commands, and connects again when the connection has broken.
#[derive(Clone)]
pub(super) struct ConnectionManager(Arc<State>);

struct State {
    connector: Connector,
    timeout: Duration,
    open: RwLock<Option<OpenConnection>>,
    /// When the last attempt to connect failed. One attempt runs at a time.
    failed_at: Mutex<Option<Instant>>,
    /// The number of connections made so far.
    made: AtomicU64,
    health: Health,
}

#[derive(Clone)]
struct OpenConnection {
    connection: Connection,
    number: u64,
    made_at: Instant,
}

/// A command or a script.
#[derive(Clone, Copy)]
enum Operation<'w> {
    Command(&'w Cmd),
    Script(&'w ScriptInvocation<'w>),
}

impl Operation<'_> {
    async fn run<T: FromRedisValue>(self, connection: Connection) -> Result<T, RedisError> {
        match (self, connection) {
            (Self::Command(command), Connection::One(mut one)) => command.query_async(&mut one).await,
            (Self::Command(command), Connection::Cluster(mut cluster)) => command.query_async(&mut cluster).await,
            (Self::Script(script), Connection::One(mut one)) => script.invoke_async(&mut one).await,
            (Self::Script(script), Connection::Cluster(mut cluster)) => script.invoke_async(&mut cluster).await,
        }
    }
}

impl std::fmt::Debug for ConnectionManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("is_up", &self.0.health.is_up()).finish_non_exhaustive()
    }
}

impl ConnectionManager {
    pub(super) fn new(settings: &RedisStore, metrics: &Metrics) -> Result<Self, RedisConfigError> {
        Ok(Self(Arc::new(State {
            connector: Connector::new(settings)?,
            timeout: settings.timeout,
            open: RwLock::new(None),
            failed_at: Mutex::new(None),
            made: AtomicU64::new(0),
            health: Health::new(metrics.store_up.clone()),
        })))
    }

    /// The health of the store.
    pub(super) fn health(&self) -> &Health {
        &self.0.health
    }

    /// The time limit of a command: two attempts, each with a new connection.
    pub(super) fn write_timeout(&self) -> Duration {
        self.0.timeout * 4
    }

    /// Runs one command. If the connection has broken, or the server refuses commands, the command is sent once more on
    /// a new connection.
    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        self.run(Operation::Command(command)).await
    }

    /// Runs one script, and loads it if the server does not know it.
    pub(super) async fn script<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, StoreError> {
        self.run(Operation::Script(script)).await
    }

    async fn run<T: FromRedisValue>(&self, operation: Operation<'_>) -> Result<T, StoreError> {
        let mut is_second = false;
        loop {
            let (open, is_fresh) = self.open().await?;
            let number = open.number;
            let Ok(outcome) = tokio::time::timeout(self.0.timeout, operation.run(open.connection)).await else {
                self.forget(number).await;
                *self.0.failed_at.lock().await = Some(Instant::now());
                return Err(self.unavailable(Cause::TimedOut));
            };
            let error = match outcome {
                Ok(value) => {
                    self.0.health.answered();
                    return Ok(value);
                }
                Err(error) => error,
            };
            let Some(cause) = cause::of(&error) else {
                // The library's text may quote arguments; the kind does not.
                tracing::error!(kind = ?error.kind(), code = error.code(), "session store rejected a command");
                return Err(StoreError::Broken("a command was rejected"));
            };
            let is_broken = !is_reply(&error);
            if is_broken {
                self.forget(number).await;
            }
            // A new connection that breaks at once shows an outage, not an old connection.
            let is_old = if is_broken { !is_fresh } else { open.made_at.elapsed() >= REFUSAL_RECONNECT_INTERVAL };
            if is_second || !is_old {
                return Err(self.unavailable(cause));
            }
            self.forget(number).await;
            is_second = true;
        }
    }

    fn unavailable(&self, cause: Cause) -> StoreError {
        self.0.health.failed(Outage::of_redis(cause));
        StoreError::Unavailable
    }

    /// The connection, and whether it is new. Connecting may take longer than a command. The caller waits no longer
    /// than for a command, and the attempt continues for later callers.
    async fn open(&self) -> Result<(OpenConnection, bool), StoreError> {
        if let Some(open) = &*self.0.open.read().await {
            return Ok((open.clone(), false));
        }
        let link = self.clone();
        let connecting = tokio::spawn(async move { link.connect().await });
        match tokio::time::timeout(self.0.timeout, connecting).await {
            Ok(Ok(made)) => made,
            Ok(Err(_)) | Err(_) => Err(StoreError::Unavailable),
        }
    }

    /// Connects, unless another caller has connected or just failed to.
    async fn connect(&self) -> Result<(OpenConnection, bool), StoreError> {
        let mut failed_at = self.0.failed_at.lock().await;
        if let Some(open) = &*self.0.open.read().await {
            return Ok((open.clone(), false));
        }
        if failed_at.is_some_and(|at| at.elapsed() < RECONNECT_INTERVAL) {
            return Err(StoreError::Unavailable);
        }
        match self.0.connector.connect().await {
            Ok(connection) => {
                *failed_at = None;
                let number = self.0.made.fetch_add(1, Ordering::Relaxed);
                let open = OpenConnection { connection, number, made_at: Instant::now() };
                *self.0.open.write().await = Some(open.clone());
                Ok((open, true))
            }
            Err(outage) => {
                *failed_at = Some(Instant::now());
                self.0.health.failed(outage);
                Err(StoreError::Unavailable)
            }
        }
    }

    /// Drops this connection, so that the next command connects again.
    async fn forget(&self, number: u64) {
        self.0.open.write().await.take_if(|open| open.number == number);
    }
}

/// Whether the server replied, so that the connection is still usable.
fn is_reply(error: &RedisError) -> bool {
    error.code().is_some()
}

//! The link to Redis: one connection, made when it is needed and anew when it broke or its server refuses.
//!
//! A command waits no longer than `store.timeout`. While Redis cannot be reached nobody waits for a connection that failed a
//! moment ago. A server that refuses for the time being (out of memory, made a replica) keeps its connection, because reads
//! go on; at most once a second the command is tried on a new one, for which Sentinels and DNS are asked again.

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

/// After a failed attempt to connect, how long commands fail at once.
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// How long a connection is kept whose server refuses commands for the time being.
const REFUSED_FOR: Duration = Duration::from_secs(1);

/// A connection that is made when it is needed and again when it broke.
#[derive(Clone)]
pub(super) struct ConnectionManager(Arc<State>);

struct State {
    connector: Connector,
    timeout: Duration,
    live: RwLock<Option<OpenConnection>>,
    /// When the last attempt failed; only one attempt runs at a time.
    failed_at: Mutex<Option<Instant>>,
    /// Counts the connections.
    made: AtomicU64,
    health: Health,
}

#[derive(Clone)]
struct OpenConnection {
    connection: Connection,
    number: u64,
    made_at: Instant,
}

/// What is sent.
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
            live: RwLock::new(None),
            failed_at: Mutex::new(None),
            made: AtomicU64::new(0),
            health: Health::new(metrics.store_up.clone()),
        })))
    }

    /// Whether the store can be used.
    pub(super) fn health(&self) -> &Health {
        &self.0.health
    }

    /// How long a command may take before it fails: two attempts, each with a new connection.
    pub(super) fn write_timeout(&self) -> Duration {
        self.0.timeout * 4
    }

    /// Runs one command. It is sent a second time, on a new connection, if the first one broke or its server refuses for
    /// the time being.
    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        self.run(Operation::Command(command)).await
    }

    /// Runs one script, loading it where it is not known yet.
    pub(super) async fn script<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, StoreError> {
        self.run(Operation::Script(script)).await
    }

    async fn run<T: FromRedisValue>(&self, work: Operation<'_>) -> Result<T, StoreError> {
        let mut is_second = false;
        loop {
            let (live, is_fresh) = self.live().await?;
            let number = live.number;
            let Ok(outcome) = tokio::time::timeout(self.0.timeout, work.run(live.connection)).await else {
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
                tracing::error!(kind = ?error.kind(), code = error.code(), "the session store refused a command");
                return Err(StoreError::Broken("it refused a command"));
            };
            let is_broken = !is_reply(&error);
            if is_broken {
                self.forget(number).await;
            }
            // A connection just made that breaks at once is no accident of an old one.
            let is_old = if is_broken { !is_fresh } else { live.made_at.elapsed() >= REFUSED_FOR };
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

    /// The connection, and whether it was made just now. Making it may take longer than a command: it goes on
    /// for those who come later, while nobody waits longer than for a command.
    async fn live(&self) -> Result<(OpenConnection, bool), StoreError> {
        if let Some(live) = &*self.0.live.read().await {
            return Ok((live.clone(), false));
        }
        let link = self.clone();
        let connecting = tokio::spawn(async move { link.connect().await });
        match tokio::time::timeout(self.0.timeout, connecting).await {
            Ok(Ok(made)) => made,
            Ok(Err(_)) | Err(_) => Err(StoreError::Unavailable),
        }
    }

    /// Makes the connection, unless another has or just failed to.
    async fn connect(&self) -> Result<(OpenConnection, bool), StoreError> {
        let mut failed_at = self.0.failed_at.lock().await;
        if let Some(live) = &*self.0.live.read().await {
            return Ok((live.clone(), false));
        }
        if failed_at.is_some_and(|at| at.elapsed() < RETRY_AFTER) {
            return Err(StoreError::Unavailable);
        }
        match self.0.connector.connect().await {
            Ok(connection) => {
                *failed_at = None;
                let number = self.0.made.fetch_add(1, Ordering::Relaxed);
                let live = OpenConnection { connection, number, made_at: Instant::now() };
                *self.0.live.write().await = Some(live.clone());
                Ok((live, true))
            }
            Err(outage) => {
                *failed_at = Some(Instant::now());
                self.0.health.failed(outage);
                Err(StoreError::Unavailable)
            }
        }
    }

    /// Lets the next command make a new connection, unless another has done so already.
    async fn forget(&self, number: u64) {
        self.0.live.write().await.take_if(|live| live.number == number);
    }
}

/// Whether the server answered: its connection is as good as before.
fn is_reply(error: &RedisError) -> bool {
    error.code().is_some()
}

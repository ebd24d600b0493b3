//! What the process does on signals: stop, take another configuration over, hand over to another process.
//!
//! Owns the handlers. They stand as soon as [`Signals::new`] returns, so that no signal ends the process without a word,
//! however early it comes. Signals that mean nothing here would end the process by default: they are ignored with a log line.

use std::{io, net::TcpListener, pin::pin, sync::Arc};

use futures_util::{
    FutureExt,
    future::{Fuse, FusedFuture},
};
use rustix::process::Signal as Number;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    Reloader,
    restart::{Program, RestartError},
};
use crate::config::{ConfigErrors, Loaded};

/// Signals that end a process by default and mean nothing here. Other servers reopen their logs or start again on some of
/// them, so that operators and their scripts send them.
const IGNORED_SIGNALS: [(Number, &str); 8] = [
    (Number::USR1, "SIGUSR1"),
    (Number::USR2, "SIGUSR2"),
    (Number::ALARM, "SIGALRM"),
    (Number::VTALARM, "SIGVTALRM"),
    (Number::PROF, "SIGPROF"),
    (Number::IO, "SIGIO"),
    (Number::POWER, "SIGPWR"),
    (Number::STKFLT, "SIGSTKFLT"),
];

/// Why the gateway stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The process ends without a successor. Load balancers need time to notice.
    Shutdown,
    /// Another process already accepts connections from the same sockets.
    Restart,
}

/// Every signal that is listened to.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    quit: Signal,
    program: Program,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// If the operating system does not let us.
    pub fn new() -> io::Result<Self> {
        for (number, name) in IGNORED_SIGNALS {
            tokio::spawn(ignore(name, signal(SignalKind::from_raw(number.as_raw()))?));
        }
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            program: Program::current()?,
        })
    }

    /// The interrupts, for a stop that takes too long.
    ///
    /// # Errors
    /// If the operating system does not let us.
    pub fn interrupts(&self) -> io::Result<Interrupts> {
        signal(SignalKind::interrupt()).map(Interrupts)
    }

    /// Obeys until the gateway has to stop: SIGTERM and SIGINT stop it, SIGHUP opens the audit log's file anew (by
    /// `reopen`) and reads the configuration again, SIGQUIT starts the program anew on the same sockets and stops when that is ready. Until then the others are obeyed too:
    /// a stop ends the new process, and a reload is refused, because that one has read its configuration already.
    pub async fn handle_until_stop(
        mut self,
        reloader: Arc<Reloader>,
        sockets: Vec<TcpListener>,
        reopen: impl Fn(),
        read: impl Fn() -> Result<Loaded, ConfigErrors>,
    ) -> StopReason {
        let mut restart = pin!(Fuse::terminated());
        loop {
            tokio::select! {
                biased;
                // First: a process that is ready by now is not to be ended by a stop of this one.
                taken_over = &mut restart => match taken_over {
                    Ok(process) => {
                        tracing::info!(process, "another process has taken over");
                        return StopReason::Restart;
                    }
                    Err(error) => tracing::error!(%error, "no other process took over; this one goes on"),
                },
                _ = self.terminate.recv() => return StopReason::Shutdown,
                _ = self.interrupt.recv() => return StopReason::Shutdown,
                _ = self.hang_up.recv() => {
                    reopen();
                    if restart.is_terminated() {
                        reload(&reloader, read());
                        continue;
                    }
                    reloader.record_failure();
                    tracing::error!("another process is taking over; send SIGHUP again when it has, or has failed");
                },
                _ = self.quit.recv() => if restart.is_terminated() {
                    restart.set(restart_program(self.program.clone(), &sockets).fuse());
                } else {
                    tracing::warn!("another process is about to take over already");
                },
            }
        }
    }
}

/// SIGINT, counted from the start of the process.
#[derive(Debug)]
pub struct Interrupts(Signal);

impl Interrupts {
    /// Returns when the second one has come: the first began a stop, and somebody does not want to wait for its end.
    pub async fn wait_for_second(mut self) {
        for _ in 0..2 {
            self.0.recv().await;
        }
    }
}

async fn ignore(name: &'static str, mut signal: Signal) {
    while signal.recv().await.is_some() {
        tracing::warn!(
            signal = name,
            "signal ignored; SIGHUP reloads the configuration and reopens log.audit_file, SIGTERM stops the gateway"
        );
    }
}

async fn restart_program(program: Program, sockets: &[TcpListener]) -> Result<u32, RestartError> {
    let sockets = sockets.iter().map(TcpListener::try_clone).collect::<io::Result<Vec<_>>>()?;
    program.start_successor(sockets).await
}

fn reload(reloader: &Reloader, loaded: Result<Loaded, ConfigErrors>) {
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(errors) => {
            reloader.record_failure();
            tracing::error!("the configuration is wrong, and the one before stays in force:\n{errors}");
            return;
        }
    };
    for warning in &loaded.warnings {
        tracing::warn!(key = warning.path, "{}", warning.message);
    }
    match reloader.reload(loaded.settings) {
        Ok(waiting) => {
            for key in waiting {
                tracing::warn!(key, "this change has no effect before the next start");
            }
            tracing::info!("another configuration is in force");
        }
        Err(error) => {
            tracing::error!(%error, "the configuration cannot be taken over, and the one before stays in force")
        }
    }
}

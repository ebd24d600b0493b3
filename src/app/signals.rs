//! Signal handling: stop, reload, restart.
//!
//! The handlers are installed when [`Signals::new`] returns, so an early signal is not lost. Signals without a meaning here would
//! end the process by default; they are ignored and logged.

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

/// Signals without a meaning here that would end the process by default. Operators' scripts send some of them, because other
/// servers reopen logs or restart on them.
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

/// The installed signal handlers.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    quit: Signal,
    program: Program,
}

impl Signals {
    /// Installs the handlers.
    ///
    /// # Errors
    /// Returns the I/O error if a handler cannot be installed.
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

    /// A second handler of SIGINT, for a stop that takes too long.
    ///
    /// # Errors
    /// Returns the I/O error if the handler cannot be installed.
    pub fn interrupts(&self) -> io::Result<Interrupts> {
        signal(SignalKind::interrupt()).map(Interrupts)
    }

    /// Handles signals until the gateway has to stop, and returns why.
    ///
    /// - SIGTERM and SIGINT stop the gateway. They also kill a new process that is not ready yet.
    /// - SIGHUP reopens the audit log (`reopen`) and reloads the configuration. During a restart the reload is rejected, because
    ///   the new process has already read its configuration.
    /// - SIGQUIT restarts: it starts the program on the same sockets, and stops this process when the new one is ready.
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
                // First, so that a stop does not kill a new process that is already ready.
                taken_over = &mut restart => match taken_over {
                    Ok(process) => {
                        tracing::info!(process, "restart complete: a new process accepts connections");
                        return StopReason::Restart;
                    }
                    Err(error) => tracing::error!(%error, "restart failed, this process continues"),
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
                    tracing::error!("reload rejected during a restart; send SIGHUP again after the restart");
                },
                _ = self.quit.recv() => if restart.is_terminated() {
                    restart.set(restart_program(self.program.clone(), &sockets).fuse());
                } else {
                    tracing::warn!("SIGQUIT ignored: a restart is in progress");
                },
            }
        }
    }
}

/// SIGINT signals, counted from the start of the process.
#[derive(Debug)]
pub struct Interrupts(Signal);

impl Interrupts {
    /// Returns at the second SIGINT: the first one starts the stop, the second one ends the process at once.
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
            tracing::error!("reload rejected: invalid configuration, keeping the current one:\n{errors}");
            return;
        }
    };
    for warning in &loaded.warnings {
        tracing::warn!(key = warning.path, "{}", warning.message);
    }
    match reloader.reload(loaded.settings) {
        Ok(waiting) => {
            for key in waiting {
                tracing::warn!(key, "change takes effect after a restart");
            }
            tracing::info!("configuration reloaded");
        }
        Err(error) => {
            tracing::error!(%error, "reload failed, keeping the current one")
        }
    }
}

//! What the process does on signals: stop, take another configuration over, hand over to another process.
//!
//! Owns the handlers. They stand as soon as [`Signals::new`] returns, so that no signal ends the process without a word,
//! however early it comes.

use std::{io, net::TcpListener, pin::pin, sync::Arc};

use futures_util::{
    FutureExt,
    future::{Fuse, FusedFuture},
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    Live, Stop,
    handover::{HandoverError, Program},
};
use crate::settings::{ConfigErrors, Loaded};

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
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            program: Program::own()?,
        })
    }

    /// Obeys until the gateway has to stop: SIGTERM and SIGINT stop it, SIGHUP reads the configuration again, SIGQUIT
    /// starts the program anew on the same sockets and stops when that is ready. Until then the others are obeyed too:
    /// a stop ends the new process, and a reload is refused, because that one has read its configuration already.
    pub async fn obey(
        mut self,
        live: Arc<Live>,
        sockets: Vec<TcpListener>,
        read: impl Fn() -> Result<Loaded, ConfigErrors>,
    ) -> Stop {
        let mut handover = pin!(Fuse::terminated());
        loop {
            tokio::select! {
                biased;
                // First: a process that is ready by now is not to be ended by a stop of this one.
                taken_over = &mut handover => match taken_over {
                    Ok(process) => {
                        tracing::info!(process, "another process has taken over");
                        return Stop::HandedOver;
                    }
                    Err(error) => tracing::error!(%error, "no other process took over; this one goes on"),
                },
                _ = self.terminate.recv() => return Stop::Ended,
                _ = self.interrupt.recv() => return Stop::Ended,
                _ = self.hang_up.recv() => if handover.is_terminated() {
                    reload(&live, read());
                } else {
                    live.reload_failed();
                    tracing::error!("another process is taking over; send SIGHUP again when it has, or has failed");
                },
                _ = self.quit.recv() => if handover.is_terminated() {
                    handover.set(hand_over(self.program.clone(), &sockets).fuse());
                } else {
                    tracing::warn!("another process is about to take over already");
                },
            }
        }
    }
}

async fn hand_over(program: Program, sockets: &[TcpListener]) -> Result<u32, HandoverError> {
    let sockets = sockets.iter().map(TcpListener::try_clone).collect::<io::Result<Vec<_>>>()?;
    program.take_over(sockets).await
}

fn reload(live: &Live, loaded: Result<Loaded, ConfigErrors>) {
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(errors) => {
            live.reload_failed();
            tracing::error!("the configuration is wrong, and the one before stays in force:\n{errors}");
            return;
        }
    };
    for warning in &loaded.warnings {
        tracing::warn!(key = warning.path, "{}", warning.problem);
    }
    match live.reload(loaded.settings) {
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

//! Listening sockets from one process to the next, so that a new program takes over and no connection is refused.
//!
//! Owns both ends. The old process starts its program anew, as it now lies on the disk, and leaves it the listening
//! sockets in the way of systemd's socket activation (`LISTEN_FDS`). The new one accepts nothing before it is ready, and
//! says so on its standard output; only then does the old one stop accepting. A new process that never gets ready is
//! ended, and nothing has changed.

use std::{
    env,
    ffi::OsString,
    io,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use listenfd::ListenFd;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

/// What a new process writes when it is ready.
const READY_LINE: &str = "ready";
/// Tells a new process that somebody waits for that word.
const NOTIFY_READY_ENV: &str = "SHOPPER_GATEWAY_NOTIFY_READY";
/// The first descriptor of socket activation.
const LISTEN_FDS_START: i32 = 3;
/// How long a new process may take to get ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// The program and its arguments, as they were when this process started.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

/// What this process was started with.
#[derive(Debug, Default)]
pub struct InheritedSockets {
    sockets: Vec<(SocketAddr, TcpListener)>,
    pub(super) predecessor: Option<Predecessor>,
}

/// Whoever accepts from the same sockets until this process is ready.
#[derive(Debug)]
pub(super) struct Predecessor(());

/// Why no other process took over. This one goes on.
#[derive(Debug, thiserror::Error)]
pub enum RestartError {
    /// The program cannot be started.
    #[error("the new process cannot be started: {0}")]
    Start(#[from] io::Error),
    /// It ended, or said nothing in time.
    #[error("the new process did not get ready; its log says why")]
    NotReady,
}

impl Program {
    /// This process's own. To be asked for early: the file behind it may be replaced while it runs.
    ///
    /// # Errors
    /// If the operating system does not tell.
    pub fn current() -> io::Result<Self> {
        Ok(Self { path: env::current_exe()?, arguments: env::args_os().skip(1).collect() })
    }

    /// Starts it anew with these sockets, and waits until it is ready. Whoever stops waiting ends it.
    ///
    /// # Errors
    /// [`RestartError`].
    pub async fn start_successor(&self, sockets: Vec<TcpListener>) -> Result<u32, RestartError> {
        let mut command = std::process::Command::new(&self.path);
        command.args(&self.arguments).stdout(Stdio::piped()).env("LISTEN_FDS", sockets.len().to_string());
        command.env(NOTIFY_READY_ENV, "1").env_remove("LISTEN_PID").env_remove("LISTEN_FDNAMES");
        let mappings = (LISTEN_FDS_START..)
            .zip(sockets)
            .map(|(child_fd, socket)| FdMapping { parent_fd: OwnedFd::from(socket), child_fd });
        command.fd_mappings(mappings.collect()).map_err(io::Error::other)?;
        let mut successor = Successor { process: Command::from(command).spawn()?, is_ready: false };
        match tokio::time::timeout(READY_TIMEOUT, successor.wait_until_ready()).await {
            Ok(true) => successor.process.id().ok_or(RestartError::NotReady),
            Ok(false) | Err(_) => Err(RestartError::NotReady),
        }
    }
}

/// A new process, ended when this is dropped before it is ready.
struct Successor {
    process: Child,
    is_ready: bool,
}

impl Successor {
    async fn wait_until_ready(&mut self) -> bool {
        let Some(output) = self.process.stdout.take() else { return false };
        let mut lines = BufReader::new(output).lines();
        self.is_ready = matches!(lines.next_line().await, Ok(Some(line)) if line == READY_LINE);
        self.is_ready
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if !self.is_ready {
            // It may have ended by itself.
            let _ = self.process.start_kill();
        }
    }
}

impl Predecessor {
    fn from_environment() -> Option<Self> {
        env::var_os(NOTIFY_READY_ENV).map(|_| Self(()))
    }

    /// Tells it that this process is ready, and accepts.
    pub(super) fn notify_ready(self) {
        // Whoever has stopped waiting has ended this process, or soon will.
        let _ = io::Write::write_all(&mut io::stdout(), format!("{READY_LINE}\n").as_bytes());
        let _ = io::Write::flush(&mut io::stdout());
    }
}

impl InheritedSockets {
    /// The listening sockets that this process was started with, by a predecessor or by systemd, which accepts nothing itself.
    ///
    /// # Errors
    /// If one of them is no listening TCP socket.
    pub fn from_environment() -> io::Result<Self> {
        let mut given = ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..given.len() {
            if let Some(socket) = given.take_tcp_listener(index)? {
                sockets.push((socket.local_addr()?, socket));
            }
        }
        Ok(Self { sockets, predecessor: Predecessor::from_environment() })
    }

    /// The socket of an address, if it is among them.
    pub(super) fn take(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let position = self.sockets.iter().position(|(bound, _)| *bound == address)?;
        Some(self.sockets.swap_remove(position).1)
    }
}

//! Restart without downtime: passes the listening sockets to a new process.
//!
//! The old process starts its program again from disk and passes the listening sockets as systemd's socket activation does
//! (`LISTEN_FDS`). The new process reports on standard output when it is ready to accept; then the old process stops accepting.
//! A new process that does not become ready is killed, and the old process continues.

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

/// Line that a new process writes when it is ready.
const READY_LINE: &str = "ready";
/// Environment variable that makes a new process write [`READY_LINE`].
const NOTIFY_READY_ENV: &str = "SHOPPER_GATEWAY_TELL_READY";
/// First file descriptor of socket activation.
const LISTEN_FDS_START: i32 = 3;
/// How long a new process may take until it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Path and arguments of this process's program.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

/// Listening sockets that this process inherited.
#[derive(Debug, Default)]
pub struct InheritedSockets {
    sockets: Vec<(SocketAddr, TcpListener)>,
    pub(super) predecessor: Option<Predecessor>,
}

/// The old process, which accepts from the same sockets until this process is ready.
#[derive(Debug)]
pub(super) struct Predecessor(());

/// Why a restart failed. The current process continues.
#[derive(Debug, thiserror::Error)]
pub enum RestartError {
    /// The program cannot be started.
    #[error("the new process cannot be started: {0}")]
    Start(#[from] io::Error),
    /// The new process ended, or did not become ready in time.
    #[error("the new process did not become ready; see its log")]
    NotReady,
}

impl Program {
    /// The program of this process. Call it at the start, because the program file may be replaced later.
    ///
    /// # Errors
    /// Returns the I/O error if the path of the program is unknown.
    pub fn current() -> io::Result<Self> {
        Ok(Self { path: env::current_exe()?, arguments: env::args_os().skip(1).collect() })
    }

    /// Starts the program with these sockets, waits until the new process is ready, and returns its id. Dropping the future kills
    /// the new process.
    ///
    /// # Errors
    /// Returns [`RestartError`] if the process cannot start or does not become ready.
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

/// A new process. Dropping it before it is ready kills the process.
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
            // The process may have ended already.
            let _ = self.process.start_kill();
        }
    }
}

impl Predecessor {
    fn from_environment() -> Option<Self> {
        env::var_os(NOTIFY_READY_ENV).map(|_| Self(()))
    }

    /// Reports that this process is ready and accepts connections.
    pub(super) fn notify_ready(self) {
        // A predecessor that no longer waits kills this process.
        let _ = io::Write::write_all(&mut io::stdout(), format!("{READY_LINE}\n").as_bytes());
        let _ = io::Write::flush(&mut io::stdout());
    }
}

impl InheritedSockets {
    /// The listening sockets from a predecessor or from systemd.
    ///
    /// # Errors
    /// Returns the I/O error if one of them is not a listening TCP socket.
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

    /// Removes and returns the socket of an address.
    pub(super) fn take(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let position = self.sockets.iter().position(|(bound, _)| *bound == address)?;
        Some(self.sockets.swap_remove(position).1)
    }
}

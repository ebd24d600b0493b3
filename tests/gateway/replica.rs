//! A gateway in a process of its own: the real binary, which a test can kill.

use std::{
    net::{SocketAddr, TcpListener},
    process::{Child, ChildStderr, ChildStdout, Command, Stdio},
    time::Duration,
};

use reqwest::Client;

use crate::world::{configuration, eventually};

pub const BINARY: &str = env!("CARGO_BIN_EXE_shopper-gateway");

/// A running `shopper-gateway serve`.
pub struct Replica {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    process: Child,
    folder: tempfile::TempDir,
}

impl Replica {
    /// A gateway in front of the Salesforce at `url`.
    pub async fn start(url: &str, change: impl FnOnce(&mut toml::Table)) -> Self {
        Self::start_logging("warn", url, change).await
    }

    /// The same with this `RUST_LOG`.
    pub async fn start_logging(level: &str, url: &str, change: impl FnOnce(&mut toml::Table)) -> Self {
        Self::start_by(Command::new(BINARY).env("RUST_LOG", level), url, change).await
    }

    /// The same by a command, to which the gateway's arguments are added.
    pub async fn start_by(command: &mut Command, url: &str, change: impl FnOnce(&mut toml::Table)) -> Self {
        let (address, admin) = (free(), free());
        let mut table: toml::Table = configuration(url).parse().unwrap();
        table.insert(
            "server".into(),
            format!("listen = [\"{address}\"]\nthreads = 2").parse::<toml::Table>().unwrap().into(),
        );
        table.insert("admin".into(), format!("listen = \"{admin}\"").parse::<toml::Table>().unwrap().into());
        change(&mut table);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.toml");
        std::fs::write(&path, table.to_string()).unwrap();
        let process = command.args(["serve", "-c", path.to_str().unwrap()]).stdout(Stdio::piped()).spawn().unwrap();
        let replica = Self { address, admin, process, folder };
        let client = Client::builder().no_proxy().build().unwrap();
        eventually("the replica is ready", async || {
            let readyz = client.get(format!("http://{admin}/readyz")).send().await;
            readyz.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        replica
    }

    /// Memory in use (`VmRSS`).
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
    }

    /// Processor time that it has used.
    pub fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let after_name = stat.rsplit_once(") ").unwrap().1;
        // utime and stime are in hundredths of a second on every machine (proc(5), USER_HZ).
        let ticks = after_name.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap());
        Duration::from_millis(ticks.sum::<u64>() * 10)
    }

    /// A file of `/proc` about the process.
    pub fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.process.id())).unwrap()
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Its standard error, if the command piped it.
    pub fn take_stderr(&mut self) -> ChildStderr {
        self.process.stderr.take().unwrap()
    }

    /// Its standard output.
    pub fn take_stdout(&mut self) -> ChildStdout {
        self.process.stdout.take().unwrap()
    }

    /// The path of its configuration.
    pub fn configuration(&self) -> std::path::PathBuf {
        self.folder.path().join("gateway.toml")
    }

    /// Sends it a signal by name, e.g. `HUP`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.process.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// SIGTERM, as orchestrators send it.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// The exit code, once the process has ended.
    pub async fn wait(&mut self) -> Option<i32> {
        let mut code = None;
        eventually("the replica has ended", async || {
            let ended = self.process.try_wait().unwrap();
            code = ended.and_then(|status| status.code());
            ended.is_some()
        })
        .await;
        code
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // The process may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

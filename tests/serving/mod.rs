//! A `serve` in a process of its own, as an operator starts it.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_shopper-gateway");
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/demo.toml");
/// Long enough for every expected event.
const PATIENCE: Duration = Duration::from_secs(60);

/// A `serve` whose lines on standard error are read; killed when dropped.
pub(crate) struct Serving {
    process: Child,
    lines: Arc<Mutex<Vec<Value>>>,
}

impl Serving {
    /// The demo's gateway on free ports, with these variables too.
    pub(crate) fn start<'a>(environment: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let free = [
            ("SHOPPER_GATEWAY__SERVER__LISTEN", "127.0.0.1:0"),
            ("SHOPPER_GATEWAY__ADMIN__LISTEN", "127.0.0.1:0"),
            ("SHOPPER_GATEWAY__LOG__FORMAT", "json"),
        ];
        Self::of(Path::new(DEMO), free.into_iter().chain(environment))
    }

    /// The gateway of this configuration, which logs JSON, with these variables as the whole environment.
    pub(crate) fn of<'a>(file: &Path, environment: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut command = Command::new(BINARY);
        command.args(["serve", "-c"]).arg(file).env_clear().envs(environment);
        let mut process = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (written, lines) = (BufReader::new(process.stderr.take().unwrap()), Arc::default());
        let keep: Arc<Mutex<Vec<Value>>> = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in written.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not one JSON object: {line}"));
                keep.lock().unwrap().push(line);
            }
        });
        Self { process, lines }
    }

    /// The lines so far that match.
    pub(crate) fn lines(&self, fits: impl Fn(&Value) -> bool) -> Vec<Value> {
        self.lines.lock().unwrap().iter().filter(|line| fits(line)).cloned().collect()
    }

    /// The address in the line with this message.
    pub(crate) fn address(&self, message: &str) -> SocketAddr {
        let mut found = Vec::new();
        eventually(&format!("it says {message:?}"), || {
            found = self.lines(|line| line["message"] == message);
            !found.is_empty()
        });
        found[0]["address"].as_str().unwrap().parse().unwrap()
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.process.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    pub(crate) fn code(&mut self) -> Option<i32> {
        let mut ended = None;
        eventually("the process has ended", || {
            ended = self.process.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap().code()
    }

    /// Private memory, without the pages of the program's file, which are shared and grow with debug information.
    pub(crate) fn own_mebibytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        let kibibytes: u64 = line.trim().strip_suffix(" kB").unwrap().trim().parse().unwrap();
        kibibytes / 1024
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // The process may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "never true: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

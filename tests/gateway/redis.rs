//! A redis-server process for one test, on a free port. It ends with the test.

use std::{
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

use shopper_gateway::config::RedisAddress;

use crate::world::eventually;

/// 32 bytes in base64.
pub const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
pub const OTHER_KEY: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";

/// A running redis-server.
pub struct Redis {
    pub port: u16,
    arguments: Vec<String>,
    folder: tempfile::TempDir,
    process: Child,
}

impl Redis {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with more arguments.
    pub async fn start_with(arguments: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        let process = spawn(port, &folder, &arguments);
        let redis = Self { port, arguments, folder, process };
        redis.answers().await;
        redis
    }

    /// A cluster of one node, which has all the slots.
    pub async fn cluster() -> Self {
        Self::cluster_with(&[]).await
    }

    /// The same with more arguments.
    pub async fn cluster_with(arguments: &[&str]) -> Self {
        let redis = Self::start_with(&[&["--cluster-enabled", "yes"], arguments].concat()).await;
        redis.run::<()>(redis::cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(0).arg(16383)).await;
        eventually("the cluster is complete", async || {
            redis.run::<String>(redis::cmd("CLUSTER").arg("INFO")).await.contains("cluster_state:ok")
        })
        .await;
        redis
    }

    /// A Sentinel that monitors the master `shop`, and promotes a replica within two seconds.
    pub async fn sentinel(master: &Self) -> Self {
        Self::sentinel_with(master, "").await
    }

    /// The same with more lines of its configuration.
    pub async fn sentinel_with(master: &Self, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let configuration = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor shop 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds shop 500\nsentinel failover-timeout shop 2000\n{more}\n",
            master.port
        );
        let path = folder.path().join("sentinel.conf");
        std::fs::write(&path, configuration).unwrap();
        let process = Command::new("redis-server")
            .args([path.to_str().unwrap(), "--sentinel"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let sentinel = Self { port, arguments: Vec::new(), folder, process };
        sentinel.answers().await;
        sentinel
    }

    /// Runs one command on a connection of its own.
    pub async fn run<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> T {
        self.attempt(command).await.unwrap()
    }

    /// Runs one command that may fail.
    pub async fn attempt<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> redis::RedisResult<T> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await?;
        command.query_async(&mut connection).await
    }

    pub fn address(&self) -> RedisAddress {
        RedisAddress::Tcp("127.0.0.1".into(), self.port)
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Kills the server, as a power cut does. Its persisted data stays.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub async fn restart(&mut self) {
        self.process = spawn(self.port, &self.folder, &self.arguments);
        self.answers().await;
    }

    /// Stops responding without closing connections.
    pub fn pause(&self) {
        let process = self.process.id();
        signal(process, "STOP");
        // The kernel stops it a moment later. Its state follows its name, which is in parentheses.
        let state = || std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        while !state().contains(") T ") {
            std::thread::yield_now();
        }
    }

    pub fn resume(&self) {
        signal(self.process.id(), "CONT");
    }

    /// All keys and values as text.
    pub async fn dump(&self) -> String {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let names: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
        let mut all = String::new();
        for name in names {
            let kind: String = redis::cmd("TYPE").arg(&name).query_async(&mut connection).await.unwrap();
            let value: redis::Value = match kind.as_str() {
                "string" => redis::cmd("GET").arg(&name).query_async(&mut connection).await.unwrap(),
                "hash" => redis::cmd("HGETALL").arg(&name).query_async(&mut connection).await.unwrap(),
                "set" => redis::cmd("SMEMBERS").arg(&name).query_async(&mut connection).await.unwrap(),
                "stream" => {
                    redis::cmd("XRANGE").arg(&name).arg("-").arg("+").query_async(&mut connection).await.unwrap()
                }
                kind => panic!("a {kind} under {name}"),
            };
            all.push_str(&format!("{name} = {}\n", text(&value)));
        }
        all
    }

    async fn answers(&self) {
        eventually("redis-server answers", async || TcpStream::connect(("127.0.0.1", self.port)).is_ok()).await;
        // A restarted server first loads its data.
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).unwrap();
        eventually("redis-server has loaded", async || {
            let Ok(mut connection) = client.get_multiplexed_async_connection().await else { return false };
            match redis::cmd("PING").query_async::<String>(&mut connection).await {
                Ok(_) => true,
                Err(error) => matches!(error.code(), Some("NOAUTH" | "NOPERM")),
            }
        })
        .await;
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // The process may be stopped or may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The configuration of a gateway that uses the Redis at `url`.
pub fn in_redis(config: &mut toml::Table, url: &str) {
    let store = format!(
        "kind = \"redis\"\nurl = \"{url}\"\nencryption_key = \"{KEY}\"\ntimeout = \"2s\"\nkey_prefix = \"test\""
    );
    config.insert("store".into(), store.parse::<toml::Table>().unwrap().into());
}

fn spawn(port: u16, folder: &tempfile::TempDir, arguments: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"])
        .args(["--appendfsync", "always", "--dir", folder.path().to_str().unwrap()])
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is there: make test installs it")
}

pub fn signal(process: u32, name: &str) {
    let done = Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status().unwrap();
    assert!(done.success());
}

fn text(value: &redis::Value) -> String {
    match value {
        redis::Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        redis::Value::Array(values) | redis::Value::Set(values) => {
            values.iter().map(text).collect::<Vec<_>>().join(" ")
        }
        redis::Value::Map(pairs) => {
            pairs.iter().map(|(name, value)| format!("{} {}", text(name), text(value))).collect::<Vec<_>>().join(" ")
        }
        value => format!("{value:?}"),
    }
}

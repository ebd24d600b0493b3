//! Gateways and Redis servers as processes of their own, which can be killed.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use reqwest::Client;

use crate::Outcome;

/// 32 bytes in base64.
pub const STORE_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const CLIENT: &str = "11111111-1111-4111-8111-111111111111";

/// A `shopper-gateway serve` process and its successors after restarts.
pub struct Gateway {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub log: PathBuf,
    process: Child,
    folder: tempfile::TempDir,
}

impl Gateway {
    /// A gateway in front of the Salesforce at `url`; `store` is its `[store]` section.
    pub async fn start(url: &str, store: &str) -> Outcome<Self> {
        let (address, admin) = (free()?, free()?);
        let folder = tempfile::tempdir()?;
        let (configuration, log) = (folder.path().join("gateway.toml"), folder.path().join("log"));
        let text = format!(
            r#"
[server]
listen = ["{address}"]
[admin]
listen = "{admin}"
{store}
# All load comes from one address.
[limits]
connections_per_address = 0
requests_per_address = 0
incomplete_requests_per_address = 0
slas_calls_per_address = 0
[logins]
guests_per_address = 0
[[tenants]]
organization_id = "f_ecom_zzrf_001"
api = "{url}"
sites = ["RefArch"]
slas_requests_per_minute = 1000000
[[tenants.slas_clients]]
client_id = "{CLIENT}"
redirect_uri = "http://localhost:3000/callback"
"#
        );
        fs::write(&configuration, text)?;
        let process = Command::new(program()?)
            .args([Path::new("serve"), Path::new("-c"), &configuration])
            .env("RUST_LOG", "info")
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()?;
        let gateway = Self { address, admin, log, process, folder };
        gateway.until_ready(true).await?;
        Ok(gateway)
    }

    /// Waits until `/readyz` says so, and returns how long that took.
    pub async fn until_ready(&self, ready: bool) -> Outcome<Duration> {
        let (client, start) = (Client::builder().no_proxy().build()?, tokio::time::Instant::now());
        while start.elapsed() < Duration::from_secs(60) {
            let answer = client.get(format!("http://{}/readyz", self.admin)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) == ready {
                return Ok(start.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(format!("the gateway at {} is never ready = {ready}", self.admin).into())
    }

    pub fn signal(&self, process: u32, name: &str) -> Outcome<()> {
        Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status()?;
        Ok(())
    }

    /// The processes that serve this configuration: one, or two while another takes over.
    pub fn serving(&self) -> Vec<u32> {
        let of_ours = |process: &u32| {
            let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(self.folder.path().to_str().unwrap_or("?"))
        };
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(of_ours).collect()
    }

    /// kill -9.
    pub fn kill(&mut self) -> Outcome<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// Whether the process that was started has ended, which also buries it.
    pub fn has_ended(&mut self) -> Outcome<bool> {
        Ok(self.process.try_wait()?.is_some())
    }

    /// Memory in use, bytes.
    pub fn resident(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
    }

    /// Open descriptors; only root may look, for the process is not dumpable.
    pub fn descriptors(&self) -> Option<usize> {
        Some(fs::read_dir(format!("/proc/{}/fd", self.process.id())).ok()?.count())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        for process in self.serving() {
            // It may be gone already.
            let _ = self.signal(process, "KILL");
        }
        let _ = self.process.wait();
    }
}

/// A redis-server, a follower or a Sentinel.
pub struct Redis {
    pub port: u16,
    process: Child,
    _folder: tempfile::TempDir,
}

impl Redis {
    pub async fn start(more: &[&str]) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let port = free()?.port();
        let arguments = ["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"];
        let process = quiet(Command::new("redis-server").args(arguments).arg(folder.path()).args(more)).spawn()?;
        Self { port, process, _folder: folder }.answering().await
    }

    /// A Sentinel of the master `shop`.
    pub async fn sentinel(master: u16) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let port = free()?.port();
        let file = folder.path().join("sentinel.conf");
        fs::write(
            &file,
            format!(
                "port {port}\nbind 127.0.0.1\nsentinel monitor shop 127.0.0.1 {master} 1\n\
                 sentinel down-after-milliseconds shop 500\nsentinel failover-timeout shop 2000\n"
            ),
        )?;
        let process = quiet(Command::new("redis-server").arg(&file).arg("--sentinel")).spawn()?;
        Self { port, process, _folder: folder }.answering().await
    }

    async fn answering(self) -> Outcome<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        if is_listening(address).await { Ok(self) } else { Err("redis-server does not answer".into()) }
    }

    pub fn kill(&mut self) -> Outcome<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// Suspends or resumes the process without closing its connections.
    pub fn pause(&self, paused: bool) -> Outcome<()> {
        let name = if paused { "-STOP" } else { "-CONT" };
        Command::new("kill").args([name, &self.process.id().to_string()]).status()?;
        Ok(())
    }

    /// `[store]` of gateways that use it.
    pub fn store(&self) -> String {
        store(&format!("redis://127.0.0.1:{}/0", self.port))
    }
}

/// An nginx in front of the API, as it was unpacked for the benchmarks (`BENCH_PEERS`).
pub struct Nginx {
    pub address: SocketAddr,
    process: Child,
    _folder: tempfile::TempDir,
}

impl Nginx {
    pub async fn start(api: SocketAddr) -> Outcome<Self> {
        let peers = std::env::var_os("BENCH_PEERS").ok_or("BENCH_PEERS is not set: make soak does that")?;
        let (folder, address) = (tempfile::tempdir()?, free()?);
        let file = folder.path().join("nginx.conf");
        let here = folder.path().display();
        fs::write(
            &file,
            format!(
                "daemon off;\nmaster_process off;\npid {here}/pid;\nerror_log {here}/error.log;\n\
                 events {{ worker_connections 1024; }}\nhttp {{\naccess_log off;\n\
                 client_body_temp_path {here}/body;\nproxy_temp_path {here}/proxy;\nfastcgi_temp_path {here}/fastcgi;\n\
                 uwsgi_temp_path {here}/uwsgi;\nscgi_temp_path {here}/scgi;\nkeepalive_requests 1000000;\n\
                 upstream api {{ server {api}; keepalive 32; }}\n\
                 server {{ listen {address}; location / {{ proxy_pass http://api; proxy_http_version 1.1; \
                 proxy_set_header Connection \"\"; proxy_set_header Host {api}; }} }}\n}}\n"
            ),
        )?;
        let libraries = Path::new(&peers).join("usr/lib/x86_64-linux-gnu");
        let mut command = Command::new(Path::new(&peers).join("usr/sbin/nginx"));
        let command = command.env("LD_LIBRARY_PATH", libraries).arg("-c").arg(&file);
        let nginx = Self { address, process: quiet(command).spawn()?, _folder: folder };
        is_listening(address).await.then_some(nginx).ok_or_else(|| "nginx does not listen".into())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn store(url: &str) -> String {
    format!("[store]\nkind = \"redis\"\nurl = \"{url}\"\nencryption_key = \"{STORE_KEY}\"\n")
}

/// Whether a connection can be made, within ten seconds.
async fn is_listening(address: SocketAddr) -> bool {
    for _ in 0..1000 {
        if tokio::net::TcpStream::connect(address).await.is_ok() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdout(Stdio::null()).stderr(Stdio::null())
}

/// The gateway that was built beside this program.
fn program() -> Outcome<PathBuf> {
    let own = std::env::current_exe()?;
    let program = own.ancestors().nth(2).map(|folder| folder.join("shopper-gateway"));
    program.filter(|program| program.exists()).ok_or_else(|| "build shopper-gateway first: make soak does".into())
}

fn free() -> Outcome<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

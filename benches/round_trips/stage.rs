//! The stage: Salesforce, the upstream and every peer, started once and side by side.

use std::{
    error::Error,
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use salesforce_simulator::{Seed, Simulator};
use tempfile::TempDir;

use crate::{
    load,
    machine::{self, AROUND, MEASURED, Process},
};

/// The gateway's own program.
pub const GATEWAY: &str = env!("CARGO_BIN_EXE_shopper-gateway");
/// How long a peer may take to begin.
const START_WITHIN: Duration = Duration::from_secs(60);
/// Length of what every read gives, bytes.
const BODY_BYTES: usize = 1024;

/// A peer that answers at an address.
pub struct Peer {
    pub address: SocketAddr,
    pub process: Process,
}

/// Everything that runs.
pub struct Stage {
    pub simulator: Simulator,
    pub nginx: Peer,
    pub haproxy: Peer,
    pub nginx_lua: Peer,
    pub pingora: Peer,
    pub pingora_tuned: Peer,
    pub gateway: Peer,
    /// The same with two workers and both cores.
    pub gateway_of_two: Peer,
    pub pwa_kit: Peer,
    _upstream: Process,
    _folder: TempDir,
}

impl Stage {
    pub async fn set() -> Result<Self, Box<dyn Error>> {
        let simulator = salesforce().await?;
        let folder = tempfile::tempdir()?;
        let debian = PathBuf::from(std::env::var_os("BENCH_PEERS").ok_or("BENCH_PEERS: run `make bench`")?);
        let setting = Setting {
            folder: folder.path(),
            debian: &debian,
            upstream: free()?,
            simulator: &simulator,
            storefronts: "",
        };
        setting.write_key()?;

        let upstream = setting.run(AROUND, "usr/sbin/nginx", "upstream.conf", setting.upstream, &["-c"])?;
        answers(setting.upstream).await?;
        let nginx = setting.peer("usr/sbin/nginx", "nginx.conf", &["-c"]).await?;
        let haproxy = setting.peer("usr/sbin/haproxy", "haproxy.cfg", &["-db", "-f"]).await?;
        let nginx_lua = setting.peer("usr/sbin/nginx", "nginx-lua.conf", &["-c"]).await?;
        let pingora = setting.pass_through("plain").await?;
        let pingora_tuned = setting.pass_through("release").await?;
        let gateway = setting.gateway(machine::on_core(MEASURED, GATEWAY), 1).await?;
        let gateway_of_two = setting.gateway(machine::on_both_cores(GATEWAY), 2).await?;
        let pwa_kit = setting.pwa_kit().await?;
        Ok(Self {
            nginx,
            haproxy,
            nginx_lua,
            pingora,
            pingora_tuned,
            gateway,
            gateway_of_two,
            pwa_kit,
            _upstream: upstream,
            _folder: folder,
            simulator,
        })
    }
}

/// A Salesforce that takes whatever comes.
pub async fn salesforce() -> Result<Simulator, Box<dyn Error>> {
    let simulator = salesforce_simulator::start("127.0.0.1:0".parse()?, Seed::default()).await?;
    simulator.set(|behaviour| {
        behaviour.ledger_entries = 0;
        behaviour.slas_requests_per_minute = u32::MAX;
        behaviour.shopper_token_seconds = 86_400;
    });
    Ok(simulator)
}

/// A gateway whose API is the simulator itself, started by `command` with `storefronts` in its configuration.
pub async fn gateway_alone(
    simulator: &Simulator,
    folder: &Path,
    command: Command,
    storefronts: &str,
) -> Result<Peer, Box<dyn Error>> {
    let setting = Setting { folder, debian: folder, upstream: simulator.address(), simulator, storefronts };
    setting.gateway(command, 1).await
}

struct Setting<'a> {
    folder: &'a Path,
    /// Where Debian's packages are unpacked.
    debian: &'a Path,
    upstream: SocketAddr,
    simulator: &'a Simulator,
    /// Tables of `[[tenants.storefronts]]`.
    storefronts: &'a str,
}

impl Setting<'_> {
    /// The public key of SLAS, as PEM.
    fn write_key(&self) -> Result<(), Box<dyn Error>> {
        let private = self.folder.join("private.pem");
        fs::write(&private, self.simulator.slas_private_key_pem())?;
        let made = Command::new("openssl")
            .args(["pkey", "-pubout", "-in"])
            .arg(&private)
            .arg("-out")
            .arg(self.key())
            .status()?;
        if made.success() { Ok(()) } else { Err("openssl pkey failed".into()) }
    }

    fn key(&self) -> PathBuf {
        self.folder.join("public.pem")
    }

    /// Writes a configuration of `conf/` with its names filled in.
    fn configure(
        &self,
        name: &str,
        listen: SocketAddr,
        admin: SocketAddr,
        threads: usize,
    ) -> Result<PathBuf, Box<dyn Error>> {
        let conf = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/round_trips/conf");
        let library = self.debian.join("usr/lib/x86_64-linux-gnu");
        let values = [
            ("listen", listen.to_string()),
            ("admin", admin.to_string()),
            ("threads", threads.to_string()),
            ("upstream", self.upstream.to_string()),
            ("salesforce", self.simulator.address().to_string()),
            ("folder", self.folder.display().to_string()),
            ("conf", conf.display().to_string()),
            ("key", self.key().display().to_string()),
            ("modules", self.debian.join("usr/lib/nginx/modules").display().to_string()),
            ("share", self.debian.join("usr/share").display().to_string()),
            ("lib", library.display().to_string()),
            ("body", "x".repeat(BODY_BYTES)),
            ("storefronts", self.storefronts.to_owned()),
        ];
        let mut text = fs::read_to_string(conf.join(name))?;
        for (key, value) in values {
            text = text.replace(&format!("{{{key}}}"), &value);
        }
        let path = self.folder.join(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    fn run(
        &self,
        core: usize,
        program: &str,
        name: &str,
        listen: SocketAddr,
        arguments: &[&str],
    ) -> Result<Process, Box<dyn Error>> {
        let configuration = self.configure(name, listen, listen, 1)?;
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|folder| self.debian.join(folder));
        let mut command = machine::on_core(core, self.debian.join(program).to_str().ok_or("a path in UTF-8")?);
        command.args(arguments).arg(configuration).env("LD_LIBRARY_PATH", std::env::join_paths(libraries)?);
        Ok(Process(command.stdout(Stdio::null()).spawn()?))
    }

    async fn peer(&self, program: &str, name: &str, arguments: &[&str]) -> Result<Peer, Box<dyn Error>> {
        let address = free()?;
        let process = self.run(MEASURED, program, name, address, arguments)?;
        answers(address).await?;
        Ok(Peer { address, process })
    }

    /// A Pingora that looks at nothing, as it was built in this profile.
    async fn pass_through(&self, profile: &str) -> Result<Peer, Box<dyn Error>> {
        let (address, program) = (free()?, crate::target().join(profile).join("pass-through"));
        let mut command = machine::on_core(MEASURED, program.to_str().ok_or("a path in UTF-8")?);
        command.args([address.to_string(), self.upstream.to_string()]);
        let process = Process(command.spawn()?);
        answers(address).await?;
        Ok(Peer { address, process })
    }

    async fn gateway(&self, mut command: Command, threads: usize) -> Result<Peer, Box<dyn Error>> {
        let (address, admin) = (free()?, free()?);
        let configuration = self.configure("gateway.toml", address, admin, threads)?;
        let process = Process(command.args(["serve", "-c"]).arg(configuration).spawn()?);
        let readyz = format!("GET /readyz HTTP/1.1\r\nHost: {admin}\r\n\r\n");
        until(admin, || async { load::once(admin, readyz.as_bytes()).await.is_ok_and(|(status, _)| status == 200) })
            .await?;
        Ok(Peer { address, process })
    }

    async fn pwa_kit(&self) -> Result<Peer, Box<dyn Error>> {
        let address = free()?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/round_trips/pwa-kit/server.js");
        let mut command = machine::on_core(MEASURED, "node");
        let slas = format!("http://{}", self.upstream);
        command.arg(script).args([address.to_string(), slas]).env("NODE_ENV", "production");
        let process = Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        answers(address).await?;
        Ok(Peer { address, process })
    }
}

async fn answers(address: SocketAddr) -> Result<(), Box<dyn Error>> {
    until(address, || async { tokio::net::TcpStream::connect(address).await.is_ok() }).await
}

async fn until<F: Future<Output = bool>>(address: SocketAddr, holds: impl Fn() -> F) -> Result<(), Box<dyn Error>> {
    let begin = tokio::time::Instant::now();
    while begin.elapsed() < START_WITHIN {
        if holds().await {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(format!("what should answer at {address} does not").into())
}

/// A free address.
fn free() -> Result<SocketAddr, Box<dyn Error>> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

//! The instructions that a request takes in the gateway, counted by Valgrind's callgrind: they are the same on a busy
//! machine and on a quiet one.
//!
//! Counted is what the process does outside the kernel, in two runs of different length; the difference is the
//! requests'. The counts that hold are in `instructions.toml`; the commit that changes them says why.

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use salesforce_simulator::Simulator;

use crate::{
    load::{self, Requests},
    requests::{log_in, login, mint, read, read_by_cookie, read_by_reference, read_on_behalf, slas_token},
    stage::{self, GATEWAY, Peer},
};

/// Requests of the short run, and how many more the long one has.
const SHORT: usize = 100;
const MORE: usize = 1_000;
/// How often a journey that seems to have grown is counted.
const ATTEMPTS: usize = 4;
/// Growth that is accepted without a new baseline.
const TOLERATED: f64 = 1.05;
const BASELINE: &str = "benches/instructions.toml";

/// A way through the gateway.
#[derive(Clone, Copy)]
enum Journey {
    Verified,
    VerifiedNew,
    Session,
    OnBehalf,
    LegacyLogin,
    Slas,
    Cookie,
    CookieReference,
}

impl Journey {
    /// The storefronts of the gateway's configuration.
    fn storefronts(self) -> &'static str {
        match self {
            Self::Cookie => COOKIES,
            Self::CookieReference => REFERENCE_COOKIES,
            Self::Verified | Self::VerifiedNew | Self::Session | Self::OnBehalf | Self::LegacyLogin | Self::Slas => "",
        }
    }
}

const COOKIES: &str = r#"
[[tenants.storefronts]]
site = "RefArch"
client_id = "22222222-2222-4222-8222-222222222222"
cookies = "pwa-kit"
"#;
const REFERENCE_COOKIES: &str = r#"
[[tenants.storefronts]]
site = "RefArch"
client_id = "22222222-2222-4222-8222-222222222222"
cookies = "reference"
"#;

const JOURNEYS: [(&str, Journey); 8] = [
    ("verified", Journey::Verified),
    ("cookie", Journey::Cookie),
    ("cookie_reference", Journey::CookieReference),
    ("verified_new", Journey::VerifiedNew),
    ("session", Journey::Session),
    ("on_behalf", Journey::OnBehalf),
    ("legacy_login", Journey::LegacyLogin),
    ("slas", Journey::Slas),
];

/// Counts every journey and compares it with the baseline. With WRITE_INSTRUCTIONS in the environment, it writes a new baseline.
pub async fn count() -> Result<(), Box<dyn Error>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(BASELINE);
    let baseline: BTreeMap<String, u64> = toml::from_str(&fs::read_to_string(&path).unwrap_or_default())?;
    let only = std::env::var("ONLY").unwrap_or_default();
    let mut counted = BTreeMap::new();
    let mut grown = Vec::new();
    println!("{:<14} {:>12} {:>12}", "journey", "instructions", "baseline");
    for (name, journey) in JOURNEYS {
        if !only.is_empty() && !only.split(',').any(|other| other == name) {
            continue;
        }
        let held = baseline.get(name).copied();
        let has_grown = |each: u64| held.is_none_or(|held| each as f64 > held as f64 * TOLERATED);
        let mut each = measure(journey).await?;
        // Periodic work of the gateway adds to a count, so the smallest of several counts is the request's.
        for _ in 1..ATTEMPTS {
            if held.is_some() && has_grown(each) {
                each = each.min(measure(journey).await?);
            }
        }
        println!("{name:<14} {each:>12} {:>12}", held.map_or("-".to_owned(), |held| held.to_string()));
        if has_grown(each) {
            grown.push(name);
        }
        counted.insert(name.to_owned(), each);
    }
    if let (Some(cookie), Some(verified)) = (counted.get("cookie"), counted.get("verified")) {
        let ratio = *cookie as f64 / *verified as f64;
        println!("a request by cookie takes {ratio:.3} of one by bearer token");
    }
    if std::env::var_os("WRITE_INSTRUCTIONS").is_some() {
        let merged: BTreeMap<_, _> = baseline.into_iter().chain(counted).collect();
        fs::write(&path, format!("{HEAD}{}", toml::to_string(&merged)?))?;
        return Ok(());
    }
    if grown.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{} took over 5 % more instructions than {BASELINE} has: find out why, or write it anew by \
         `make instructions WRITE=1` and say why in the commit",
        grown.join(", ")
    )
    .into())
}

const HEAD: &str = "# Instructions of one request in the gateway, by journey, as `make instructions` counts them.\n\
                    # `make instructions WRITE=1` writes this file; the commit that changes it says why.\n";

/// Instructions of one request.
async fn measure(journey: Journey) -> Result<u64, Box<dyn Error>> {
    let (short, long) = (run(journey, SHORT).await?, run(journey, SHORT + MORE).await?);
    Ok(long.saturating_sub(short) / MORE as u64)
}

/// Instructions of a whole run with this number of requests over one connection. A run that fails to start, because another
/// program took its port, is repeated once.
async fn run(journey: Journey, count: usize) -> Result<u64, Box<dyn Error>> {
    match live(journey, count).await {
        Ok(instructions) => Ok(instructions),
        Err(error) => {
            eprintln!("{error}; once more");
            live(journey, count).await
        }
    }
}

async fn live(journey: Journey, count: usize) -> Result<u64, Box<dyn Error>> {
    let simulator = stage::salesforce().await?;
    let folder = tempfile::tempdir()?;
    let counts = folder.path().join("callgrind");
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--quiet", &format!("--callgrind-out-file={}", counts.display()), GATEWAY]);
    command.stderr(Stdio::null());
    let mut gateway = stage::gateway_alone(&simulator, folder.path(), command, journey.storefronts()).await?;
    let requests = Requests::once(requests(journey, &simulator, &gateway, count).await?);
    let outcome = load::send(gateway.address, &requests, 1, load::Pace::Saturating, Duration::from_secs(600)).await;
    if outcome.answered != count {
        return Err(format!("{} of {count} requests were answered", outcome.answered).into());
    }
    kill_process(Pid::from_child(&gateway.process.0), Signal::TERM)?;
    gateway.process.0.wait()?;
    let text = fs::read_to_string(&counts)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")));
    Ok(total.and_then(|total| total.trim().parse().ok()).ok_or("callgrind gave no total")?)
}

async fn requests(
    journey: Journey,
    simulator: &Simulator,
    gateway: &Peer,
    count: usize,
) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let login = login(gateway.address);
    let same = match journey {
        Journey::VerifiedNew => return Ok((0..count).map(|_| read(&mint(simulator), "")).collect()),
        Journey::Verified => read(&mint(simulator), ""),
        Journey::Session => read(&log_in(gateway.address, &login).await?, ""),
        Journey::OnBehalf => read_on_behalf(simulator),
        Journey::LegacyLogin => login,
        Journey::Slas => slas_token(),
        Journey::Cookie => read_by_cookie("cc-at_RefArch", &mint(simulator)),
        Journey::CookieReference => read_by_reference(gateway.address).await?,
    };
    Ok(vec![same; count])
}

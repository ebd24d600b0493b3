//! The rows of the table: what is sent to whom.

use std::{error::Error, net::SocketAddr, rc::Rc};

use salesforce_simulator::Simulator;

use crate::{
    load::{self, Requests},
    machine::Process,
    requests::{damaged, log_in, login, mint, read, read_on_behalf, slas_token},
    stage::{Peer, Stage},
};

/// Tokens, and sessions, that take turns.
const IN_ROTATION: usize = 1_000;

/// The measurement of one row of the table.
pub struct Row<'a> {
    pub name: &'static str,
    /// Which tokens it sends, in words.
    pub tokens: &'static str,
    pub peer: &'a Peer,
    kind: Kind,
    /// The requests of every round; `None` if each round needs new ones.
    requests: Option<Rc<Requests>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    ReadNew,
    Login,
    Slas,
}

impl Row<'_> {
    pub fn process(&self) -> &Process {
        &self.peer.process
    }

    pub fn address(&self) -> SocketAddr {
        self.peer.address
    }

    /// The requests of a round, at most this many.
    pub fn requests(&self, simulator: &Simulator, most: usize) -> Rc<Requests> {
        match &self.requests {
            Some(requests) => Rc::clone(requests),
            None => Requests::once((0..most).map(|_| read(&mint(simulator), "")).collect()),
        }
    }
}

/// Every row, each of which has been seen to do what it is there for.
pub async fn all(stage: &Stage) -> Result<Vec<Row<'_>>, Box<dyn Error>> {
    let simulator = &stage.simulator;
    let reads: Vec<_> = (0..IN_ROTATION).map(|_| read(&mint(simulator), "")).collect();
    let reads = Requests::in_rotation(reads);
    let on_behalf = Requests::in_rotation(vec![read_on_behalf(simulator)]);
    let login = login(stage.gateway.address);
    let mut sessions = Vec::new();
    for _ in 0..IN_ROTATION {
        sessions.push(read(&log_in(stage.gateway.address, &login).await?, ""));
    }
    let row = |name, tokens, peer, kind, requests: &Rc<Requests>| Row {
        name,
        tokens,
        peer,
        kind,
        requests: (kind != Kind::ReadNew).then(|| Rc::clone(requests)),
    };
    let (logins, slas) = (Requests::in_rotation(vec![login]), Requests::in_rotation(vec![slas_token()]));
    let sessions = Requests::in_rotation(sessions);
    let rows = vec![
        row("nginx_pass", "not verified", &stage.nginx, Kind::Read, &reads),
        row("haproxy_jwt", "1,000, verified each time", &stage.haproxy, Kind::Read, &reads),
        row("nginx_lua_cached_jwt", "1,000, cached", &stage.nginx_lua, Kind::Read, &reads),
        row("pingora_pass", "not verified", &stage.pingora, Kind::Read, &reads),
        row("pingora_tuned", "not verified", &stage.pingora_tuned, Kind::Read, &reads),
        row("gateway_verified", "1,000, cached", &stage.gateway, Kind::Read, &reads),
        row("gateway_verified_new", "a new one for each request", &stage.gateway, Kind::ReadNew, &reads),
        row("gateway_two_workers", "1,000, cached", &stage.gateway_of_two, Kind::Read, &reads),
        row("gateway_on_behalf", "1 caller, 1 shopper, cached", &stage.gateway, Kind::Read, &on_behalf),
        row("gateway_session", "1,000 sessions", &stage.gateway, Kind::Read, &sessions),
        row("gateway_legacy_login", "each request obtains one", &stage.gateway, Kind::Login, &logins),
        row("pwa_kit_slas", "each request obtains one", &stage.pwa_kit, Kind::Slas, &slas),
        row("gateway_slas", "each request obtains one", &stage.gateway, Kind::Slas, &slas),
    ];
    for row in &rows {
        prove(row, simulator).await?;
    }
    Ok(rows)
}

/// A row counts only if it answers its own requests as it should, and refuses a damaged token where it claims to verify.
async fn prove(row: &Row<'_>, simulator: &Simulator) -> Result<(), Box<dyn Error>> {
    let requests = row.requests(simulator, 1);
    let (status, _) = load::once(row.address(), requests.first()).await?;
    if status != 200 {
        return Err(format!("{} answers {status} to a good request", row.name).into());
    }
    let looks = !row.tokens.contains("not looked");
    if looks && matches!(row.kind, Kind::Read | Kind::ReadNew) {
        let (status, _) = load::once(row.address(), &damaged(requests.first())).await?;
        if status != 401 {
            return Err(format!("{} answers {status} to a damaged token", row.name).into());
        }
    }
    Ok(())
}

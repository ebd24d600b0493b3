//! Memory of an idle connection after its first request.

use std::{error::Error, io, net::SocketAddr, time::Duration};

use serde::Serialize;
use tokio::net::TcpStream;

use crate::{
    load,
    requests::{mint, read},
    stage::{Peer, Stage},
};

const CONNECTIONS: usize = 10_000;
/// Connections that are made at a time.
const AT_ONCE: usize = 50;
/// Until memory has been given back that was needed only to serve.
const SETTLING: Duration = Duration::from_secs(2);

/// One peer's figure.
#[derive(Serialize)]
pub struct Idle {
    pub name: &'static str,
    pub connections: usize,
    /// Memory of the process's own, per connection, KB.
    pub kb_per_connection: f64,
}

/// Opens connections to each, has each answer one request, and asks the system what they take. The processes are new:
/// what earlier requests needed would make room for these.
pub async fn measure() -> Result<Vec<Idle>, Box<dyn Error>> {
    let stage = Stage::set().await?;
    let peers: [(&str, &Peer); 4] = [
        ("nginx_pass", &stage.nginx),
        ("pingora_pass", &stage.pingora),
        ("pingora_tuned", &stage.pingora_tuned),
        ("gateway_verified", &stage.gateway),
    ];
    let request = read(&mint(&stage.simulator), "");
    let mut figures = Vec::new();
    for (name, peer) in peers {
        let before = peer.process.memory();
        let resting = rest(peer.address, &request).await?;
        tokio::time::sleep(SETTLING).await;
        let taken = peer.process.memory().saturating_sub(before) as f64 / resting.len() as f64 / 1e3;
        figures.push(Idle { name, connections: resting.len(), kb_per_connection: (taken * 10.0).round() / 10.0 });
    }
    Ok(figures)
}

async fn rest(to: SocketAddr, request: &[u8]) -> io::Result<Vec<TcpStream>> {
    let mut resting = Vec::with_capacity(CONNECTIONS);
    while resting.len() < CONNECTIONS {
        let some = (0..AT_ONCE).map(|_| load::once_and_rest(to, request));
        for connection in futures::future::join_all(some).await {
            resting.push(connection?);
        }
    }
    Ok(resting)
}

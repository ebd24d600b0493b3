//! The running simulator: starting, controlling, and stopping it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::behaviour::Behaviour;
use crate::connections;
use crate::control;
use crate::faults::Fault;
use crate::ledger::LedgerEntry;
use crate::seed::Seed;
use crate::shopper_token::ShopperTokenSpec;
use crate::slas::sessions::Delivery;
use crate::world::World;

/// A running simulator. Dropping it ends it and all its connections.
pub struct Simulator {
    world: Arc<World>,
    serving: JoinHandle<()>,
}

/// Starts a simulator; port 0 picks a free one.
///
/// # Errors
/// The address is in use or not available.
pub async fn start(address: SocketAddr, seed: Seed) -> io::Result<Simulator> {
    let listener = TcpListener::bind(address).await?;
    let world = Arc::new(World::new(listener.local_addr()?, seed));
    let router = control::router(Arc::clone(&world));
    let serving = tokio::spawn(connections::serve(listener, router));
    Ok(Simulator { world, serving })
}

impl Simulator {
    /// The address of the listener.
    pub fn address(&self) -> SocketAddr {
        self.world.address
    }

    /// `http://{address}`.
    pub fn url(&self) -> String {
        self.world.url()
    }

    /// The seed that it was started with.
    pub fn seed(&self) -> &Seed {
        &self.world.seed
    }

    /// Every request received, oldest first. Holds credentials and tokens.
    pub fn ledger(&self) -> Vec<LedgerEntry> {
        self.world.ledger.entries()
    }

    /// Forgets the requests received.
    pub fn clear_ledger(&self) {
        self.world.ledger.clear();
    }

    /// How many requests of this service (`account_manager`, `slas`, `api`) and flow the ledger holds.
    pub fn count(&self, service: &str, flow: &str) -> usize {
        self.world.ledger.count(service, flow)
    }

    /// The current settings.
    pub fn behaviour(&self) -> Behaviour {
        self.world.behaviour()
    }

    /// Changes settings; the next request sees them.
    pub fn set(&self, change: impl FnOnce(&mut Behaviour)) {
        self.world.change_behaviour(change);
    }

    /// Injects a fault.
    pub fn inject(&self, fault: Fault) {
        self.world.faults.add(fault);
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.world.faults.clear();
    }

    /// One-time tokens that would have been mailed, oldest first.
    pub fn outbox(&self) -> Vec<Delivery> {
        self.world.sessions().outbox.clone()
    }

    /// The next SLAS key becomes current, the current past; Account Manager gets a new key.
    pub fn rotate_keys(&self) {
        self.world.rotate_keys();
    }

    /// Signs a shopper token with any content.
    pub fn mint_shopper_token(&self, spec: ShopperTokenSpec) -> String {
        self.world.mint_shopper_token(spec)
    }

    /// Signs an Account Manager token; a negative lifetime makes an expired one. One for no tenant ("") has only these scopes.
    pub fn mint_account_manager_token(
        &self,
        client_id: &str,
        scopes: &[&str],
        tenant: &str,
        lifetime_seconds: i64,
    ) -> String {
        self.world.mint_account_manager_token(client_id, scopes, tenant, lifetime_seconds)
    }

    /// The current SLAS key as PKCS#8 PEM.
    pub fn slas_private_key_pem(&self) -> String {
        self.world.slas_keys().current().pem()
    }

    /// Id of the current SLAS key.
    pub fn slas_kid(&self) -> String {
        self.world.slas_keys().current().kid.clone()
    }

    /// The SLAS key set as its endpoint publishes it.
    pub fn slas_jwks(&self) -> serde_json::Value {
        self.world.slas_keys().jwks()
    }

    /// The current Account Manager key as PKCS#8 PEM.
    pub fn account_manager_private_key_pem(&self) -> String {
        self.world.account_manager_keys().current().pem()
    }

    /// Id of the current Account Manager key.
    pub fn account_manager_kid(&self) -> String {
        self.world.account_manager_keys().current().kid.clone()
    }

    /// The Account Manager key set as its endpoint publishes it.
    pub fn account_manager_jwks(&self) -> serde_json::Value {
        self.world.account_manager_keys().jwks()
    }

    /// The issuer its Account Manager tokens name.
    pub fn account_manager_issuer(&self) -> String {
        self.world.account_manager_issuer()
    }

    /// Stops listening and ends all connections; returns when the port is free.
    pub async fn stop(mut self) {
        self.serving.abort();
        // The error of an aborted task only reports the abort.
        drop((&mut self.serving).await);
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

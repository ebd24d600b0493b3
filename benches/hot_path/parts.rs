//! The gateway's parts, put together without its listeners.

use std::{path::Path, sync::Arc, time::Duration};

use salesforce_simulator::{Seed, ShopperTokenSpec, Simulator};
use secrecy::SecretString;
use shopper_gateway::{
    config::Settings,
    jwks::{Issuer, JwksPersistence, KeyRing},
    observability::metrics::Metrics,
    salesforce::{
        account_manager::AccountManager,
        guard::CallGuard,
        slas::{Slas, TokenResponse},
        transport::Transport,
    },
    store::memory::MemoryStore,
    tokens::{
        on_behalf::{OnBehalfTokens, TsobIssuer},
        sessions::{self, Sessions},
        slas_budget::SlasBudget,
    },
    types::{ByOrganization, OrganizationId},
    verify::{
        HashedToken,
        shopper_token::{ShopperVerifier, VerifiedToken},
        system_token::SystemVerifier,
    },
};

/// Requests a minute that SLAS takes: as many as there are.
const SLAS_TAKES: u32 = 1_000_000;

/// A simulator, a verifier with its keys, and sessions.
pub struct Parts {
    pub simulator: Simulator,
    pub verifier: Arc<ShopperVerifier>,
    pub sessions: Arc<Sessions>,
    pub systems: SystemVerifier,
    pub on_behalf: Arc<OnBehalfTokens>,
    pub organization: OrganizationId,
}

impl Parts {
    /// With room for so many sessions.
    pub async fn new(capacity: usize) -> Self {
        let simulator = salesforce_simulator::start("127.0.0.1:0".parse().unwrap(), Seed::default()).await.unwrap();
        let settings = settings(&simulator.url());
        let metrics = Arc::new(Metrics::new("bench", "bench").unwrap());
        let tenant = &settings.tenants[0];
        let guard = CallGuard::new("bench", Arc::clone(&metrics));
        let transport =
            || Transport::new(&settings.timeouts, &tenant.api, &[], Arc::clone(&guard), Arc::clone(&metrics)).unwrap();
        let slas = Slas::new(transport(), &tenant.api, &tenant.organization);
        let store = Arc::new(MemoryStore::new(capacity));
        let persistence = JwksPersistence { store, directory: None, max_age: settings.keys.max_age };
        let ring =
            KeyRing::new(Issuer::Slas(slas.clone()), tenant.organization.as_str(), &persistence, Arc::clone(&metrics));
        tokio::spawn(Arc::clone(&ring).run_refresher());
        while !ring.has_usable_keys() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let store = Arc::clone(&persistence.store);
        tokio::spawn(SlasBudget::new(store, Arc::clone(slas.guard()), &tenant.tenant, SLAS_TAKES).run());
        let rings = ByOrganization::from_iter([(tenant.organization.clone(), ring)]);
        let verifier = Arc::new(ShopperVerifier::new(rings, Arc::clone(&metrics)));
        let manager = tenant.account_manager.as_ref().unwrap();
        let manager = AccountManager::new(transport(), manager.url.clone());
        let name = manager.issuer();
        let ring = KeyRing::new(
            Issuer::AccountManager(manager),
            tenant.organization.as_str(),
            &persistence,
            Arc::clone(&metrics),
        );
        tokio::spawn(Arc::clone(&ring).run_refresher());
        while !ring.has_usable_keys() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let systems = SystemVerifier::new(ring, name, true);
        let issuer = TsobIssuer {
            slas: slas.clone(),
            client: tenant.on_behalf_slas_client().unwrap().clone(),
            login_permits: None,
        };
        let endpoint = sessions::SlasEndpoint { slas, clients: tenant.slas_clients.clone() };
        let sessions = Sessions::new(
            persistence.store,
            ByOrganization::from_iter([(tenant.organization.clone(), endpoint)]),
            Arc::clone(&verifier),
            settings.sessions.clone(),
            settings.timeouts.exchange,
            Arc::clone(&metrics),
        );
        let on_behalf = OnBehalfTokens::new(
            ByOrganization::from_iter([(tenant.organization.clone(), issuer)]),
            Arc::clone(&sessions),
            settings.timeouts.upstream,
            settings.timeouts.exchange,
            metrics,
        );
        Self { simulator, verifier, sessions, systems, on_behalf, organization: tenant.organization.clone() }
    }

    pub fn mint(&self) -> String {
        self.simulator.mint_shopper_token(ShopperTokenSpec::default())
    }

    pub async fn verify(&self, token: &str) -> VerifiedToken {
        self.verifier.verify(&HashedToken::new(token), &self.organization).await.unwrap()
    }
}

/// SLAS's response to a login.
pub fn answer(refresh_token: &str) -> TokenResponse {
    TokenResponse {
        access_token: SecretString::from("unused here: the verified token names it"),
        refresh_token: Some(SecretString::from(refresh_token)),
        expires_in: 1800,
        refresh_token_expires_in: Some(3600),
    }
}

/// The demo, in front of the simulator at this address.
pub fn settings(simulator: &str) -> Settings {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/demo.toml");
    let environment = [
        ("SHOPPER_GATEWAY__SERVER__LISTEN", "127.0.0.1:0"),
        ("SHOPPER_GATEWAY__ADMIN__LISTEN", "127.0.0.1:0"),
        ("SHOPPER_GATEWAY__TENANTS__0__API", simulator),
        ("SHOPPER_GATEWAY__TENANTS__0__SLAS_REQUESTS_PER_MINUTE", "1000000"),
        ("SHOPPER_GATEWAY__TENANTS__0__ACCOUNT_MANAGER__URL", simulator),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Settings::load_with(&path, environment).unwrap().settings
}

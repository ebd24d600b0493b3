//! The state that all services share: seed, settings, keys, logins and the shop.
//!
//! Services lock the parts that they need, briefly, and never across an await.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use serde_json::{Map, Value, json};

use crate::behaviour::Behaviour;
use crate::clock;
use crate::faults::Faults;
use crate::identifiers;
use crate::jwt::{self, Refusal};
use crate::keys::KeyRing;
use crate::ledger::Ledger;
use crate::limits::RequestCounters;
use crate::operations;
use crate::seed::{Seed, SlasClient};
use crate::shop::Shop;
use crate::shopper_token::{self, Claims, Identity, ShopperToken, ShopperTokenSpec};
use crate::slas::sessions::Sessions;

/// The whole simulated Salesforce.
pub(crate) struct World {
    pub(crate) address: SocketAddr,
    pub(crate) seed: Seed,
    pub(crate) ledger: Ledger,
    pub(crate) faults: Faults,
    behaviour: RwLock<Behaviour>,
    slas_keys: Mutex<KeyRing>,
    /// Made at first use: an RSA key takes a tenth of a second.
    account_manager_keys: OnceLock<Mutex<KeyRing>>,
    sessions: Mutex<Sessions>,
    shop: Mutex<Shop>,
    request_counters: Mutex<RequestCounters>,
    last_serial: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(crate) fn new(address: SocketAddr, seed: Seed) -> Self {
        Self {
            address,
            shop: Mutex::new(Shop::open(&seed)),
            seed,
            ledger: Ledger::new(),
            faults: Faults::default(),
            behaviour: RwLock::default(),
            slas_keys: Mutex::new(KeyRing::slas()),
            account_manager_keys: OnceLock::new(),
            sessions: Mutex::default(),
            request_counters: Mutex::default(),
            last_serial: AtomicU64::new(0),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn behaviour(&self) -> Behaviour {
        self.behaviour.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn change_behaviour(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.behaviour.write().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn slas_keys(&self) -> MutexGuard<'_, KeyRing> {
        lock(&self.slas_keys)
    }

    pub(crate) fn account_manager_keys(&self) -> MutexGuard<'_, KeyRing> {
        let ring = self.account_manager_keys.get_or_init(|| Mutex::new(KeyRing::account_manager()));
        lock(ring)
    }

    pub(crate) fn sessions(&self) -> MutexGuard<'_, Sessions> {
        lock(&self.sessions)
    }

    pub(crate) fn shop(&self) -> MutexGuard<'_, Shop> {
        lock(&self.shop)
    }

    pub(crate) fn request_counters(&self) -> MutexGuard<'_, RequestCounters> {
        lock(&self.request_counters)
    }

    /// Microseconds since 1970, never the same twice: orders tokens and revocations.
    pub(crate) fn serial(&self) -> u64 {
        let now = clock::micros();
        let last = self
            .last_serial
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1)))
            .unwrap_or(now);
        now.max(last + 1)
    }

    /// The issuers' time, seconds since 1970.
    pub(crate) fn now(&self) -> i64 {
        let now = i64::try_from(clock::seconds()).unwrap_or(i64::MAX);
        now.saturating_add(self.behaviour().clock_ahead_seconds)
    }

    /// The issuer in Account Manager's tokens, with host and port as in the published one.
    pub(crate) fn account_manager_issuer(&self) -> String {
        format!("{}/dwsso/oauth2", self.url())
    }

    /// Scopes a new shopper token of this client carries.
    pub(crate) fn shopper_scopes(&self, client: &SlasClient, marks: &[(String, String)]) -> Vec<String> {
        if let Some(scopes) = self.behaviour().shopper_scopes {
            return scopes;
        }
        let mut scopes = client.scopes.clone().unwrap_or_else(|| {
            let all = operations::scopes(false).into_iter();
            all.filter(|scope| !matches!(*scope, "sfcc.shopper-standard" | "sfcc.orders.rw"))
                .map(str::to_owned)
                .collect()
        });
        for (mark, scope) in [("tsob", "sfcc.ts_ext_on_behalf_of"), ("taob", "sfcc.ta_ext_on_behalf_of")] {
            if marks.iter().any(|(name, _)| name == mark) {
                scopes.push(scope.to_owned());
            }
        }
        if marks.iter().any(|(name, _)| name == "tsob") {
            scopes.push("sfcc.orders.rw".to_owned());
        }
        scopes
    }

    pub(crate) fn sign_shopper_token(&self, claims: &Claims<'_>) -> String {
        let ring = self.slas_keys();
        let key = ring.current();
        let header = shopper_token::header(claims.organization, &key.kid);
        jwt::sign(key, &header, &claims.document())
    }

    pub(crate) fn mint_shopper_token(&self, spec: ShopperTokenSpec) -> String {
        let identity = Identity {
            origin: spec.origin,
            login: spec.login,
            display_name: spec.display_name,
            guest_customer_id: spec.guest_customer_id.unwrap_or_else(identifiers::customer),
            registered_customer_id: spec.registered_customer_id,
        };
        let isb = shopper_token::issuer_subject(&identity, &spec.marks, Some(&spec.site));
        let client = self.seed.slas_client(&spec.organization, &spec.client_id);
        let own = || client.map(|client| self.shopper_scopes(client, &spec.marks));
        let lifetime = self.behaviour().shopper_token_seconds;
        let mut claims = Claims {
            organization: &spec.organization,
            client_id: &spec.client_id,
            usid: &spec.usid.unwrap_or_else(identifiers::usid),
            isb: &isb.unwrap_or_default(),
            scopes: &spec.scopes.clone().or_else(own).unwrap_or_default(),
            lifetime_seconds: spec.lifetime_seconds.unwrap_or_else(|| i64::try_from(lifetime).unwrap_or(i64::MAX)),
            now: self.now(),
            serial: self.serial(),
            do_not_track: spec.do_not_track,
        }
        .document();
        let ring = self.slas_keys();
        let kid = spec.kid.unwrap_or_else(|| ring.current().kid.clone());
        let key = ring.find(&kid).unwrap_or(ring.current());
        let mut header = shopper_token::header(&spec.organization, &kid);
        overlay(&mut header, spec.header);
        overlay(&mut claims, spec.claims);
        jwt::sign(key, &header, &claims)
    }

    pub(crate) fn sign_account_manager_token(
        &self,
        client_id: &str,
        subject: &str,
        scopes: &[String],
        lifetime_seconds: i64,
    ) -> String {
        let now = self.now();
        let expiry = now.saturating_add(lifetime_seconds);
        let claims = json!({
            "at_hash": identifiers::opaque(), "sub": subject, "aud": client_id,
            "iss": self.account_manager_issuer(), "tokenName": "access_token",
            "token_type": "Bearer", "authGrantId": identifiers::opaque(),
            "client_id": client_id, "scope": scopes, "grant_type": "client_credentials",
            "auth_time": now.min(expiry), "realm": "/", "exp": expiry,
            "iat": now.min(expiry), "expires_in": lifetime_seconds, "jti": identifiers::opaque(),
        });
        let ring = self.account_manager_keys();
        let key = ring.current();
        let header = json!({"typ": "JWT", "kid": key.kid, "alg": "RS256"});
        jwt::sign(key, &members(header), &members(claims))
    }

    pub(crate) fn mint_account_manager_token(
        &self,
        client_id: &str,
        scopes: &[&str],
        tenant: &str,
        lifetime_seconds: i64,
    ) -> String {
        let of_tenant = Some(tenant).filter(|tenant| !tenant.is_empty());
        let mut all: Vec<_> = of_tenant.map(|tenant| format!("SALESFORCE_COMMERCE_API:{tenant}")).into_iter().collect();
        all.extend(scopes.iter().map(|scope| (*scope).to_owned()));
        self.sign_account_manager_token(client_id, client_id, &all, lifetime_seconds)
    }

    pub(crate) fn rotate_keys(&self) {
        self.slas_keys().rotate();
        self.account_manager_keys().rotate();
    }

    /// The claims of a valid Account Manager token that this simulator issued.
    pub(crate) fn verify_account_manager_token(&self, token: &str) -> Result<Map<String, Value>, Refusal> {
        let claims = jwt::verify(&self.account_manager_keys(), token, self.now())?;
        let issuer = claims.get("iss").and_then(Value::as_str);
        if issuer != Some(self.account_manager_issuer().as_str()) {
            return Err(Refusal::Malformed);
        }
        Ok(claims)
    }

    /// The content of a valid shopper token that has not been revoked.
    ///
    /// # Errors
    /// A phrase for the error response that names the defect.
    pub(crate) fn verify_shopper_token(&self, token: &str) -> Result<ShopperToken, &'static str> {
        let claims = jwt::verify(&self.slas_keys(), token, self.now()).map_err(|refusal| match refusal {
            Refusal::Malformed => "the access token is malformed",
            Refusal::UnknownKey => "the access token names an unknown key",
            Refusal::BadSignature => "the access token's signature is invalid",
            Refusal::NotYetValid => "the access token is not valid yet",
            Refusal::Expired => "the access token is expired",
        })?;
        let token = ShopperToken::read(claims).ok_or("the access token is malformed")?;
        if self.sessions().is_revoked(&token) {
            return Err("the access token is revoked");
        }
        Ok(token)
    }
}

/// Members of an object, or none.
pub(crate) fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

/// Writes over `document`; `null` removes.
pub(crate) fn overlay(document: &mut Map<String, Value>, over: Map<String, Value>) {
    for (name, value) in over {
        if value.is_null() {
            document.remove(&name);
        } else {
            document.insert(name, value);
        }
    }
}

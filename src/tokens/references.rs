//! References: random ids that browsers hold in place of tokens (`cookies = "reference"`).
//!
//! The store has the token of an id, encrypted, under a keyed hash of the id. An id is good for one kind of token, one organization
//! and one site. A new id for the same session ends the one before after a minute, and a logout ends both.

use std::{fmt, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use quick_cache::sync::Cache;
use secrecy::{ExposeSecret, SecretString};

use crate::{
    jwt::sha256,
    store::{SessionStore, StoreError},
    time::unix_now,
    types::{OrganizationId, SiteId},
};

/// The length of an id, bytes and characters.
const ID_BYTES: usize = 32;
const ID_CHARACTERS: usize = 43;
/// The shortest time for which the store keeps a value.
const MIN_LIFE: Duration = Duration::from_secs(1);
/// Maximum number of ids that this process caches, in front of a store that replicas share. A store in memory needs no cache.
const CACHE_CAPACITY: usize = 100_000;

/// The kind of token that an id stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReferenceKind {
    /// An access token.
    Access,
    /// A refresh token.
    Refresh,
}

/// An id in place of a token. `Debug` does not show it.
pub struct Reference(String);

impl Reference {
    /// The id: 256 random bits in base64url.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[REDACTED]")
    }
}

/// Whether a text has the form of an id. No token has it: tokens have dots, or are longer.
#[must_use]
pub fn has_form_of_id(text: &str) -> bool {
    text.len() == ID_CHARACTERS && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// A token, and when its id ends.
#[derive(Clone)]
struct Held {
    token: SecretString,
    ends_at: u64,
}

/// Issues ids and finds their tokens.
pub struct References {
    store: Arc<dyn SessionStore>,
    cache: Cache<[u8; 32], Held>,
}

impl fmt::Debug for References {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("References").finish_non_exhaustive()
    }
}

impl References {
    /// The references in a store.
    #[must_use]
    pub fn new(store: Arc<dyn SessionStore>) -> Self {
        let capacity = if store.is_shared() { CACHE_CAPACITY } else { 1 };
        Self { store, cache: Cache::new(capacity) }
    }

    /// Returns a new id for a token. The id is good for `life`.
    ///
    /// # Errors
    /// [`StoreError`] if the token could not be stored.
    pub async fn issue(
        &self,
        kind: ReferenceKind,
        organization: &OrganizationId,
        site: &SiteId,
        token: &SecretString,
        life: Duration,
    ) -> Result<Reference, StoreError> {
        let mut bytes = [0; ID_BYTES];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| StoreError::Broken("the operating system gave no randomness"))?;
        let id = URL_SAFE_NO_PAD.encode(bytes);
        let ends_at = unix_now().saturating_add(life.as_secs());
        self.put(&name(kind, organization, site, &id), Held { token: token.clone(), ends_at }, life).await?;
        Ok(Reference(id))
    }

    /// Keeps an id for a token, for `life` from now.
    ///
    /// # Errors
    /// [`StoreError`] if the token could not be stored.
    pub async fn keep(
        &self,
        kind: ReferenceKind,
        organization: &OrganizationId,
        site: &SiteId,
        id: &SecretString,
        token: &SecretString,
        life: Duration,
    ) -> Result<Reference, StoreError> {
        let ends_at = unix_now().saturating_add(life.as_secs());
        let id = id.expose_secret();
        self.put(&name(kind, organization, site, id), Held { token: token.clone(), ends_at }, life).await?;
        Ok(Reference(id.to_owned()))
    }

    /// Ends an id after `life`, unless it ends earlier. Another process that has cached the id may accept it until its time.
    ///
    /// # Errors
    /// [`StoreError`] if the store is unavailable.
    pub async fn end(
        &self,
        kind: ReferenceKind,
        organization: &OrganizationId,
        site: &SiteId,
        id: &SecretString,
        life: Duration,
    ) -> Result<(), StoreError> {
        let Some(token) = self.token(kind, organization, site, id).await? else { return Ok(()) };
        let name = name(kind, organization, site, id.expose_secret());
        let ends_at = unix_now().saturating_add(life.as_secs());
        if self.cache.get(&sha256(&name)).is_some_and(|held| held.ends_at <= ends_at) {
            return Ok(());
        }
        self.put(&name, Held { token, ends_at }, life.max(MIN_LIFE)).await
    }

    async fn put(&self, name: &[u8], held: Held, life: Duration) -> Result<(), StoreError> {
        let value = [&held.ends_at.to_be_bytes(), held.token.expose_secret().as_bytes()].concat();
        self.store.put_value(name, &value, life).await?;
        self.cache.insert(sha256(name), held);
        Ok(())
    }

    /// Returns the token of an id. `None` if there is none, or its time has ended.
    ///
    /// # Errors
    /// [`StoreError`] if the store is unavailable and this process does not know the id.
    pub async fn token(
        &self,
        kind: ReferenceKind,
        organization: &OrganizationId,
        site: &SiteId,
        id: &SecretString,
    ) -> Result<Option<SecretString>, StoreError> {
        let id = id.expose_secret();
        if !has_form_of_id(id) {
            return Ok(None);
        }
        let name = name(kind, organization, site, id);
        let digest = sha256(&name);
        let now = unix_now();
        if let Some(held) = self.cache.get(&digest) {
            return Ok((held.ends_at > now).then_some(held.token));
        }
        let Some(value) = self.store.get_value(&name).await? else { return Ok(None) };
        let Some((ends_at, token)) = value.split_first_chunk::<8>() else { return Ok(None) };
        let Ok(token) = std::str::from_utf8(token).map(SecretString::from) else { return Ok(None) };
        let held = Held { token, ends_at: u64::from_be_bytes(*ends_at) };
        self.cache.insert(digest, held.clone());
        Ok((held.ends_at > now).then_some(held.token))
    }
}

/// The name of an id in the store. The store hashes it with its key.
fn name(kind: ReferenceKind, organization: &OrganizationId, site: &SiteId, id: &str) -> Vec<u8> {
    let kind = match kind {
        ReferenceKind::Access => "access",
        ReferenceKind::Refresh => "refresh",
    };
    format!("reference/{kind}/{organization}/{site}/{id}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn id_is_good_for_its_kind_organization_and_site_only() {
        let references = References::new(Arc::new(MemoryStore::new(10)));
        let (own, other): (OrganizationId, OrganizationId) =
            ("f_ecom_zzrf_001".parse().unwrap(), "f_ecom_zzrf_002".parse().unwrap());
        let (site, other_site): (SiteId, SiteId) = ("RefArch".parse().unwrap(), "Other".parse().unwrap());
        let token = SecretString::from("a.b.c");
        let minute = Duration::from_secs(60);
        let id = references.issue(ReferenceKind::Access, &own, &site, &token, minute).await.unwrap();
        assert!(has_form_of_id(id.as_str()) && !format!("{id:?}").contains(id.as_str()));
        let id = SecretString::from(id.as_str());
        let found = async |kind, organization, site| {
            let token = references.token(kind, organization, site, &id).await.unwrap();
            token.map(|token| token.expose_secret().to_owned())
        };
        assert_eq!(found(ReferenceKind::Access, &own, &site).await.as_deref(), Some("a.b.c"));
        assert_eq!(found(ReferenceKind::Refresh, &own, &site).await, None);
        assert_eq!(found(ReferenceKind::Access, &other, &site).await, None);
        assert_eq!(found(ReferenceKind::Access, &own, &other_site).await, None);
    }

    #[tokio::test]
    async fn another_replica_finds_the_token_of_an_id() {
        let store: Arc<dyn SessionStore> = Arc::new(MemoryStore::new(10));
        let (organization, site) = ("f_ecom_zzrf_001".parse().unwrap(), "RefArch".parse().unwrap());
        let token = SecretString::from("refresh");
        let minute = Duration::from_secs(60);
        let one = References::new(Arc::clone(&store));
        let id = one.issue(ReferenceKind::Refresh, &organization, &site, &token, minute).await.unwrap();
        let id = SecretString::from(id.as_str());
        let found = References::new(store).token(ReferenceKind::Refresh, &organization, &site, &id).await.unwrap();
        assert_eq!(found.unwrap().expose_secret(), "refresh");
    }

    #[tokio::test]
    async fn id_ends_with_its_time() {
        let references = References::new(Arc::new(MemoryStore::new(10)));
        let (organization, site) = ("f_ecom_zzrf_001".parse().unwrap(), "RefArch".parse().unwrap());
        let token = SecretString::from("a.b.c");
        let id = references.issue(ReferenceKind::Access, &organization, &site, &token, Duration::ZERO).await.unwrap();
        let id = SecretString::from(id.as_str());
        assert!(references.token(ReferenceKind::Access, &organization, &site, &id).await.unwrap().is_none());
    }

    #[test]
    fn tokens_have_not_the_form_of_an_id() {
        let id = "a".repeat(ID_CHARACTERS);
        assert!(has_form_of_id(&id));
        for text in ["", "a.b.c", "refresh", &id[1..], &format!("{id}a"), &format!("{}.", &id[1..])] {
            assert!(!has_form_of_id(text), "{text}");
        }
    }
}

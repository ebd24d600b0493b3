//! The shopper on whose behalf a trusted system acts.

use secrecy::{ExposeSecret, SecretString};

use crate::{
    jwt::{TokenDigest, sha256},
    store::CallerEntry,
    types::{ClientId, OrganizationId, SiteId, Usid},
    verify::shopper::Shopper,
};

/// The identity provider of B2C Commerce itself. With any other, SLAS creates unknown shoppers.
pub const ECOM_IDP: &str = "ecom";
/// The login of guests.
pub const GUEST_LOGIN: &str = "guest";

/// The shopper that a token speaks for, and where.
#[derive(Debug, Clone)]
pub struct OnBehalfSubject {
    /// The organization.
    pub organization: OrganizationId,
    /// The site.
    pub site: SiteId,
    /// The shopper.
    pub shopper: SubjectShopper,
    /// The trusted system that is given the token itself. No other caller's requests share its session.
    pub recipient: Option<CallerEntry>,
}

/// The shopper on whose behalf a trusted system acts.
#[derive(Debug, Clone)]
pub enum SubjectShopper {
    /// A shopper with a login.
    Registered {
        /// The identity provider that knows the login, e.g. [`ECOM_IDP`].
        idp: String,
        /// The login id.
        login: SecretString,
    },
    /// A guest that does not exist yet.
    NewGuest,
    /// The guest with this USID.
    Guest {
        /// The USID.
        usid: Usid,
        /// The trusted system. Other callers do not find its guests.
        caller: String,
    },
}

impl SubjectShopper {
    /// Identity provider, login and USID of the token request.
    pub(super) fn request_parameters(&self) -> (&str, &str, Option<&Usid>) {
        match self {
            Self::Registered { idp, login } => (idp, login.expose_secret(), None),
            Self::NewGuest => (ECOM_IDP, GUEST_LOGIN, None),
            Self::Guest { usid, .. } => (ECOM_IDP, GUEST_LOGIN, Some(usid)),
        }
    }

    /// The login, or a guest's USID.
    #[must_use]
    pub fn login_or_usid(&self) -> &str {
        match self {
            Self::Registered { login, .. } => login.expose_secret(),
            Self::NewGuest => GUEST_LOGIN,
            Self::Guest { usid, .. } => usid.as_str(),
        }
    }

    /// Whether a token speaks for this shopper, as far as the token shows it. A guest's token never matches a login,
    /// and another guest's or a registered shopper's token never matches a USID.
    pub(super) fn matches(&self, shopper: &Shopper) -> bool {
        match self {
            Self::Registered { .. } => shopper.is_registered,
            Self::NewGuest => !shopper.is_registered,
            Self::Guest { usid, .. } => !shopper.is_registered && shopper.usid == *usid,
        }
    }
}

impl OnBehalfSubject {
    /// The name of a session: a digest of where, for which shopper and by which client. Each part ends with a byte that no part
    /// contains, so that names are distinct. A new guest has no name.
    pub(super) fn name(&self, client: &ClientId) -> Option<TokenDigest> {
        let (kind, who, of) = match &self.shopper {
            SubjectShopper::Registered { idp, login } => ("on behalf", idp.as_str(), login.expose_secret()),
            SubjectShopper::Guest { usid, caller } => ("on behalf of a guest", caller.as_str(), usid.as_str()),
            SubjectShopper::NewGuest => return None,
        };
        Some(self.digest(client, [kind, who, of]))
    }

    /// The cache key of rejections of new guests.
    pub(super) fn new_guests_key(&self, client: &ClientId) -> TokenDigest {
        self.digest(client, ["new guests", "", ""])
    }

    /// The cache key of rejections of the client.
    pub(super) fn client_key(&self, client: &ClientId) -> TokenDigest {
        self.digest(client, ["client", "", ""])
    }

    /// A digest of the organization, the site, the client and these parts.
    fn digest(&self, client: &ClientId, [kind, who, of]: [&str; 3]) -> TokenDigest {
        let parts = [kind, self.organization.as_str(), self.site.as_str(), client.as_str(), who, of];
        let caller = self.recipient.iter().flat_map(|caller| ["handed to", &caller.name, &caller.identity]);
        sha256(parts.into_iter().chain(caller).flat_map(|part| [part.as_bytes(), &[0]]).collect::<Vec<_>>().concat())
    }
}

/// Whether SLAS may read a login as the guest's. The comparison ignores case as Java does, where `ſ` equals `S`.
#[must_use]
pub fn is_guest_login(login: &str) -> bool {
    login.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).eq(GUEST_LOGIN.chars())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hex;

    /// Replicas of two versions find each other's sessions by the name.
    #[test]
    fn name_of_shopper_is_the_same_in_all_versions() {
        let subject = |shopper, recipient| OnBehalfSubject {
            organization: "f_ecom_zzrf_001".parse().unwrap(),
            site: "RefArch".parse().unwrap(),
            shopper,
            recipient,
        };
        let named = |subject: OnBehalfSubject| subject.name(&"c1".parse().unwrap()).map(|name| hex::encode(&name));
        let registered = SubjectShopper::Registered { idp: ECOM_IDP.to_owned(), login: "shopper@example.com".into() };
        let name = "dbcfd5dad1ae1fc8e5620e093af29643f3f90f5734dcd014cb7bc316a52b0a35";
        assert_eq!(named(subject(registered, None)).as_deref(), Some(name));
        let guest = SubjectShopper::Guest { usid: "u1".parse().unwrap(), caller: "experience-cloud".to_owned() };
        let recipient = CallerEntry { name: "experience-cloud".to_owned(), identity: "subject CN=a".to_owned() };
        let name = "f137832478c6f7a27311137014301d1c406a33c2d4907e53e444bcdbe651b235";
        assert_eq!(named(subject(guest, Some(recipient))).as_deref(), Some(name));
        assert_eq!(named(subject(SubjectShopper::NewGuest, None)), None);
    }

    #[test]
    fn guest_login_is_recognised_in_every_spelling() {
        for login in ["guest", "Guest", "GUEST", "gue\u{17f}t", "GUE\u{17f}T"] {
            assert!(is_guest_login(login), "{login}");
        }
        for login in ["", "guests", "guest1", "gues", "gu\u{e9}st", "guest@example.com"] {
            assert!(!is_guest_login(login), "{login}");
        }
    }
}

//! The certificate authorities that the gateway trusts for the servers of one configuration.

use std::sync::OnceLock;

use rustls::pki_types::CertificateDer;
use url::Url;

use super::AppError;
use crate::{
    certificates::{Certificates, SystemAuthorities},
    config::Tenant,
};

/// The system's authorities, read when first needed, and the tenants' own.
#[derive(Debug, Default)]
pub(super) struct TrustAnchors {
    system: OnceLock<SystemAuthorities>,
}

/// The authorities for one tenant's API.
#[derive(Debug)]
pub(super) enum ApiTrustAnchors<'t> {
    /// The API has no TLS.
    None,
    /// The authorities of `api_ca`.
    Own(Certificates),
    /// The system's authorities.
    System(&'t SystemAuthorities),
}

impl TrustAnchors {
    /// The authorities for a tenant's API.
    ///
    /// # Errors
    /// [`AppError::Authorities`], [`AppError::NoSystemAuthorities`].
    pub(super) fn of_api(&self, tenant: &Tenant) -> Result<ApiTrustAnchors<'_>, AppError> {
        // The file is read for an API without TLS too, so that it works when the API gets TLS.
        let own = tenant.api_ca.as_deref().map(Certificates::read_authorities).transpose();
        let own = own.map_err(|source| AppError::Authorities {
            organization: tenant.organization.clone(),
            source: Box::new(source),
        })?;
        match own {
            Some(own) => Ok(ApiTrustAnchors::Own(own)),
            None if tenant.api.scheme() == "https" => {
                Ok(ApiTrustAnchors::System(self.system(format!("{}: api", tenant.organization))?))
            }
            None => Ok(ApiTrustAnchors::None),
        }
    }

    /// The authorities for a server without its own, e.g. Account Manager.
    ///
    /// # Errors
    /// [`AppError::NoSystemAuthorities`].
    pub(super) fn of_server(&self, url: &Url, what: String) -> Result<&[CertificateDer<'static>], AppError> {
        if url.scheme() == "https" { Ok(self.system(what)?.as_slice()) } else { Ok(&[]) }
    }

    fn system(&self, what: String) -> Result<&SystemAuthorities, AppError> {
        let system = self.system.get_or_init(SystemAuthorities::read);
        match system.unavailable_reason() {
            Some(problem) => Err(AppError::NoSystemAuthorities { what, problem }),
            None => Ok(system),
        }
    }
}

impl ApiTrustAnchors<'_> {
    /// The authorities.
    pub(super) fn as_slice(&self) -> &[CertificateDer<'static>] {
        match self {
            Self::None => &[],
            Self::Own(own) => own.as_slice(),
            Self::System(system) => system.as_slice(),
        }
    }

    /// The authorities for Pingora; `None` if Pingora uses the system's authorities that it has read itself.
    pub(super) fn of_proxy(&self, library_reads_system: bool) -> Option<&[CertificateDer<'static>]> {
        match self {
            Self::None => None,
            Self::System(_) if library_reads_system => None,
            Self::Own(_) | Self::System(_) => Some(self.as_slice()),
        }
    }

    /// Earliest expiry of a tenant's own authorities that have not expired, in seconds since 1970.
    pub(super) fn expiry(&self, now: i64) -> Option<i64> {
        match self {
            Self::Own(own) => own.authorities_expiry(now),
            Self::None | Self::System(_) => None,
        }
    }
}

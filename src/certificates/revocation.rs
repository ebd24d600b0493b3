//! Revocation lists of client certificates (RFC 5280, 5), and whether they cover the authorities.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_cert::{
    Certificate,
    certificate::Rfc5280,
    crl::CertificateList,
    der::{Decode, oid::AssociatedOid as _},
    ext::pkix::{AuthorityKeyIdentifier, SubjectKeyIdentifier},
};

use super::{
    Certificates, FileError, ValidityWarning,
    pem_file::{ExpectedContent, PemFile},
    validity::{self, Validity},
};

/// The revocation lists of one PEM file, at least one.
#[derive(Clone)]
pub struct RevocationLists {
    file: PathBuf,
    lists: Vec<CertificateRevocationListDer<'static>>,
}

/// Issuer and validity of a revocation list.
struct CrlInfo {
    /// Name of the issuer (RFC 4514).
    issuer: String,
    /// Key identifier of the issuer.
    key: Option<Vec<u8>>,
    validity: Validity,
}

impl RevocationLists {
    /// Reads the lists of a file.
    ///
    /// # Errors
    /// Returns [`FileError`] if the file cannot be read, has no list, or has one that is not PEM.
    pub fn read(file: &Path) -> Result<Self, FileError> {
        let sections = PemFile::read(file)?.sections(ExpectedContent::RevocationList)?;
        let lists = sections.into_iter().map(|(_, der)| CertificateRevocationListDer::from(der)).collect();
        Ok(Self { file: file.to_owned(), lists })
    }

    /// The lists in DER, in the order of the file.
    #[must_use]
    pub fn as_slice(&self) -> &[CertificateRevocationListDer<'static>] {
        &self.lists
    }

    /// Earliest next update of the lists, in seconds since 1970; `None` if no list has one.
    #[must_use]
    pub fn next_update(&self) -> Option<i64> {
        self.infos().map(|list| list.validity.not_after).filter(|end| *end < i64::MAX).min()
    }

    /// Checks that at least one authority has a list. Otherwise every client certificate would be rejected. Intermediate
    /// authorities need lists too, because each certificate of a chain must be covered.
    ///
    /// # Errors
    /// Returns [`FileError`] if no authority has a list.
    pub fn check_coverage(&self, authorities: &Certificates) -> Result<(), FileError> {
        let infos: Vec<_> = self.infos().collect();
        let is_covered = |authority: &CertificateDer<'_>| infos.iter().any(|list| list.is_issued_by(authority));
        if infos.len() < self.lists.len() || authorities.as_slice().iter().any(is_covered) {
            return Ok(());
        }
        let issuers: Vec<_> = infos.iter().map(|list| list.issuer.as_str()).collect();
        let message = format!(
            "no list is issued by an authority of server.tls.client_ca, so every client certificate would be rejected; the \
             lists are issued by {}",
            issuers.join(" and ")
        );
        Err(FileError { file: self.file.clone(), message })
    }

    /// Warnings about the lists and the authorities that they do not cover.
    #[must_use]
    pub fn warnings(&self, authorities: &Certificates, now: i64) -> Vec<String> {
        let (infos, shown): (Vec<_>, _) = (self.infos().collect(), self.file.display());
        let mut warnings = Vec::new();
        for list in &infos {
            let whose = &list.issuer;
            match list.validity.warning(now) {
                Some(warning @ ValidityWarning::Expired(_)) => warnings.push(format!(
                    "{shown}: the list of {whose} {warning}: certificates revoked since then are still accepted; fetch the next \
                     list"
                )),
                Some(warning @ ValidityWarning::NotYetValid(_)) => {
                    warnings.push(format!("{shown}: the list of {whose} {warning}; check the clock of this machine"));
                }
                // Lists are valid for days, so every list would be reported.
                Some(ValidityWarning::ExpiresSoon(..)) | None => {}
            }
        }
        if infos.len() == self.lists.len() {
            for authority in authorities.as_slice() {
                if !infos.iter().any(|list| list.is_issued_by(authority))
                    && let Some(subject) = validity::subject_name(authority)
                {
                    warnings.push(format!(
                        "{shown}: no list of {subject}, an authority of server.tls.client_ca: every client certificate that it signed \
                         is rejected"
                    ));
                }
            }
        }
        warnings
    }

    fn infos(&self) -> impl Iterator<Item = CrlInfo> {
        self.lists.iter().filter_map(|list| CrlInfo::read(list))
    }
}

impl CrlInfo {
    fn read(list: &[u8]) -> Option<Self> {
        let list = CertificateList::<Rfc5280>::from_der(list).ok()?.tbs_cert_list;
        let extensions = list.crl_extensions.iter().flatten();
        let named = extensions.filter(|extension| extension.extn_id == AuthorityKeyIdentifier::OID);
        let key = named
            .filter_map(|extension| AuthorityKeyIdentifier::from_der(extension.extn_value.as_bytes()).ok())
            .find_map(|named| Some(named.key_identifier?.as_bytes().to_vec()));
        let not_after = list.next_update.map_or(i64::MAX, validity::unix_seconds);
        let validity = Validity { not_before: validity::unix_seconds(list.this_update), not_after };
        Some(Self { issuer: list.issuer.to_string(), key, validity })
    }

    /// Whether an authority issued the list: same name, and same key identifier if both have one. A renewed authority may keep its
    /// name.
    fn is_issued_by(&self, authority: &CertificateDer<'_>) -> bool {
        let Ok(authority) = Certificate::from_der(authority) else { return true };
        let authority = authority.tbs_certificate();
        if authority.subject().to_string() != self.issuer {
            return false;
        }
        let own = authority.get_extension::<SubjectKeyIdentifier>().ok().flatten();
        match (&self.key, own) {
            (Some(key), Some((_, own))) => own.0.as_bytes() == key.as_slice(),
            _ => true,
        }
    }
}

impl fmt::Debug for RevocationLists {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RevocationLists").field("file", &self.file).finish_non_exhaustive()
    }
}

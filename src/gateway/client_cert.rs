//! The names in a client certificate: its subject (RFC 4514) and its subject alternative names (RFC 5280, 4.2.1.6).
//!
//! Names of certificates and of the configuration are compared in one normal form. Escapes and the case of keywords do not
//! matter. The order, kind and value of a subject's parts do. The listener has verified the certificate by
//! `server.tls.client_ca`.

use std::str::FromStr;

use x509_cert::{
    Certificate,
    der::Decode,
    ext::pkix::{SubjectAltName, name::GeneralName},
    name::RdnSequence,
};

use crate::host::without_root_dot;

/// The names in a verified client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// In RFC 4514's form, normalized.
    subject: String,
    /// `DNS:…`, `URI:…`, `email:…`.
    alternative_names: Vec<String>,
}

/// A name that a trusted system's certificate must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateName {
    /// The whole subject.
    Subject(String),
    /// One of the alternative names.
    Alternative(String),
}

/// An error of a certificate name in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCertificateName {
    /// The text is not a subject.
    #[error("not a subject in the form of RFC 4514; expected for example CN=oms.example.com,O=Example")]
    Subject,
    /// The text is not an alternative name.
    #[error(
        "not an alternative name; expected for example DNS:oms.example.com, URI:spiffe://example.com/oms or email:oms@example.com"
    )]
    Alternative,
}

impl PeerCertificate {
    /// Parses a DER certificate. `None` if it is malformed or has no name.
    #[must_use]
    pub fn parse(der: &[u8]) -> Option<Self> {
        let certificate = Certificate::from_der(der).ok()?;
        let certificate = certificate.tbs_certificate();
        let subject = certificate.subject().to_string();
        let alternative_names: Vec<String> = match certificate.get_extension::<SubjectAltName>() {
            Ok(Some((_, names))) => names.0.iter().filter_map(normal_form).collect(),
            // A malformed extension counts as absent.
            Ok(None) | Err(_) => Vec::new(),
        };
        (!subject.is_empty() || !alternative_names.is_empty()).then_some(Self { subject, alternative_names })
    }

    /// The subject in RFC 4514's form. Empty if the certificate has only alternative names.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Whether the certificate has this name.
    #[must_use]
    pub fn has_name(&self, name: &CertificateName) -> bool {
        match name {
            CertificateName::Subject(subject) => self.subject == *subject,
            CertificateName::Alternative(name) => self.alternative_names.contains(name),
        }
    }
}

impl CertificateName {
    /// Parses a subject, for example `CN=oms.example.com,O=Example,C=DE`.
    ///
    /// # Errors
    /// [`InvalidCertificateName::Subject`] if the text is empty or not in RFC 4514's form.
    pub fn subject(text: &str) -> Result<Self, InvalidCertificateName> {
        let name = RdnSequence::from_str(text).map_err(|_| InvalidCertificateName::Subject)?;
        let subject = name.to_string();
        if subject.is_empty() { Err(InvalidCertificateName::Subject) } else { Ok(Self::Subject(subject)) }
    }

    /// Parses an alternative name: its kind, a colon, and the name.
    ///
    /// # Errors
    /// [`InvalidCertificateName::Alternative`] if the kind is not `DNS`, `URI` or `email`, or if the name is empty or not
    /// printable ASCII.
    pub fn alternative(text: &str) -> Result<Self, InvalidCertificateName> {
        let invalid = InvalidCertificateName::Alternative;
        let (kind, name) = text.split_once(':').ok_or(invalid)?;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(invalid);
        }
        match kind {
            "DNS" if without_root_dot(name).is_empty() => Err(invalid),
            "DNS" => Ok(Self::Alternative(dns_name(name))),
            "URI" | "email" => Ok(Self::Alternative(text.to_owned())),
            _ => Err(invalid),
        }
    }
}

/// The normal form of a host name: in lower case, without the dot of the root.
fn dns_name(name: &str) -> String {
    format!("DNS:{}", without_root_dot(name).to_ascii_lowercase())
}

fn normal_form(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(dns_name(name.as_str())),
        GeneralName::UniformResourceIdentifier(uri) => Some(format!("URI:{}", uri.as_str())),
        GeneralName::Rfc822Name(address) => Some(format!("email:{}", address.as_str())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_with_equal_parts_in_equal_order_are_equal() {
        let subject = |text| CertificateName::subject(text).unwrap();
        assert_eq!(subject("CN=oms.example.com,O=Example,C=DE"), subject("cn=oms.example.com,o=Example,c=DE"));
        assert_eq!(subject(r"CN=a\,b"), subject(r"CN=a\2Cb"));
        assert_ne!(subject("CN=oms.example.com,O=Example"), subject("O=Example,CN=oms.example.com"));
        assert_ne!(subject("CN=oms.example.com,O=Example"), subject("CN=oms.example.com"));
        assert_ne!(subject("CN=a,OU=b"), subject("CN=a,O=b"));
        for text in ["", "oms", "=x"] {
            assert!(CertificateName::subject(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn alternative_name_without_a_known_kind_is_invalid() {
        assert_eq!(
            CertificateName::alternative("DNS:OMS.example.com"),
            CertificateName::alternative("DNS:oms.example.com")
        );
        assert_eq!(
            CertificateName::alternative("DNS:oms.example.com."),
            CertificateName::alternative("DNS:oms.example.com")
        );
        assert_ne!(CertificateName::alternative("URI:x:A"), CertificateName::alternative("URI:x:a"));
        for text in ["", "oms.example.com", "DNS:", "DNS:.", "IP:10.0.0.1", "DNS:a b"] {
            assert!(CertificateName::alternative(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn malformed_certificate_has_no_names() {
        assert_eq!(PeerCertificate::parse(b""), None);
        assert_eq!(PeerCertificate::parse(&[0x30, 0x82, 0xff, 0xff, 0x01]), None);
    }
}

//! The migration report: usage of deprecated endpoints, filtered, as rows and as CSV.
//!
//! Filter values from the query are only compared with names of the configuration, and never shown.

use serde::Serialize;
use url::form_urlencoded;

use crate::observability::deprecated_usage::{DeprecatedUsage, Endpoint, UNKNOWN, UsageRow};

/// Keeps rows that match all given values.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct UsageFilter {
    organization: Option<String>,
    client_id: Option<String>,
    endpoint: Option<String>,
}

/// The rows of the report, and the start of counting.
#[derive(Debug, Serialize)]
pub(super) struct MigrationReport {
    pub(super) since: String,
    pub(super) uses: Vec<ReportRow>,
}

/// One row of the report.
#[derive(Debug, Serialize)]
pub(super) struct ReportRow {
    pub(super) organization: String,
    pub(super) client_id: String,
    pub(super) endpoint: &'static str,
    pub(super) uses: u64,
    pub(super) first_seen: String,
    pub(super) last_seen: String,
    #[serde(skip)]
    pub(super) first_seen_at: u64,
    #[serde(skip)]
    pub(super) last_seen_at: u64,
}

impl UsageFilter {
    /// Reads the filter from a query and ignores other keys.
    pub(super) fn from_query(query: &str) -> Self {
        let mut filter = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let field = match &*key {
                "organization" => &mut filter.organization,
                "client_id" => &mut filter.client_id,
                "endpoint" => &mut filter.endpoint,
                _ => continue,
            };
            *field = Some(value.into_owned()).filter(|value| !value.is_empty());
        }
        filter
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn is_organization(&self, organization: &str) -> bool {
        self.organization.as_deref() == Some(organization)
    }

    pub(super) fn is_client(&self, client: &str) -> bool {
        self.client_id.as_deref() == Some(client)
    }

    pub(super) fn is_endpoint(&self, endpoint: &str) -> bool {
        self.endpoint.as_deref() == Some(endpoint)
    }

    /// Whether the filter's values are among the given ones.
    pub(super) fn is_known(&self, organizations: &[String], clients: &[String], endpoints: &[&str]) -> bool {
        self.organization.as_ref().is_none_or(|wanted| organizations.contains(wanted))
            && self.client_id.as_ref().is_none_or(|wanted| clients.contains(wanted))
            && self.endpoint.as_deref().is_none_or(|wanted| endpoints.contains(&wanted))
    }

    fn matches(&self, one: &UsageRow<'_>) -> bool {
        (self.organization.is_none() || self.is_organization(one.organization.as_str()))
            && (self.client_id.is_none() || self.is_client(one.client_id))
            && (self.endpoint.is_none() || self.is_endpoint(one.endpoint.as_str()))
    }
}

impl MigrationReport {
    /// The rows that match the filter.
    pub(super) fn new(usage: &DeprecatedUsage, filter: &UsageFilter) -> Self {
        let uses = usage.rows().into_iter().filter(|one| filter.matches(one));
        Self { since: rfc3339(usage.since), uses: uses.map(|one| ReportRow::of(&one)).collect() }
    }

    /// The report as CSV (RFC 4180) with a header line. No field can start a formula in a spreadsheet: fields are times, numbers
    /// and identifiers of letters, digits, `-` and `_`, and a leading hyphen is quoted.
    ///
    /// # Errors
    /// Returns the writer's error. Writing to memory does not fail in practice.
    pub(super) fn csv(&self) -> Result<Vec<u8>, csv::Error> {
        let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
        writer.write_record(["organization", "client_id", "endpoint", "uses", "first_seen", "last_seen"])?;
        for row in &self.uses {
            // A spreadsheet would calculate with a leading hyphen.
            let quoted =
                if row.client_id.starts_with('-') { format!("'{}", row.client_id) } else { row.client_id.clone() };
            let uses = row.uses.to_string();
            writer.write_record([&row.organization, &quoted, row.endpoint, &uses, &row.first_seen, &row.last_seen])?;
        }
        writer.into_inner().map_err(|error| csv::Error::from(error.into_error()))
    }
}

impl ReportRow {
    fn of(one: &UsageRow<'_>) -> Self {
        Self {
            organization: one.organization.to_string(),
            client_id: one.client_id.to_owned(),
            endpoint: one.endpoint.as_str(),
            uses: one.uses,
            first_seen: rfc3339(one.first_seen),
            last_seen: rfc3339(one.last_seen),
            first_seen_at: one.first_seen,
            last_seen_at: one.last_seen,
        }
    }
}

/// All endpoints, for the filter form.
pub(super) fn endpoints() -> Vec<&'static str> {
    Endpoint::ALL.map(Endpoint::as_str).to_vec()
}

/// All client ids, for the filter form.
pub(super) fn client_ids(configured: impl Iterator<Item = String>) -> Vec<String> {
    let mut clients: Vec<_> = configured.collect();
    clients.sort();
    clients.dedup();
    clients.push(UNKNOWN.to_owned());
    clients
}

/// `2026-07-01T12:00:00Z`.
pub(super) fn rfc3339(seconds: u64) -> String {
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(query: &str) -> Vec<(String, &'static str)> {
        let organization = |text: &str| text.parse().unwrap();
        let client = |text: &str| text.parse().unwrap();
        let usage =
            DeprecatedUsage::new([(organization("f_ecom_zzrf_001"), vec![client("-one"), client("two")])], None);
        for (one, endpoint) in [("-one", Endpoint::Login), ("two", Endpoint::Login), ("two", Endpoint::Logout)] {
            usage.record(&organization("f_ecom_zzrf_001"), Some(&client(one)), endpoint);
        }
        let report = MigrationReport::new(&usage, &UsageFilter::from_query(query));
        assert_eq!(report.csv().unwrap().iter().filter(|byte| **byte == b'\n').count(), 1 + report.uses.len());
        let mut uses: Vec<_> = report.uses.into_iter().map(|row| (row.client_id, row.endpoint)).collect();
        uses.sort();
        uses
    }

    #[test]
    fn usage_filter_keeps_rows_that_match_all_values() {
        assert_eq!(report("").len(), 3);
        assert_eq!(report("client_id=&endpoint=&format=csv").len(), 3);
        assert_eq!(report("client_id=two").len(), 2);
        assert_eq!(report("client_id=two&endpoint=logout"), [("two".to_owned(), "logout")]);
        assert!(report("organization=f_ecom_zzrf_002").is_empty());
        assert!(report("client_id=%3Cscript%3E").is_empty());
    }

    #[test]
    fn csv_client_id_with_leading_hyphen_is_quoted() {
        let organization: crate::types::OrganizationId = "f_ecom_zzrf_001".parse().unwrap();
        let client: crate::types::ClientId = "-one".parse().unwrap();
        let usage = DeprecatedUsage::new([(organization.clone(), vec![client.clone()])], None);
        usage.record(&organization, Some(&client), Endpoint::Login);
        let csv = String::from_utf8(MigrationReport::new(&usage, &UsageFilter::default()).csv().unwrap()).unwrap();
        assert!(csv.contains("f_ecom_zzrf_001,'-one,login,1,2"), "{csv}");
    }
}

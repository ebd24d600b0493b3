//! Validates `[traces]`.

use url::Url;

use super::table::{Table, is_loopback};
use crate::config::{Traces, file};

const EXPECTED: &str = "not the http or https URL of a collector; expected e.g. http://127.0.0.1:4318";

pub(super) fn traces(raw: &file::Traces, table: &mut Table<'_>) -> Traces {
    let endpoint = raw.endpoint.as_deref().and_then(|text| endpoint(text, table));
    Traces { endpoint, sample_ratio: raw.sample_ratio, parent_sampled_per_second: raw.parent_sampled_per_second }
}

fn endpoint(text: &str, table: &mut Table<'_>) -> Option<Url> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let Some(url) = url else {
        table.error("endpoint", EXPECTED);
        return None;
    };
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        table.error(
            "endpoint",
            "must not have a user, password, query or fragment; put the collector's credential into OTEL_EXPORTER_OTLP_HEADERS",
        );
        return None;
    }
    if url.scheme() == "http" && !is_loopback(&url) {
        table.warn("endpoint", "http to another machine sends spans unencrypted; use https");
    }
    Some(url)
}

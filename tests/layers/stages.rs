//! No stage of the gateway's pipeline imports another one. `src/gateway.rs` and `src/gateway/pipeline.rs` connect them.

use std::collections::BTreeSet;

use crate::{
    dependencies,
    paths::{self, Source},
    sources,
};

/// The stages, by their files and folders below `src/gateway/`.
const STAGES: [&str; 9] =
    ["router", "cors", "limits", "authn", "authz", "upstream_auth", "legacy", "slas", "storefront"];

/// Returns the stage that a file belongs to.
fn stage(file: &str) -> Option<&str> {
    let below = file.strip_prefix("src/gateway/")?.split(['/', '.']).next()?;
    STAGES.contains(&below).then_some(below)
}

/// Returns a line for each import of a stage by another one.
fn violations(sources: &[Source]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for ((user, used), names) in &dependencies::between(sources) {
        let (user, used) = (&sources[*user].file, &sources[*used].file);
        if let (Some(from), Some(to)) = (stage(user), stage(used))
            && from != to
        {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            found.insert(format!("{user} imports {used}: {}", names.join(", ")));
        }
    }
    found
}

#[test]
fn stages_of_the_pipeline_import_no_other_stage() {
    let sources = paths::parsed(&sources::of_src());
    let missing: Vec<&&str> =
        STAGES.iter().filter(|stage| !sources.iter().any(|source| self::stage(&source.file) == Some(stage))).collect();
    assert!(missing.is_empty(), "no files of these stages: {missing:?}");
    let found = violations(&sources);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn planted_import_of_another_stage_is_found() {
    let files = [
        ("src/lib.rs", "pub mod gateway;"),
        ("src/gateway.rs", "pub mod authn; pub mod limits;"),
        ("src/gateway/authn.rs", "pub struct Authenticator;"),
        ("src/gateway/limits.rs", "use super::authn::Authenticator; pub struct Limits(Authenticator);"),
    ];
    let files: Vec<(String, String)> =
        files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect();
    assert_eq!(violations(&paths::parsed(&files)).len(), 1);
}

//! The commit of this build, as the log and the metrics show it.

/// The commit that this program was built from.
pub const COMMIT: &str = match option_env!("SHOPPER_GATEWAY_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

//! The commit of this build, for the log and the metrics.

/// The commit that this program was built from; `unknown` if the build did not set it.
pub const COMMIT: &str = match option_env!("SHOPPER_GATEWAY_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

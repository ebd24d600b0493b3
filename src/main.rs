//! The process: installs the cryptography provider and runs the command line.

use std::process::ExitCode;

use mimalloc::MiMalloc;
use shopper_gateway::cli;

/// Faster than the system's allocator for the many small allocations of a request.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    // TLS and token verification panic without a provider. This is the only place that installs one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    cli::run(std::env::args_os())
}

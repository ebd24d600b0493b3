//! The process: cryptography first, then whatever the command line asks for.

use std::process::ExitCode;

use mimalloc::MiMalloc;
use shopper_gateway::cli;

/// Many small pieces come and go with each request; this allocator is the cheaper one for them.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    // TLS and token verification use one provider, and panic without one. Nobody else installs any.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    cli::run(std::env::args_os())
}

//! The tokens that the gateway itself holds.

pub mod budget;
pub mod flights;
pub mod machine;
pub mod on_behalf;
pub mod pace;
pub mod recovery;
mod retry;
pub mod sessions;
pub mod slas_window;

//! Rules of `src/` that the compiler does not check: modules import lower layers only, files depend on each other in no circle,
//! stages of the pipeline do not import each other, and two things are named only in listed places.
//!
//! `syn` reads the sources. A rule that finds nothing would always pass, so each rule has tests with planted violations.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that meets the unexpected fails")]

mod circles;
mod dependencies;
mod order;
mod paths;
mod restricted;
mod sources;
mod stages;

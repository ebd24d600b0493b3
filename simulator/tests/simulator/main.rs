//! The simulator as its clients see it: real sockets, and one fresh simulator for each test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod access;
mod account_manager;
mod caller;
mod control;
mod faults;
mod limits;
mod login;
mod on_behalf;
mod one_time;
mod sessions;
mod shop;
mod storefront;
mod tokens;

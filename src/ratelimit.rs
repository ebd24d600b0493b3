//! Rate limits of one process, as token buckets.
//!
//! A caller that exceeds a limit gets the time to wait as the error. Nothing here sleeps, logs or counts.
//!
//! - `token_bucket`: the arithmetic of one bucket, without a lock or a clock
//! - `limiter`: one bucket behind a lock
//! - `keyed`: a bounded number of buckets, found by a key

mod keyed;
mod limiter;
mod token_bucket;

pub use self::{
    keyed::KeyedRateLimiter,
    limiter::RateLimiter,
    token_bucket::{BucketConfig, TokenBucket},
};

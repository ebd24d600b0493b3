//! Searches logs for panics and secrets, which they must not contain.

use std::sync::atomic::{AtomicUsize, Ordering};

use aho_corasick::AhoCorasick;

use crate::{
    Outcome,
    load::Tally,
    processes::{Gateway, STORE_KEY},
};

/// Tokens that are looked for in one log; more would be no other finding.
const TOKENS: usize = 2000;

/// Findings in all logs so far.
#[derive(Default)]
pub struct Findings {
    pub panics: AtomicUsize,
    pub secrets: AtomicUsize,
    pub lines: AtomicUsize,
}

impl Findings {
    /// Looks through the logs of gateways.
    pub fn inspect(&self, gateways: &[Gateway], tally: &Tally) -> Outcome<()> {
        let mut patterns = vec!["panic: this is a bug".to_owned(), "panicked at".to_owned(), STORE_KEY.to_owned()];
        let tokens = tally.tokens.lock();
        let parts = tokens.iter().rev().take(TOKENS).filter_map(|token| Some(token.rsplit_once('.')?.1.to_owned()));
        patterns.extend(parts);
        let search = AhoCorasick::new(&patterns)?;
        for gateway in gateways {
            let log = std::fs::read(&gateway.log)?;
            self.lines.fetch_add(log.iter().filter(|byte| **byte == b'\n').count(), Ordering::Relaxed);
            for found in search.find_iter(&log) {
                let kind = if found.pattern().as_usize() < 2 { &self.panics } else { &self.secrets };
                kind.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

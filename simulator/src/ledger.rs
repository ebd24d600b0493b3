//! The record of every request received.
//!
//! Entries hold headers and bodies as received, credentials and tokens included: the simulator is a test instrument.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;

use crate::request::ReceivedRequest;

/// Bytes of a body that an entry keeps.
const MAX_BODY_EXCERPT: usize = 64 * 1024;

/// One received request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LedgerEntry {
    /// Counts from 1 and never restarts.
    pub sequence: u64,
    /// Milliseconds since the simulator started.
    pub time_ms: u64,
    /// `account_manager`, `slas` or `api`.
    pub service: String,
    /// For example `token:refresh_token`, or `shopper-baskets-v1.createBasket`.
    pub flow: String,
    /// The method.
    pub method: String,
    /// The path as received.
    pub path: String,
    /// The query as received, without the `?`.
    pub query: String,
    /// Headers in the order received, names in lower case; equal names stand together.
    pub headers: Vec<(String, String)>,
    /// Bytes of the whole body.
    pub body_length: usize,
    /// The body as text, up to 64 KiB of it.
    pub body: String,
    /// The status of the response; `None` before the response, or when a fault suppressed it.
    pub status: Option<u16>,
}

impl LedgerEntry {
    /// The first header of that name (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// The entries kept.
pub(crate) struct Ledger {
    started: Instant,
    recorded: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    entries: VecDeque<LedgerEntry>,
    last: u64,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), recorded: Mutex::default() }
    }

    /// Writes an entry and returns its sequence number.
    pub(crate) fn record(&self, service: &str, flow: &str, request: &ReceivedRequest, kept: usize) -> u64 {
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        recorded.last += 1;
        let sequence = recorded.last;
        if kept == 0 {
            return sequence;
        }
        let headers = request.headers.iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        });
        let excerpt = &request.body[..request.body.len().min(MAX_BODY_EXCERPT)];
        while recorded.entries.len() >= kept {
            recorded.entries.pop_front();
        }
        recorded.entries.push_back(LedgerEntry {
            sequence,
            time_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            service: service.to_owned(),
            flow: flow.to_owned(),
            method: request.method.to_string(),
            path: request.path.clone(),
            query: request.query.clone(),
            headers: headers.collect(),
            body_length: request.body.len(),
            body: String::from_utf8_lossy(excerpt).into_owned(),
            status: None,
        });
        sequence
    }

    pub(crate) fn set_status(&self, sequence: u64, status: u16) {
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(first) = recorded.entries.front().map(|entry| entry.sequence) else {
            return;
        };
        let place = sequence.checked_sub(first).and_then(|place| usize::try_from(place).ok());
        if let Some(entry) = place.and_then(|place| recorded.entries.get_mut(place)) {
            entry.status = Some(status);
        }
    }

    pub(crate) fn entries(&self) -> Vec<LedgerEntry> {
        let recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        recorded.entries.iter().cloned().collect()
    }

    pub(crate) fn count(&self, service: &str, flow: &str) -> usize {
        let recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = recorded.entries.iter();
        entries.filter(|entry| entry.service == service && entry.flow == flow).count()
    }

    pub(crate) fn clear(&self) {
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        recorded.entries.clear();
    }
}

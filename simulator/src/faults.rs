//! Injected faults: the requests that they hit, and their effects.
//!
//! `connections` breaks the connections.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// A fault to inject. Absent conditions match everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// `account_manager`, `slas` or `api`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// A flow or operation as in the ledger; for the APIs the part after the dot is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<String>,
    /// The beginning of the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_prefix: Option<String>,
    /// Remaining requests that it hits; absent means without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining: Option<u32>,
    /// The effect on a request.
    pub effect: Effect,
}

/// The effect on a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Effect {
    /// The request is processed this much later. Delays combine with another effect.
    Delay {
        /// Milliseconds.
        ms: u64,
    },
    /// There is no response; the request is not processed.
    Hang,
    /// Another status; the request is not processed.
    Status {
        /// The status code.
        code: u16,
        /// `Retry-After`, as written.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after: Option<String>,
        /// The body; `application/json` when it begins with a brace.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        body: Option<String>,
    },
    /// The connection is reset (RST).
    Reset {
        /// The moment of the reset.
        at: ResetAt,
    },
    /// The request is processed; the connection closes half-way through the response's body.
    Truncate,
    /// The request is processed; the response's body contradicts its content type.
    Garbage {
        /// An HTML page instead of random bytes.
        #[serde(default)]
        html: bool,
    },
    /// 200 with a JSON body of this size; the request is not processed.
    HugeBody {
        /// Bytes.
        bytes: usize,
    },
}

/// The moment of a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetAt {
    /// Before the request is processed.
    Before,
    /// After it is processed, before the first byte of the response.
    After,
    /// In the middle of the response's body.
    MidBody,
}

impl Fault {
    /// A fault for a whole service, without end.
    pub fn on(service: &str, effect: Effect) -> Self {
        Self { service: Some(service.to_owned()), flow: None, path_prefix: None, remaining: None, effect }
    }

    /// Only for this flow or operation.
    #[must_use]
    pub fn flow(mut self, flow: &str) -> Self {
        self.flow = Some(flow.to_owned());
        self
    }

    /// Only this many times.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.remaining = Some(times);
        self
    }

    fn matches(&self, service: &str, flow: &str, path: &str) -> bool {
        let same_flow = |wanted: &str| wanted == flow || flow.split_once('.').is_some_and(|(_, name)| name == wanted);
        self.remaining != Some(0)
            && self.service.as_deref().is_none_or(|wanted| wanted == service)
            && self.flow.as_deref().is_none_or(same_flow)
            && self.path_prefix.as_deref().is_none_or(|prefix| path.starts_with(prefix))
    }
}

/// The faults of one request: delays added up, and at most one other effect.
#[derive(Default)]
pub(crate) struct AppliedFaults {
    pub(crate) delay_ms: u64,
    pub(crate) effect: Option<Effect>,
}

/// The injected faults, oldest first.
#[derive(Default)]
pub(crate) struct Faults(Mutex<Vec<Fault>>);

impl Faults {
    pub(crate) fn add(&self, fault: Fault) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
    }

    pub(crate) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) fn list(&self) -> Vec<Fault> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The faults that hit this request. Decrements their `remaining`.
    pub(crate) fn apply(&self, service: &str, flow: &str, path: &str) -> AppliedFaults {
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut applied = AppliedFaults::default();
        for fault in faults.iter_mut() {
            if !fault.matches(service, flow, path) {
                continue;
            }
            match &fault.effect {
                Effect::Delay { ms } => applied.delay_ms += ms,
                _ if applied.effect.is_some() => continue,
                other => applied.effect = Some(other.clone()),
            }
            if let Some(remaining) = &mut fault.remaining {
                *remaining -= 1;
            }
        }
        faults.retain(|fault| fault.remaining != Some(0));
        applied
    }
}

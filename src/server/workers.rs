//! The threads that serve connections: each has a runtime of its own, and a connection stays where it was put.
//!
//! Nothing of a request has to cross from one core to another, and no scheduler looks for work to steal, which together
//! is the cheaper way to serve many short requests. What is slow, or is no request, runs elsewhere.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio::{
    runtime::{Builder, Handle},
    sync::watch,
};

/// Threads that serve connections until this is dropped.
#[derive(Debug)]
pub struct Workers {
    handles: Arc<WorkerHandles>,
    _stop: watch::Sender<()>,
}

/// The threads themselves, and which is next.
#[derive(Debug)]
pub(super) struct WorkerHandles {
    runtimes: Vec<Handle>,
    taken: AtomicUsize,
}

impl Workers {
    /// Starts so many, and at least one.
    ///
    /// # Errors
    /// If the system has no thread or no descriptor left.
    pub fn start(count: usize) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(());
        let mut runtimes = Vec::new();
        for number in 0..count.max(1) {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtimes.push(runtime.handle().clone());
            let mut stopped = stopped.clone();
            // Its error is the end of the sender, which is what it waits for.
            let serve = move || runtime.block_on(async move { while stopped.changed().await.is_ok() {} });
            thread::Builder::new().name(format!("worker-{number}")).spawn(serve)?;
        }
        Ok(Self { handles: Arc::new(WorkerHandles { runtimes, taken: AtomicUsize::new(0) }), _stop: stop })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.handles.runtimes.len()
    }

    /// For whoever has connections to give to them.
    pub(super) fn handles(&self) -> Arc<WorkerHandles> {
        Arc::clone(&self.handles)
    }
}

impl WorkerHandles {
    /// Where the next connection goes, each in turn: a thread's number and its runtime.
    pub(super) fn next(&self) -> Option<(usize, &Handle)> {
        let number = self.taken.fetch_add(1, Ordering::Relaxed) % self.runtimes.len().max(1);
        Some((number, self.runtimes.get(number)?))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn workers_take_turns_and_end_their_connections() {
        let workers = Workers::start(2).unwrap();
        let (handles, mut names) = (workers.handles(), Vec::new());
        for _ in 0..4 {
            let name = handles.next().unwrap().1.spawn(async { thread::current().name().unwrap().to_owned() });
            names.push(name.await.unwrap());
        }
        assert_eq!(names, ["worker-0", "worker-1", "worker-0", "worker-1"]);

        let served = handles.next().unwrap().1.spawn(std::future::pending::<()>());
        drop(workers);
        let ended = tokio::time::timeout(Duration::from_secs(30), served).await.unwrap();
        assert!(ended.unwrap_err().is_cancelled());
    }
}

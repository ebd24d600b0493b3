//! A non-blocking log writer: a bounded queue and a thread for each destination.
//!
//! Logging never blocks a request, even if the reader of a pipe stops reading. If the queue is full, the writer drops the line
//! and counts it. If the destination fails, the thread retries once a second from the byte where it stopped. So a disk that
//! was full for a while contains every line once and complete.
//!
//! `tracing-appender` also has a queue and a thread. But it silently drops what the destination rejects, even in the middle of a
//! line.

use std::{
    io::{self, ErrorKind, Write},
    sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use prometheus::IntCounter;

/// Time between two attempts at a destination that failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Lines that arrive within this time are written together. Waking the thread for each line would cost the caller more than
/// the line.
const BATCH_INTERVAL: Duration = Duration::from_millis(5);
/// Maximum bytes of one write. A pipe accepts this many atomically (`PIPE_BUF`, pipe(7)), so the lines of two processes do not
/// interleave.
const MAX_BATCH_BYTES: usize = 4096;
/// Time between two attempts to queue a flush request while the queue is full.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Writes lines to one destination.
#[derive(Debug)]
pub struct LogWriter {
    entries: SyncSender<Entry>,
    dropped: IntCounter,
}

#[derive(Debug)]
enum Entry {
    Line(Vec<u8>),
    /// The thread replies when it has written all entries before this one.
    Flush(SyncSender<()>),
}

impl LogWriter {
    /// Starts a writer for `destination` with a queue of `capacity` lines. `name` is its name in the log. `dropped` counts the
    /// lines that it drops.
    ///
    /// # Errors
    /// If the operating system cannot start a thread.
    pub fn new(
        name: &'static str,
        destination: impl Write + Send + 'static,
        capacity: usize,
        dropped: IntCounter,
    ) -> io::Result<Self> {
        let (entries, queue) = sync_channel(capacity);
        let count = dropped.clone();
        thread::Builder::new()
            .name(format!("{name} writer"))
            .spawn(move || WriterThread { name, destination, dropped: count, reported: 0 }.run(&queue))?;
        Ok(Self { entries, dropped })
    }

    /// Waits until the thread has written all lines queued so far, or until the deadline.
    pub fn flush(&self, deadline: Instant) {
        let (done, is_done) = sync_channel(1);
        let mut entry = Entry::Flush(done);
        while let Err(TrySendError::Full(unsent)) = self.entries.try_send(entry) {
            if Instant::now() >= deadline {
                return;
            }
            entry = unsent;
            thread::sleep(POLL_INTERVAL);
        }
        // An error means that the deadline has passed or the thread has ended. Both end the wait.
        let _ = is_done.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// Each call must pass one complete line, as `tracing_subscriber` does.
impl Write for &LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.entries.try_send(Entry::Line(line.to_vec())).is_err() {
            self.dropped.inc();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The state of the writer's thread.
struct WriterThread<W> {
    name: &'static str,
    destination: W,
    dropped: IntCounter,
    /// Number of dropped lines that the log has reported.
    reported: u64,
}

impl<W: Write> WriterThread<W> {
    fn run(mut self, queue: &Receiver<Entry>) {
        let mut lines = Vec::with_capacity(MAX_BATCH_BYTES);
        loop {
            let entry = match queue.try_recv() {
                Ok(entry) => entry,
                Err(TryRecvError::Empty) => {
                    self.write(&mut lines);
                    self.report_dropped_lines();
                    thread::sleep(BATCH_INTERVAL);
                    let Ok(entry) = queue.recv() else { return };
                    entry
                }
                Err(TryRecvError::Disconnected) => return self.write(&mut lines),
            };
            match entry {
                Entry::Line(line) => {
                    if lines.len() + line.len() > MAX_BATCH_BYTES {
                        self.write(&mut lines);
                    }
                    lines.extend_from_slice(&line);
                }
                Entry::Flush(done) => {
                    self.write(&mut lines);
                    // Fails if the caller has stopped waiting.
                    let _ = done.send(());
                }
            }
        }
    }

    /// Writes and clears the lines. Retries until the destination accepts them.
    fn write(&mut self, lines: &mut Vec<u8>) {
        let mut rest = lines.as_slice();
        let mut refused = false;
        while !rest.is_empty() {
            let error = match self.destination.write(rest) {
                Ok(0) => ErrorKind::WriteZero.into(),
                Ok(written) => {
                    rest = rest.get(written..).unwrap_or_default();
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            if !refused {
                tracing::error!(log = self.name, %error, "log write failed, retrying every second");
            }
            refused = true;
            thread::sleep(RETRY_INTERVAL);
        }
        lines.clear();
        if refused {
            tracing::warn!(log = self.name, "log writes resumed");
        }
    }

    /// Logs the number of lines dropped since the previous report. The queue is empty here, so it has room for this line.
    fn report_dropped_lines(&mut self) {
        let dropped = self.dropped.get();
        if dropped > self.reported {
            tracing::warn!(
                log = self.name,
                lines = dropped - self.reported,
                "log lines dropped: the reader is too slow"
            );
            self.reported = dropped;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    };

    use super::*;

    /// Accepts three bytes at a time, and nothing while it is full.
    #[derive(Clone, Default)]
    struct Disk {
        full: Arc<AtomicBool>,
        bytes: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.full.load(Ordering::Relaxed) {
                return Err(ErrorKind::StorageFull.into());
            }
            let mut written = self.bytes.lock().unwrap();
            let some = &bytes[..bytes.len().min(3)];
            written.extend_from_slice(some);
            // In the middle of the first line.
            if written.len() == 3 {
                self.full.store(true, Ordering::Relaxed);
            }
            Ok(some.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn counter() -> IntCounter {
        IntCounter::new("lost", "lost").unwrap()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn log_writer_after_full_disk_writes_every_line_once() {
        let (disk, dropped) = (Disk::default(), counter());
        let writer = LogWriter::new("test", disk.clone(), 8, dropped.clone()).unwrap();
        for line in ["first line\n", "second\n"] {
            (&writer).write_all(line.as_bytes()).unwrap();
        }
        writer.flush(Instant::now() + Duration::from_millis(300));
        assert_eq!(*disk.bytes.lock().unwrap(), b"fir");
        disk.full.store(false, Ordering::Relaxed);
        writer.flush(soon());
        assert_eq!(*disk.bytes.lock().unwrap(), b"first line\nsecond\n");
        assert_eq!(dropped.get(), 0);
    }

    #[test]
    fn log_writer_with_full_queue_drops_and_counts_lines() {
        let (disk, dropped) = (Disk { full: Arc::new(AtomicBool::new(true)), ..Disk::default() }, counter());
        let writer = LogWriter::new("test", disk.clone(), 4, dropped.clone()).unwrap();
        for _ in 0..20 {
            (&writer).write_all(b"a line\n").unwrap();
        }
        // Four lines are queued, and the thread may hold one more.
        assert!((15..=16).contains(&dropped.get()), "{}", dropped.get());
        disk.full.store(false, Ordering::Relaxed);
        disk.bytes.lock().unwrap().extend_from_slice(b"....");
        writer.flush(soon());
        let written = disk.bytes.lock().unwrap().len() - 4;
        assert_eq!(written as u64 / 7 + dropped.get(), 20);
    }

    #[test]
    fn log_writer_flush_ends_at_deadline() {
        let disk = Disk { full: Arc::new(AtomicBool::new(true)), ..Disk::default() };
        let writer = LogWriter::new("test", disk, 1, counter()).unwrap();
        for _ in 0..3 {
            (&writer).write_all(b"a line\n").unwrap();
        }
        let start = Instant::now();
        writer.flush(start + Duration::from_millis(50));
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

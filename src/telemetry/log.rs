//! Owns the way of log lines to stderr: gathered in memory, written by a thread of their own, so that no request
//! waits for whoever reads the log. Must not know: what a line says.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// What may wait for a slow reader. Lines that find no room are counted, and their number is told later.
const MOST: usize = 4 << 20;
/// How long a line waits for others to be written with.
const GATHER: Duration = Duration::from_millis(5);
/// How long the end waits for a reader that does not read.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where lines are put.
#[derive(Clone, Debug)]
pub(super) struct Lines(Arc<Shared>);

/// Writes what is left when it is dropped. Lines put down later are not written.
#[derive(Debug)]
#[must_use = "without it nothing is written"]
pub struct LogThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// There is something to write, or the end has come.
    news: Condvar,
    /// All is written, and the end had come.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    lost: u64,
    stop: Stop,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stop {
    #[default]
    No,
    Asked,
    Done,
}

/// Starts the thread; it writes to `sink`.
pub(super) fn start(sink: impl Write + Send + 'static) -> io::Result<(Lines, LogThread)> {
    let shared = Arc::new(Shared::default());
    let own = Arc::clone(&shared);
    let thread = thread::Builder::new().name("log".to_owned()).spawn(move || own.run(sink))?;
    Ok((Lines(Arc::clone(&shared)), LogThread { shared, thread: Some(thread) }))
}

impl Lines {
    /// A whole line, or several.
    pub fn put(&self, line: &[u8]) {
        self.0.put(line);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, line: &[u8]) {
        let mut waiting = self.lock();
        if waiting.bytes.len() + line.len() > MOST {
            waiting.lost += 1;
            return;
        }
        waiting.bytes.extend_from_slice(line);
        // The others find the thread gathering, or writing and about to look again.
        let is_first = waiting.bytes.len() == line.len();
        drop(waiting);
        if is_first {
            self.news.notify_one();
        }
    }

    fn run(&self, mut sink: impl Write) {
        let mut batch = Vec::new();
        loop {
            let lost = self.gather(&mut batch);
            // A log that nobody can read any more is no reason to end the server.
            let _ = sink.write_all(&batch).and_then(|()| sink.flush());
            batch.clear();
            if lost > 0 {
                tracing::warn!(lines = lost, "the log's reader is too slow: lines were left out");
            }
            let mut waiting = self.lock();
            if waiting.stop != Stop::No && waiting.bytes.is_empty() {
                waiting.stop = Stop::Done;
                self.ended.notify_all();
                return;
            }
        }
    }

    /// Waits for lines, and a little longer for more; takes them all, and tells how many were lost.
    fn gather(&self, batch: &mut Vec<u8>) -> u64 {
        let idle = |waiting: &mut Waiting| waiting.stop == Stop::No && waiting.bytes.is_empty();
        let waiting = self.news.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        let going_on = |waiting: &mut Waiting| waiting.stop == Stop::No;
        let gathered = self.news.wait_timeout_while(waiting, GATHER, going_on);
        let (mut waiting, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut waiting.bytes, batch);
        std::mem::take(&mut waiting.lost)
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        let mut waiting = self.shared.lock();
        waiting.stop = Stop::Asked;
        self.shared.news.notify_one();
        let writing = |waiting: &mut Waiting| waiting.stop != Stop::Done;
        let waited = self.shared.ended.wait_timeout_while(waiting, PATIENCE, writing);
        let (waiting, late) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(waiting);
        if let Some(thread) = self.thread.take().filter(|_| !late.timed_out()) {
            // It has said that it is done, and panics nowhere.
            let _ = thread.join();
        }
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

/// Takes one line, which comes whole.
pub(super) struct Line<'a>(&'a Shared);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// Each write must be let through.
    struct Gate {
        written: Arc<Mutex<Vec<u8>>>,
        open: Receiver<()>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.open.recv().map_err(io::Error::other)?;
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (Lines, LogThread, Arc<Mutex<Vec<u8>>>, SyncSender<()>) {
        let written = Arc::new(Mutex::new(Vec::new()));
        let (key, open) = sync_channel(1000);
        let (lines, thread) = start(Gate { written: Arc::clone(&written), open }).unwrap();
        (lines, thread, written, key)
    }

    fn put(lines: &Lines, line: &str) {
        lines.make_writer().write_all(line.as_bytes()).unwrap();
    }

    #[test]
    fn what_was_put_down_is_written_before_the_end() {
        let (lines, thread, written, key) = gated();
        for number in 0..1000 {
            put(&lines, &format!("{number}\n"));
            key.send(()).unwrap();
        }
        drop(thread);
        let expected: String = (0..1000).map(|number| format!("{number}\n")).collect();
        assert_eq!(String::from_utf8(written.lock().unwrap().clone()).unwrap(), expected);
    }

    #[test]
    fn a_reader_that_does_not_read_stops_nobody_and_memory_is_bounded() {
        let (lines, thread, _, key) = gated();
        let line = "x".repeat(1 << 10);
        put(&lines, &line);
        // The thread has taken it, and comes to no other until that is written.
        while !lines.0.lock().bytes.is_empty() {
            thread::yield_now();
        }
        for _ in 0..3 * MOST / line.len() {
            put(&lines, &line);
        }
        let waiting = lines.0.lock();
        assert!(waiting.bytes.len() <= MOST && waiting.lost > 0);
        drop(waiting);
        // The end does not wait for ever either; the writer then finds nobody who lets it through.
        drop(key);
        drop(thread);
    }
}

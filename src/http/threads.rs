//! Owns the threads that connections are served on. Each has a runtime of its own, and a connection stays where it
//! began: a request is read, answered and written without another thread being woken for it, which costs more than most
//! answers do. What runs for the server as a whole (the engine's tasks, looks at the metadata, passwords) stays on the
//! runtime that serves.
//! Must not know: what a connection does.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// How many reads and writes of files connections may have under way together.
const BLOCKING: usize = 512;
/// And those of one thread at least.
const LEAST_BLOCKING: usize = 64;

/// Ends them when it is dropped, with whatever still runs there; it does not wait for that.
#[derive(Debug)]
pub struct Threads {
    threads: Vec<Thread>,
    _end: DropGuard,
}

#[derive(Clone, Debug)]
struct Thread {
    runtime: Handle,
    /// How many connections it has.
    connections: Arc<AtomicUsize>,
}

impl Threads {
    /// So many of this name, at least one.
    pub fn start(count: usize, name: &str) -> io::Result<Self> {
        let (count, end) = (count.max(1), CancellationToken::new());
        let blocking = (BLOCKING / count).max(LEAST_BLOCKING);
        let start = |_| start(name, blocking, end.clone());
        // Also those that were started before one that cannot be.
        let _end = end.clone().drop_guard();
        let threads = (0..count).map(start).collect::<io::Result<_>>()?;
        Ok(Self { threads, _end })
    }

    /// A place on the thread that has the fewest connections.
    pub(super) fn seat(&self) -> Seat {
        let busy = |thread: &&Thread| thread.connections.load(Ordering::Relaxed);
        let thread = self.threads.iter().min_by_key(busy).expect("there is at least one");
        thread.connections.fetch_add(1, Ordering::Relaxed);
        Seat { thread: thread.clone() }
    }
}

/// The runtime is made and ended on its own thread: it may not end where another one runs.
fn start(name: &str, blocking: usize, end: CancellationToken) -> io::Result<Thread> {
    let mut runtime = Builder::new_current_thread();
    runtime.enable_all().thread_name(name).max_blocking_threads(blocking);
    let (tell, told) = mpsc::sync_channel(1);
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        let runtime = match runtime.build() {
            Ok(runtime) => runtime,
            // Nobody listens only where there is nobody left to serve.
            Err(error) => return drop(tell.send(Err(error))),
        };
        drop(tell.send(Ok(runtime.handle().clone())));
        runtime.block_on(end.cancelled());
        // What waits for a disk is not waited for.
        runtime.shutdown_background();
    })?;
    let runtime = told.recv().map_err(io::Error::other)??;
    Ok(Thread { runtime, connections: Arc::default() })
}

/// One connection's place on a thread, until this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    thread: Thread,
}

impl Seat {
    /// Moves a connection here, from the runtime that accepted it.
    pub fn take(&self, stream: TcpStream) -> io::Result<TcpStream> {
        let stream = stream.into_std()?;
        let _inside = self.thread.runtime.enter();
        TcpStream::from_std(stream)
    }

    /// Runs a connection to its end here.
    pub fn run<F>(self, connections: &TaskTracker, connection: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = self.thread.runtime.clone();
        connections.spawn_on(
            async move {
                connection.await;
                drop(self);
            },
            &runtime,
        );
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.thread.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::thread::ThreadId;

    use tokio::sync::oneshot;

    use super::*;

    /// Which thread a connection runs on, and what ends it.
    async fn run(seat: Seat, connections: &TaskTracker) -> (ThreadId, oneshot::Sender<()>) {
        let (told, tells) = oneshot::channel();
        let (end, ends) = oneshot::channel();
        seat.run(connections, async move {
            told.send(thread::current().id()).expect("the test waits for it");
            // However it is told, by a word or by silence.
            let _ = ends.await;
        });
        (tells.await.expect("it runs"), end)
    }

    #[tokio::test]
    async fn a_connection_goes_where_the_fewest_are() {
        let (threads, connections) = (Threads::start(3, "three").expect("threads"), TaskTracker::new());
        let mut running = Vec::new();
        for _ in 0..3 {
            running.push(run(threads.seat(), &connections).await);
        }
        let all: HashSet<ThreadId> = running.iter().map(|(thread, _)| *thread).collect();
        assert_eq!(all.len(), 3);
        // One ends, and the next one takes its place.
        let (freed, end) = running.remove(1);
        drop(end);
        connections.close();
        while connections.len() > 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(run(threads.seat(), &connections).await.0, freed);
    }

    #[tokio::test]
    async fn what_still_runs_ends_with_its_thread() {
        let threads = Threads::start(1, "one").expect("threads");
        let (_, mut end) = run(threads.seat(), &TaskTracker::new()).await;
        drop(threads);
        tokio::time::timeout(std::time::Duration::from_secs(10), end.closed()).await.expect("it is dropped");
    }
}

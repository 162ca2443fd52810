//! Owns the writer threads: what drafts take in is written and hashed here, away from the async workers. What takes as
//! long as a blob is large (syncing, publishing, hashing it once more) runs in the blocking pool, beside the readers.
//! Must not know: what a job does.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use tokio::sync::{mpsc, oneshot};

type Job = Box<dyn FnOnce() + Send>;

/// More threads than this only make the disk seek.
const MOST: usize = 4;
/// Jobs that may wait per thread. Who comes later waits to hand in, which is the pace the upstream feels.
const QUEUE: usize = 64;

/// The threads. They end when this and every `Lane` are gone.
#[derive(Debug)]
pub(super) struct Writers {
    lanes: Vec<Lane>,
}

impl Writers {
    pub(super) fn start() -> io::Result<Self> {
        let threads = thread::available_parallelism().map_or(1, usize::from).min(MOST);
        let lanes = (0..threads).map(start_thread).collect::<io::Result<_>>()?;
        Ok(Self { lanes })
    }

    /// The thread that `key` sticks to: its jobs run one after the other, in the order they were handed in.
    pub(super) fn lane(&self, key: u64) -> Lane {
        let lanes = self.lanes.len() as u64;
        let index = usize::try_from(key % lanes).expect("a lane's number is small");
        self.lanes[index].clone()
    }
}

fn start_thread(number: usize) -> io::Result<Lane> {
    let (jobs, mut inbox) = mpsc::channel::<Job>(QUEUE);
    thread::Builder::new().name(format!("store-writer-{number}")).spawn(move || {
        while let Some(job) = inbox.blocking_recv() {
            // Whoever waits for this job sees its answer dropped; the next job is none the worse for it.
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                tracing::error!(thread = number, "a store writer's job panicked");
            }
        }
    })?;
    Ok(Lane(jobs))
}

/// The way to one writer thread.
#[derive(Clone, Debug)]
pub(super) struct Lane(mpsc::Sender<Job>);

impl Lane {
    /// Runs `job` there and waits for what it returns. Once handed in it runs to its end, also where the caller
    /// stops waiting.
    pub(super) async fn run<T, F>(&self, job: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job = Box::new(move || {
            // Nobody listens where the caller has stopped waiting.
            let _ = answer.send(job());
        });
        self.0.send(job).await.map_err(|_| io::Error::other("the store's writer threads have ended"))?;
        answered.await.map_err(|_| io::Error::other("the store's writer job panicked"))?
    }

    /// Hands `job` in without waiting. Where the queue is full it runs on the spot: a drop cannot wait.
    pub(super) fn post(&self, job: impl FnOnce() + Send + 'static) {
        if let Err(refused) = self.0.try_send(Box::new(job)) {
            let job = match refused {
                mpsc::error::TrySendError::Full(job) | mpsc::error::TrySendError::Closed(job) => job,
            };
            job();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_job_that_panics_fails_alone() {
        let writers = Writers::start().unwrap();
        let lane = writers.lane(7);
        let broken: io::Result<()> = lane.run(|| panic!("planted")).await;
        assert!(broken.unwrap_err().to_string().contains("panicked"));
        assert_eq!(lane.run(|| Ok(5)).await.unwrap(), 5);
    }

    #[tokio::test]
    async fn a_full_queue_makes_the_poster_do_it() {
        let writers = Writers::start().unwrap();
        let lane = writers.lane(0);
        let (release, gate) = std::sync::mpsc::channel::<()>();
        lane.post(move || gate.recv().unwrap());
        let (done, dones) = std::sync::mpsc::channel();
        for _ in 0..QUEUE * 2 {
            let done = done.clone();
            lane.post(move || done.send(thread::current().id()).unwrap());
        }
        assert_eq!(dones.recv().unwrap(), thread::current().id());
        release.send(()).unwrap();
        lane.run(|| Ok(())).await.unwrap();
        assert_eq!(dones.try_iter().count() + 1, QUEUE * 2);
    }
}

//! Owns the writer threads: what drafts take in is written and hashed here, away from the async workers. Each has a
//! thread beside it, that hashes a piece while it is written. What takes as long as a blob is large (syncing,
//! publishing, hashing it once more) runs in the blocking pool, beside the readers.
//! Must not know: what a job does.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc as blocking;
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
        let lanes = (0..threads).map(start_lane).collect::<io::Result<_>>()?;
        Ok(Self { lanes })
    }

    /// The thread that `key` sticks to: its jobs run one after the other, in the order they were handed in.
    pub(super) fn lane(&self, key: u64) -> Lane {
        let lanes = self.lanes.len() as u64;
        let index = usize::try_from(key % lanes).expect("a lane's number is small");
        self.lanes[index].clone()
    }
}

fn start_lane(number: usize) -> io::Result<Lane> {
    let (jobs, mut inbox) = mpsc::channel::<Job>(QUEUE);
    start_thread(format!("store-writer-{number}"), move || inbox.blocking_recv())?;
    // At most one job lies here: the writer thread waits for it.
    let (beside, inbox) = blocking::channel::<Job>();
    start_thread(format!("store-hasher-{number}"), move || inbox.recv().ok())?;
    Ok(Lane { jobs, beside })
}

/// Does what `next` hands out, until there is nothing more.
fn start_thread(name: String, mut next: impl FnMut() -> Option<Job> + Send + 'static) -> io::Result<()> {
    let named = name.clone();
    thread::Builder::new().name(name).spawn(move || {
        while let Some(job) = next() {
            // Whoever waits for this job sees its answer dropped; the next job is none the worse for it.
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                tracing::error!(thread = named, "a job of the store's panicked");
            }
        }
    })?;
    Ok(())
}

/// The way to one writer thread, and to the one beside it.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    jobs: mpsc::Sender<Job>,
    beside: blocking::Sender<Job>,
}

impl Lane {
    /// Runs `job` there and waits for what it returns.
    pub(super) async fn run<T, F>(&self, job: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        self.hand_in(job).await?.answer().await
    }

    /// Has `job` run there, behind what was handed in before. It runs to its end, also where the caller stops waiting.
    pub(super) async fn hand_in<T, F>(&self, job: F) -> io::Result<HandedIn<T>>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job = Box::new(move || {
            // Nobody listens where the caller has stopped waiting.
            let _ = answer.send(job());
        });
        self.jobs.send(job).await.map_err(|_| ended())?;
        Ok(HandedIn(answered))
    }

    /// For a job that runs on the writer thread: has `beside` done by the thread beside it while `here` is done, and
    /// waits for both.
    pub(super) fn both<T: Send + 'static, U>(
        &self,
        beside: impl FnOnce() -> T + Send + 'static,
        here: impl FnOnce() -> U,
    ) -> io::Result<(T, U)> {
        let (answer, answered) = blocking::sync_channel(1);
        let beside = Box::new(move || {
            // Nobody listens where `here` has panicked.
            let _ = answer.send(beside());
        });
        self.beside.send(beside).map_err(|_| ended())?;
        let here = here();
        Ok((answered.recv().map_err(|_| panicked())?, here))
    }

    /// Hands `job` in without waiting. Where the queue is full it runs on the spot: a drop cannot wait.
    pub(super) fn post(&self, job: impl FnOnce() + Send + 'static) {
        if let Err(refused) = self.jobs.try_send(Box::new(job)) {
            let job = match refused {
                mpsc::error::TrySendError::Full(job) | mpsc::error::TrySendError::Closed(job) => job,
            };
            job();
        }
    }
}

/// A job that runs, or waits for those before it.
#[derive(Debug)]
pub(super) struct HandedIn<T>(oneshot::Receiver<io::Result<T>>);

impl<T> HandedIn<T> {
    /// To be asked until it is there, and no more.
    pub(super) async fn answer(&mut self) -> io::Result<T> {
        (&mut self.0).await.map_err(|_| panicked())?
    }

    /// The same, in a thread that may block.
    pub(super) fn wait(self) -> io::Result<T> {
        self.0.blocking_recv().map_err(|_| panicked())?
    }
}

fn ended() -> io::Error {
    io::Error::other("the store's writer threads have ended")
}

fn panicked() -> io::Error {
    io::Error::other("the store's writer job panicked")
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
    async fn what_is_done_beside_a_job_fails_the_job_alone() {
        let writers = Writers::start().unwrap();
        let lane = writers.lane(3);
        let beside = lane.clone();
        let broken = lane.run(move || beside.both(|| -> u8 { panic!("planted") }, || 1)).await;
        assert!(broken.unwrap_err().to_string().contains("panicked"));
        let beside = lane.clone();
        let broken: io::Result<(u8, u8)> = lane.run(move || beside.both(|| 1, || panic!("planted"))).await;
        assert!(broken.unwrap_err().to_string().contains("panicked"));
        let beside = lane.clone();
        let both = move || beside.both(|| thread::current().id(), || thread::current().id());
        let (there, here) = lane.run(both).await.unwrap();
        assert_ne!(there, here);
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

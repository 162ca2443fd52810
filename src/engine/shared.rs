//! Owns what every task of the engine holds: store, metadata, repositories, clock, and the tasks themselves.
//! Must not know: what the tasks do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;

use super::accounts::Accounts;
use super::announced::Announced;
use super::answers::Answers;
use super::documents::Sizes;
use super::drafts::Drafts;
use super::model::{EngineError, ErrorKind};
use super::repositories::Repositories;
use super::resolutions::Resolutions;
use super::room::Room;
use super::scrub::Scrub;
use super::settings::Settings;
use super::touched::Touched;
use super::turns::Turns;
use super::uploads::Uploads;
use crate::clock::Clock;
use crate::meta::{Meta, MetaError};
use crate::store::{DraftId, Store, Trouble};
use crate::telemetry::Metrics;

/// How many requests at once may fetch past the cache when the disk is full.
const BYPASS: usize = 32;

pub(super) struct Shared {
    pub clock: Clock,
    pub store: Arc<dyn Store>,
    pub meta: Arc<dyn Meta>,
    pub metrics: Arc<Metrics>,
    pub repositories: Repositories,
    pub accounts: Accounts,
    pub answers: Answers,
    pub drafts: Drafts,
    pub resolutions: Resolutions,
    pub touched: Touched,
    pub turns: Turns,
    pub uploads: Uploads,
    pub announced: Announced,
    pub sizes: Sizes,
    pub settings: Settings,
    pub tasks: Tasks,
    pub room: Room,
    pub bypass: Arc<Semaphore>,
    /// One cleanup at a time.
    pub cleanup: Mutex<()>,
    pub scrub: Scrub,
    /// The number of this run.
    pub epoch: u64,
    /// The schema that the metadata had, if this run has upgraded it.
    pub upgraded_from: Option<u32>,
    /// Cached copies of earlier epochs are suspect: the run that wrote them, or one after it, ended uncleanly.
    pub trusted_since: u64,
    draft_numbers: AtomicU64,
    stamps: AtomicU64,
}

/// What `Shared` is made of besides the parts it makes itself.
pub(super) struct Parts {
    pub clock: Clock,
    pub store: Arc<dyn Store>,
    pub meta: Arc<dyn Meta>,
    pub metrics: Arc<Metrics>,
    pub repositories: Repositories,
    pub accounts: Accounts,
    pub settings: Settings,
    pub epoch: u64,
    pub upgraded_from: Option<u32>,
    pub trusted_since: u64,
}

impl Shared {
    pub fn new(parts: Parts) -> Self {
        Self {
            answers: Answers::new(),
            drafts: Drafts::default(),
            resolutions: Resolutions::new(),
            touched: Touched::default(),
            turns: Turns::new(),
            uploads: Uploads::default(),
            announced: Announced::default(),
            sizes: Sizes::default(),
            tasks: Tasks::here(),
            room: Room::new(parts.clock.clone()),
            bypass: Arc::new(Semaphore::new(BYPASS)),
            cleanup: Mutex::new(()),
            scrub: Scrub::default(),
            // Never a number of an earlier run: its drafts may still lie here.
            draft_numbers: AtomicU64::new(parts.epoch << 32),
            stamps: AtomicU64::new(0),
            clock: parts.clock,
            store: parts.store,
            meta: parts.meta,
            metrics: parts.metrics,
            repositories: parts.repositories,
            accounts: parts.accounts,
            settings: parts.settings,
            epoch: parts.epoch,
            upgraded_from: parts.upgraded_from,
            trusted_since: parts.trusted_since,
        }
    }

    /// Runs reads of metadata and files, and what computes for long, off the threads that serve.
    pub async fn read<T, F>(self: &Arc<Self>, read: F) -> Result<T, EngineError>
    where
        T: Send + 'static,
        F: FnOnce(&Self) -> Result<T, EngineError> + Send + 'static,
    {
        let shared = Arc::clone(self);
        let answer = self.tasks.runtime.spawn_blocking(move || read(&shared)).await;
        answer.unwrap_or_else(|panic| {
            tracing::error!(%panic, "a read of the metadata panicked");
            Err(EngineError::new(ErrorKind::Internal, "the metadata could not be read"))
        })
    }

    /// Now, in microseconds since 1970, and never the same twice.
    pub fn stamp(&self) -> u64 {
        let now = self.clock.wall().0.saturating_mul(1_000);
        let next = |last: u64| Some(now.max(last + 1));
        let before = self.stamps.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        before.map_or(now, |before| now.max(before + 1))
    }

    pub fn next_draft(&self) -> DraftId {
        DraftId(self.draft_numbers.fetch_add(1, Ordering::Relaxed))
    }
}

impl From<MetaError> for EngineError {
    fn from(error: MetaError) -> Self {
        match error {
            MetaError::Conflict(_) => Self::new(ErrorKind::Conflict, "somebody else changed this meanwhile"),
            MetaError::Closed => {
                tracing::warn!("the metadata store is closed");
                Self::new(ErrorKind::Overloaded, "the server is stopping")
                    .with_retry_after(Some(Duration::from_secs(5)))
            }
            other => Self::new(ErrorKind::Overloaded, "the metadata store cannot be used right now")
                .with_retry_after(Some(Duration::from_secs(5)))
                .caused_by("the metadata store failed", other),
        }
    }
}

impl From<std::io::Error> for EngineError {
    fn from(error: std::io::Error) -> Self {
        let told = match Trouble::of(&error) {
            Trouble::Shortage => Self::new(ErrorKind::Overloaded, "the server is short of files or memory")
                .with_retry_after(Some(Duration::from_secs(1))),
            Trouble::Full | Trouble::Damage | Trouble::Other => {
                Self::new(ErrorKind::Internal, "the file storage could not be read")
            }
        };
        told.caused_by("the file storage failed", error)
    }
}

/// The engine's tasks: nothing runs that is not registered here.
#[derive(Clone)]
pub(super) struct Tasks {
    /// That of the server: jobs outlive whoever asked for them, and the thread that asked.
    runtime: Handle,
    jobs: TaskTracker,
    stop: CancellationToken,
    halt: CancellationToken,
}

impl Tasks {
    /// On the runtime that this is called in.
    pub fn here() -> Self {
        let (stop, halt) = Default::default();
        Self { runtime: Handle::current(), jobs: TaskTracker::new(), stop, halt }
    }

    pub fn spawn<F>(&self, job: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.jobs.spawn_on(job, &self.runtime);
    }

    /// The actor outlives the jobs, which report to it.
    pub fn spawn_last<F>(&self, job: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.runtime.spawn(job);
    }

    /// Completes when jobs should put down their work where it can be taken up again.
    pub fn stopping(&self) -> WaitForCancellationFutureOwned {
        self.stop.clone().cancelled_owned()
    }

    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Completes when nobody reports any more.
    pub fn halted(&self) -> WaitForCancellationFutureOwned {
        self.halt.clone().cancelled_owned()
    }

    /// Asks all jobs to end and waits for them, at most `grace`. Answers whether all did.
    pub async fn end(&self, grace: Duration) -> bool {
        self.stop.cancel();
        self.jobs.close();
        let ended = tokio::time::timeout(grace, self.jobs.wait()).await.is_ok();
        self.halt.cancel();
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests run on threads of their own, and what they set going is the engine's.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_job_outlives_the_thread_that_began_it() {
        let tasks = Tasks::here();
        let (go, gone) = tokio::sync::oneshot::channel();
        let (done, ended) = tokio::sync::oneshot::channel();
        let beginner = tasks.clone();
        let thread = std::thread::Builder::new().spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async {
                beginner.spawn(async move {
                    gone.await.expect("the thread has ended");
                    done.send(()).expect("the test waits");
                });
            });
        });
        thread.expect("a thread").join().expect("it ends");
        go.send(()).expect("the job lives");
        ended.await.expect("it came to its end");
    }
}

//! Owns the fill: one task that fetches one digest into one draft, hashing as it writes, and publishes it.
//! It keeps the pace of the upstream and the disk, never of a reader.
//! Must not know: who reads, how many wait, what the cache decides.

mod notes;
mod pull;

use std::io;
use std::sync::{Arc, OnceLock};

use self::notes::{Notes, Promise};
use super::attempts::{self, Attempts, Verdict};
use super::drafts::Leftover;
use super::flight::{FlightTail, Parting, Salvage, Source, Story};
use super::guards::{FillGuard, FillLine};
use super::repository::Repository;
use super::shared::Shared;
use crate::cache::Failure;
use crate::meta::{LinkRow, MetaExt as _};
use crate::names::Digest;
use crate::planted::Bug;
use crate::store::{Checkpoint, Draft, Durability, Trouble};
use crate::upstream::UpstreamError;

/// How a fill ended badly.
struct Ended {
    failure: Failure,
    story: Option<Story>,
    /// What its readers hold, and what they hear of it.
    draft: Option<(Draft, Arc<str>)>,
}

impl Ended {
    /// Nothing can be kept now: whoever waits goes past the cache.
    const UNKEPT: Self = Self { failure: Failure::NoSpace, story: None, draft: None };
    const DIED: Self = Self { failure: Failure::Died, story: None, draft: None };
}

/// Why one attempt stopped.
enum Stopped {
    Upstream(UpstreamError),
    /// More bytes than the blob has, or others.
    Mismatch,
    /// The draft cannot be written: the disk is full, or worse.
    Disk(io::Error),
    /// The server stops: the draft stays for the next start.
    Stopping,
    /// Nobody needs it any more.
    Unneeded,
}

impl From<UpstreamError> for Stopped {
    fn from(error: UpstreamError) -> Self {
        Self::Upstream(error)
    }
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

/// Fetches `digest` through `source` and reports how it went.
pub(super) async fn run(
    shared: Arc<Shared>,
    line: FillLine,
    guard: FillGuard,
    digest: Digest,
    source: Source,
) {
    if shared.tasks.is_stopping() {
        return guard.failed(Failure::Died, None);
    }
    let Some(repository) = shared.repositories.by_id(source.repository) else {
        let message = "the repository was removed meanwhile".into();
        let story = Story { message, timed_out: false };
        return guard.failed(Failure::NotFound, Some(story));
    };
    let ended = match Fill::begin(shared, line, digest, source, repository).await {
        Ok(fill) => fill.fly().await,
        Err(ended) => Err(ended),
    };
    match ended {
        Ok(size) => guard.done(size, None),
        Err(Ended { failure: Failure::NoSpace, .. }) if Bug::FullDiskRefuses.is_planted() => {
            guard.failed(Failure::Transport, None);
        }
        Err(Ended { failure, story, draft }) => {
            // In this order: a reader through another source, who had nothing of it, asks again and must not find it once
            // more.
            guard.failed(failure, story);
            if let Some((draft, why)) = draft {
                draft.fail(why);
            }
        }
    }
}

struct Fill {
    shared: Arc<Shared>,
    line: FillLine,
    digest: Digest,
    source: Source,
    repository: Arc<Repository>,
    /// From the descriptor that named the digest, where there was one.
    expected: Option<u64>,
    draft: Draft,
    parting: Arc<OnceLock<Parting>>,
    /// Readers have the tail.
    announced: bool,
    validator: Option<String>,
    notes: Notes,
}

impl Fill {
    async fn begin(
        shared: Arc<Shared>,
        line: FillLine,
        digest: Digest,
        source: Source,
        repository: Arc<Repository>,
    ) -> Result<Self, Ended> {
        let leftover = shared.drafts.take(&digest);
        let left = leftover.as_ref().map(|leftover| leftover.id);
        let key = (source.repository, source.image.clone(), digest);
        let begun = shared.read(move |shared| {
            let link = shared.meta.get::<LinkRow>(&key)?;
            Ok((link, take_up(shared, &digest, leftover)))
        });
        // What went wrong in the metadata was logged there.
        let (link, taken) = begun.await.map_err(|_| Ended::UNKEPT)?;
        let expected = link.as_ref().map(|link| link.size);
        let media_type = link.and_then(|link| link.media_type);
        let (draft, checkpoints) = taken.map_err(|error| {
            cannot_keep(&shared, &digest, 0, &error);
            Ended::UNKEPT
        })?;
        let notes = Notes::new(Arc::clone(&shared), digest, source.clone(), media_type, checkpoints);
        if let Some(left) = left.filter(|left| *left != draft.id()) {
            notes.forget(left).await;
        }
        Ok(Self {
            shared,
            line,
            digest,
            source,
            repository,
            expected,
            draft,
            parting: Arc::default(),
            announced: false,
            validator: None,
            notes,
        })
    }

    async fn fly(mut self) -> Result<u64, Ended> {
        // While the disk is known to be full, no upstream is asked for what could not be kept.
        if let (true, Some(size)) = (self.shared.room.is_short(), self.expected)
            && let Err(error) = self.draft.reserve(size).await
        {
            return Err(self.unkept(error).await);
        }
        let repository = Arc::clone(&self.repository);
        let (stopping, unneeded) = (self.shared.tasks.stopping(), self.line.unneeded());
        tokio::pin!(stopping, unneeded);
        let mut attempts = Attempts::new(repository.origins());
        while let Some((origin, pause)) = attempts.next() {
            let before = self.draft.len();
            let pulled = tokio::select! {
                biased;
                // A piece that is being written meanwhile is written to its end all the same.
                () = &mut stopping => Err(Stopped::Stopping),
                () = &mut unneeded => Err(Stopped::Unneeded),
                pulled = self.attempt(origin, pause) => pulled,
            };
            match pulled {
                Ok(()) if self.draft.digest() == self.digest || Bug::DigestNotCompared.is_planted() => {
                    return self.publish().await;
                }
                Ok(()) | Err(Stopped::Mismatch) => {
                    let times = attempts.mismatched();
                    self.mismatched(origin, times);
                    self.start_over().await?;
                }
                Err(Stopped::Upstream(error)) => {
                    self.shared.metrics.upstream_error(self.repository.name.as_str(), error.kind.as_str());
                    tracing::info!(digest = %self.digest, upstream = origin.host_label(),
                        at = self.draft.len(), %error, "a fill was interrupted");
                    attempts.progressed(self.draft.len() - before);
                    if error.retryable() {
                        self.shared.metrics.upstream_retry();
                    }
                    attempts.failed(error);
                }
                Err(Stopped::Disk(error)) => return Err(self.unkept(error).await),
                Err(Stopped::Stopping) => return Err(self.put_down().await),
                Err(Stopped::Unneeded) => return Err(self.leave_off().await),
            }
        }
        Err(self.give_up(attempts.into_verdict()).await)
    }

    /// Its repository was removed, or points elsewhere now, and nobody reads along: whatever else it brought would be
    /// for nobody. What the guard reports of the end is news of the past then.
    async fn is_over_early(&self) -> bool {
        let removed = || self.shared.repositories.by_id(self.source.repository).is_none();
        self.announced && removed() && self.line.end_unless_read().await
    }

    fn tail(&self) -> FlightTail {
        FlightTail { tail: self.draft.tail(), parting: Arc::clone(&self.parting) }
    }

    async fn publish(self) -> Result<u64, Ended> {
        let (size, id) = (self.draft.len(), self.draft.id());
        let _turn = self.shared.turns.take(&self.digest).await;
        let promise = self.notes.promise().await;
        let durability = match promise {
            Promise::None => Durability::Relaxed,
            Promise::Pushed => Durability::Durable,
        };
        if let Err(error) = self.draft.publish(&self.digest, durability).await {
            // Its bytes are right and its readers have them; it only cannot stay.
            cannot_keep(&self.shared, &self.digest, size, &error);
            self.notes.forget(id).await;
            return Err(Ended::UNKEPT);
        }
        if let Err(error) = self.notes.published(size, id, promise).await {
            // Counted all the same, so that its bytes can be evicted; who asks for it finds no row and says so.
            tracing::error!(digest = %self.digest, %error, "a fetched blob cannot be noted");
        }
        Ok(size)
    }

    fn mismatched(&self, origin: &crate::upstream::Upstream, times: u32) {
        self.shared.metrics.digest_mismatch();
        tracing::warn!(digest = %self.digest, upstream = origin.host_label(), times,
            bytes = self.draft.len(), "digest_mismatch: the upstream sent other bytes than were asked for");
    }

    /// A fresh draft. Its tail is known before the old one fails, so that who was sent nothing finds it.
    async fn start_over(&mut self) -> Result<(), Ended> {
        let id = self.shared.next_draft();
        let algorithm = self.digest.algorithm();
        self.notes.start_over(self.draft.id()).await;
        let made = self.shared.read(move |shared| Ok(shared.store.create_draft(id, algorithm))).await;
        let made = made.map_err(|_| Ended::UNKEPT)?;
        let draft = made.map_err(|error| {
            cannot_keep(&self.shared, &self.digest, 0, &error);
            Ended::UNKEPT
        })?;
        let old = std::mem::replace(&mut self.draft, draft);
        self.validator = None;
        if self.announced {
            self.draft.announce(self.expected);
            self.line.restart(self.tail()).await;
        }
        old.fail("the upstream sent other bytes than were asked for".into());
        Ok(())
    }

    /// Readers drain what there is and go on alone, from the hasher's state.
    async fn unkept(self, error: io::Error) -> Ended {
        cannot_keep(&self.shared, &self.digest, self.draft.len(), &error);
        let salvage = Salvage { at: self.draft.len(), hasher: self.draft.hasher() };
        if !Bug::SalvageForgotten.is_planted() {
            self.part(Parting::Salvage(salvage));
        }
        self.notes.forget(self.draft.id()).await;
        self.draft.fail(format!("the draft cannot be written: {error}").into());
        Ended::UNKEPT
    }

    fn part(&self, words: Parting) {
        // Set once only: this is an end.
        let _ = self.parting.set(words);
    }

    async fn put_down(mut self) -> Ended {
        let checkpoint = self.draft.checkpoint();
        if checkpoint.len == 0 || Bug::DraftNotKept.is_planted() {
            self.draft.fail("the server is stopping".into());
            return Ended::DIED;
        }
        self.notes.put_down(&self.draft, self.expected).await;
        if let Err(error) = self.draft.keep("the server is stopping".into()).await {
            tracing::warn!(digest = %self.digest, %error, "a draft cannot be kept");
        }
        Ended::DIED
    }

    async fn leave_off(self) -> Ended {
        tracing::info!(digest = %self.digest, at = self.draft.len(), "a fill is not needed any more");
        self.notes.forget(self.draft.id()).await;
        Ended { draft: Some((self.draft, "nobody needs it any more".into())), ..Ended::DIED }
    }

    async fn give_up(self, verdict: Option<Verdict>) -> Ended {
        let (failure, story) = match verdict {
            Some(Verdict::Error(error)) => (attempts::failure(&error), Some(attempts::story(&error))),
            Some(Verdict::Mismatch) => {
                let message = "the upstream sent other bytes than the digest names".into();
                (Failure::Mismatch, Some(Story { message, timed_out: false }))
            }
            None => (Failure::Transport, None),
        };
        let why = story.as_ref().map_or("the fetch failed".into(), |story| Arc::clone(&story.message));
        self.part(Parting::Failed { source: self.source.clone(), failure, story: story.clone() });
        self.notes.forget(self.draft.id()).await;
        Ended { failure, story, draft: Some((self.draft, why)) }
    }
}

/// A fetched blob cannot be written, or cannot stay: said in log and metrics, and remembered if it is for want of
/// space.
fn cannot_keep(shared: &Shared, digest: &Digest, at: u64, error: &io::Error) {
    if Trouble::of(error) == Trouble::Full {
        shared.room.note_shortage(shared.clock.now());
        tracing::warn!(%digest, at, %error, "cache_bypass: no space for a blob");
    } else {
        shared.metrics.disk_error();
        tracing::error!(%digest, at, %error, "disk_error: a blob cannot be kept");
    }
}

/// The draft that an earlier run left, or a new one.
fn take_up(
    shared: &Shared,
    digest: &Digest,
    leftover: Option<Leftover>,
) -> io::Result<(Draft, Vec<Checkpoint>)> {
    let algorithm = digest.algorithm();
    if let Some(Leftover { id, checkpoints, .. }) = leftover {
        match shared.store.reopen_draft(id, algorithm, &checkpoints) {
            Ok(Some(draft)) => {
                let valid = checkpoints.into_iter().filter(|one| one.len <= draft.len()).collect();
                return Ok((draft, valid));
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%digest, %error, "a draft of an earlier run cannot be read: it is begun anew");
                if let Err(error) = shared.store.remove_draft(id) {
                    tracing::warn!(%digest, %error, "and stays until the next start");
                }
            }
        }
    }
    Ok((shared.store.create_draft(shared.next_draft(), algorithm)?, Vec::new()))
}

//! Owns the fill: one task that fetches one digest into one draft, hashing as it writes, and publishes it.
//! It keeps the pace of the upstream and the disk, never of a reader.
//! Must not know: who reads, how many wait, what the cache decides.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;

use super::attempts::{self, Attempts};
use super::drafts::Leftover;
use super::flight::{FlightTail, Salvage, Source, Story};
use super::guards::{FillGuard, FillLine};
use super::model::EngineError;
use super::repository::Repository;
use super::shared::Shared;
use crate::cache::Failure;
use crate::clock::Millis;
use crate::meta::{
    Batch, CopyRow, DraftRow, DraftSource, Durability as Commit, LinkRow, MetaError, MetaExt as _,
};
use crate::names::Digest;
use crate::store::{Checkpoint, Draft, DraftId, Durability};
use crate::upstream::{BlobResponse, Kind, Resume, Upstream, UpstreamError};

/// Pieces are gathered up to this size while they are there already; then one hop to a writer thread.
const GATHER: usize = 1024 * 1024;
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
const CHECKPOINT_BYTES: u64 = 16 * 1024 * 1024;
/// A draft that was cut loses at most what came after the last of these.
const CHECKPOINTS_KEPT: usize = 16;

/// How a fill ended badly.
struct Ended {
    failure: Failure,
    story: Option<Story>,
}

/// Why one attempt stopped.
enum Stopped {
    Upstream(UpstreamError),
    /// More bytes than the blob has, or others.
    Mismatch,
    NoSpace,
    Disk(io::Error),
    /// The server stops: the draft stays for the next start.
    Stopping,
}

impl From<UpstreamError> for Stopped {
    fn from(error: UpstreamError) -> Self {
        Self::Upstream(error)
    }
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            _ => Self::Disk(error),
        }
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
    let Some(repository) = shared.repositories.by_id(source.repository) else {
        let message = "the repository was removed meanwhile".into();
        let story = Story { message, timed_out: false };
        return guard.failed(Failure::NotFound, Some(story));
    };
    match Fill::begin(shared, line, digest, source, repository).await {
        Ok(fill) => match fill.fly().await {
            Ok(size) => guard.done(size, None),
            Err(ended) => guard.failed(ended.failure, ended.story),
        },
        Err(error) => {
            tracing::error!(%digest, %error, "no draft can be made");
            guard.failed(Failure::NoSpace, None);
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
    salvage: Arc<OnceLock<Salvage>>,
    announced: bool,
    validator: Option<String>,
    checkpoints: Vec<Checkpoint>,
    checked_at: Millis,
}

impl Fill {
    async fn begin(
        shared: Arc<Shared>,
        line: FillLine,
        digest: Digest,
        source: Source,
        repository: Arc<Repository>,
    ) -> Result<Self, EngineError> {
        let leftover = shared.drafts.take(&digest);
        let key = (source.repository, source.image.clone(), digest);
        let (expected, draft, checkpoints) = shared
            .read(move |shared| {
                let link = shared.meta.get::<LinkRow>(&key)?;
                let (draft, checkpoints) = take_up(shared, &digest, leftover)?;
                Ok((link.map(|link| link.size), draft, checkpoints))
            })
            .await?;
        let checked_at = shared.clock.now();
        Ok(Self {
            shared,
            line,
            digest,
            source,
            repository,
            expected,
            draft,
            salvage: Arc::default(),
            announced: false,
            validator: None,
            checkpoints,
            checked_at,
        })
    }

    async fn fly(mut self) -> Result<u64, Ended> {
        let repository = Arc::clone(&self.repository);
        let origins = repository.origins();
        let mut attempts = Attempts::new(origins);
        let mut mismatches = 0;
        while let Some((origin, pause)) = attempts.next() {
            tokio::time::sleep(pause).await;
            let before = self.draft.len();
            match self.pull(origin).await {
                Ok(()) if self.draft.digest() == self.digest => return self.publish().await,
                Ok(()) | Err(Stopped::Mismatch) => {
                    mismatches += 1;
                    self.mismatched(origin, mismatches);
                    // One clean retry of the same origin: a broken cache on the way may have been passed by.
                    if mismatches > 1 {
                        attempts.move_on();
                    }
                    self.start_over().await?;
                }
                Err(Stopped::Upstream(error)) => {
                    self.shared.metrics.upstream_error(self.repository.name.as_str(), error.kind.as_str());
                    tracing::info!(digest = %self.digest, upstream = origin.host_label(),
                        at = self.draft.len(), %error, "a fill was interrupted");
                    if self.draft.len() > before {
                        attempts.progressed();
                    }
                    if error.retryable() {
                        self.shared.metrics.upstream_retry();
                    }
                    attempts.failed(error);
                }
                Err(Stopped::NoSpace) => return Err(self.out_of_space()),
                Err(Stopped::Disk(error)) => {
                    tracing::error!(digest = %self.digest, %error, "a draft cannot be written");
                    return Err(self.out_of_space());
                }
                Err(Stopped::Stopping) => return Err(self.put_down().await),
            }
        }
        Err(self.give_up(attempts.into_error(), mismatches))
    }

    /// One answer of one origin, from where the draft ends to where the body ends.
    async fn pull(&mut self, origin: &Upstream) -> Result<(), Stopped> {
        let response = self.ask(origin).await?;
        self.agree_on_size(&response).await?;
        let mut skip = self.draft.len() - response.offset;
        let mut body = response.body;
        let size = self.expected;
        let stopping = self.shared.tasks.stopping();
        tokio::pin!(stopping);
        loop {
            let first = tokio::select! {
                chunk = body.next() => chunk,
                () = &mut stopping => return Err(Stopped::Stopping),
            };
            let Some(first) = first else { break };
            let mut batch = Vec::new();
            let mut gathered = self.take(first?, &mut skip, &mut batch);
            let mut ended = None;
            while gathered < GATHER && ended.is_none() {
                match body.next().now_or_never() {
                    Some(Some(Ok(chunk))) => gathered += self.take(chunk, &mut skip, &mut batch),
                    Some(Some(Err(error))) => ended = Some(Some(error)),
                    Some(None) => ended = Some(None),
                    None => break,
                }
            }
            if size.is_some_and(|size| self.draft.len() + gathered as u64 > size) {
                return Err(Stopped::Mismatch);
            }
            self.draft.append(batch).await?;
            self.checkpoint_now_and_then().await;
            match ended {
                Some(Some(error)) => return Err(error.into()),
                Some(None) => break,
                None => {}
            }
        }
        match size {
            Some(size) if self.draft.len() < size => Err(Stopped::Upstream(UpstreamError::broken(format!(
                "{} ended the blob after {} of {size} bytes",
                origin.host_label(),
                self.draft.len()
            )))),
            _ => Ok(()),
        }
    }

    fn take(&self, mut chunk: Bytes, skip: &mut u64, batch: &mut Vec<Bytes>) -> usize {
        self.shared.metrics.bytes_from_upstream(self.repository.name.as_str(), chunk.len() as u64);
        let dropped = usize::try_from(*skip).unwrap_or(usize::MAX).min(chunk.len());
        *skip -= dropped as u64;
        let kept = chunk.split_off(dropped);
        let length = kept.len();
        if length > 0 {
            batch.push(kept);
        }
        length
    }

    /// A source that cannot go on where the draft ends is read from its beginning.
    async fn ask(&self, origin: &Upstream) -> Result<BlobResponse, UpstreamError> {
        let at = self.draft.len();
        let resume = (at > 0).then(|| Resume { at, validator: self.validator.clone() });
        let resumed = resume.is_some();
        let image = &self.source.image;
        let mut answer = origin.blob(image, &self.digest, resume).await;
        if matches!(&answer, Err(error) if error.kind == Kind::BadResume) {
            answer = origin.blob(image, &self.digest, None).await;
        }
        let name = self.repository.name.as_str();
        let code = match &answer {
            Ok(_) => 200,
            Err(error) => error.status.unwrap_or(0),
        };
        self.shared.metrics.upstream_request(name, "blob", code);
        if resumed && answer.is_ok() {
            self.shared.metrics.upstream_resumed();
        }
        // Manifests are promised by it: an absence or a refusal is an answer too.
        if !matches!(&answer, Err(error) if matches!(error.kind, Kind::NotFound | Kind::Denied)) {
            self.repository.note_health(answer.is_ok(), self.shared.clock.now());
        }
        answer
    }

    /// Nobody is sent a byte before descriptor and upstream agree on the length.
    async fn agree_on_size(&mut self, response: &BlobResponse) -> Result<(), Stopped> {
        if let (Some(expected), Some(size)) = (self.expected, response.size)
            && expected != size
        {
            return Err(Stopped::Upstream(UpstreamError::bad_response(format!(
                "the upstream says the blob has {size} bytes, its manifest says {expected}"
            ))));
        }
        if self.validator.is_none() {
            self.validator.clone_from(&response.validator);
        }
        if self.announced {
            return Ok(());
        }
        self.expected = self.expected.or(response.size);
        self.draft.announce(self.expected);
        let tail = self.tail();
        self.line.head(self.expected, tail).await.map_err(|_| Stopped::Stopping)?;
        self.announced = true;
        if let Some(size) = self.expected {
            self.draft.reserve(size).await?;
        }
        Ok(())
    }

    fn tail(&self) -> FlightTail {
        FlightTail { tail: self.draft.tail(), salvage: Arc::clone(&self.salvage) }
    }

    async fn publish(self) -> Result<u64, Ended> {
        let size = self.draft.len();
        let id = self.draft.id();
        let _turn = self.shared.turns.take(&self.digest).await;
        if let Err(error) = self.draft.publish(&self.digest, Durability::Relaxed).await {
            // Its bytes are right and its readers have them; it only cannot stay.
            tracing::error!(digest = %self.digest, %error, "a fetched blob cannot be kept");
            return Err(Ended { failure: Failure::NoSpace, story: None });
        }
        let noted = note_copy(&self.shared, &self.source, &self.digest, size, id).await;
        if let Err(error) = noted {
            // The file is there without a row: the next request for it fetches again.
            tracing::error!(digest = %self.digest, %error, "a fetched blob cannot be noted");
            return Err(Ended { failure: Failure::Died, story: None });
        }
        Ok(size)
    }

    fn mismatched(&self, origin: &Upstream, times: u32) {
        self.shared.metrics.digest_mismatch();
        tracing::warn!(digest = %self.digest, upstream = origin.host_label(), times,
            bytes = self.draft.len(), "digest_mismatch: the upstream sent other bytes than were asked for");
    }

    /// A fresh draft. Its tail is known before the old one fails, so that who was sent nothing finds it.
    async fn start_over(&mut self) -> Result<(), Ended> {
        let id = self.shared.next_draft();
        let algorithm = self.digest.algorithm();
        let made = self.shared.read(move |shared| Ok(shared.store.create_draft(id, algorithm)?)).await;
        let Ok(draft) = made else { return Err(Ended { failure: Failure::NoSpace, story: None }) };
        let old = std::mem::replace(&mut self.draft, draft);
        self.forget(old.id().0).await;
        self.checkpoints.clear();
        self.validator = None;
        if self.announced {
            self.draft.announce(self.expected);
            self.line.restart(self.tail()).await;
        }
        old.fail("the upstream sent other bytes than were asked for".into());
        Ok(())
    }

    async fn checkpoint_now_and_then(&mut self) {
        let last = self.checkpoints.last().map_or(0, |checkpoint| checkpoint.len);
        let now = self.shared.clock.now();
        let due = now.since(self.checked_at) >= CHECKPOINT_EVERY;
        if !due && self.draft.len() - last < CHECKPOINT_BYTES {
            return;
        }
        self.checked_at = now;
        let checkpoint = self.draft.checkpoint();
        self.note(checkpoint, Commit::Relaxed).await;
    }

    async fn note(&mut self, checkpoint: Checkpoint, durability: Commit) {
        if self.checkpoints.len() == CHECKPOINTS_KEPT {
            // Keep a ladder: every second one of the older half goes.
            self.checkpoints.remove(1);
        }
        self.checkpoints.push(checkpoint);
        let row = DraftRow {
            digest: self.digest,
            size: self.expected,
            sources: vec![DraftSource {
                repository: self.source.repository,
                image: self.source.image.clone(),
            }],
            checkpoints: self.checkpoints.iter().map(|one| (one.len, one.prefix.to_string())).collect(),
            created_ms: self.shared.clock.wall().0,
        };
        let mut batch = Batch::new(durability);
        batch.put(&self.draft.id().0, &row);
        if let Err(error) = self.shared.meta.apply(batch).await {
            tracing::warn!(digest = %self.digest, %error, "a draft's progress cannot be noted");
        }
    }

    async fn forget(&self, draft: u64) {
        let mut batch = Batch::new(Commit::Relaxed);
        batch.delete::<DraftRow>(&draft);
        if let Err(error) = self.shared.meta.apply(batch).await {
            tracing::warn!(draft, %error, "a draft's row cannot be removed");
        }
    }

    /// Readers drain what there is and go on alone, from the hasher's state.
    fn out_of_space(self) -> Ended {
        self.shared.metrics.cache_bypass();
        tracing::warn!(digest = %self.digest, at = self.draft.len(), "cache_bypass: no space for a blob");
        let salvage = Salvage { at: self.draft.len(), hasher: self.draft.hasher() };
        // Set once only: a fill runs out of space once.
        let _ = self.salvage.set(salvage);
        self.draft.fail("there is no space left on the disk".into());
        Ended { failure: Failure::NoSpace, story: None }
    }

    async fn put_down(mut self) -> Ended {
        let checkpoint = self.draft.checkpoint();
        if checkpoint.len > 0 {
            self.note(checkpoint, Commit::Durable).await;
            if let Err(error) = self.draft.keep("the server is stopping".into()).await {
                tracing::warn!(digest = %self.digest, %error, "a draft cannot be kept");
            }
        } else {
            self.draft.fail("the server is stopping".into());
        }
        Ended { failure: Failure::Died, story: None }
    }

    fn give_up(self, error: Option<UpstreamError>, mismatches: u32) -> Ended {
        let ended = match &error {
            Some(error) => Ended { failure: attempts::failure(error), story: Some(attempts::story(error)) },
            None if mismatches > 0 => {
                let message = "the upstream sent other bytes than the digest names".into();
                let story = Story { message, timed_out: false };
                Ended { failure: Failure::Mismatch, story: Some(story) }
            }
            None => Ended { failure: Failure::Transport, story: None },
        };
        let why = ended.story.as_ref().map_or("the fetch failed".into(), |story| Arc::clone(&story.message));
        self.draft.fail(why);
        ended
    }
}

/// Notes a fetched copy. One that was pushed meanwhile lies in its place already, synced, and its row stays.
async fn note_copy(
    shared: &Arc<Shared>,
    source: &Source,
    digest: &Digest,
    size: u64,
    draft: DraftId,
) -> Result<(), EngineError> {
    let digest = *digest;
    // Mostly there is none.
    let mut there: Option<CopyRow> = None;
    loop {
        let mut batch = Batch::new(Commit::Relaxed);
        let link = (source.repository, source.image.clone(), digest);
        batch.put(&link, &LinkRow { media_type: None, size, origin_proven: true });
        batch.delete::<DraftRow>(&draft.0);
        match &there {
            Some(row) => batch.require_equal(&digest, row),
            None => batch.require_absent::<CopyRow>(&digest),
        };
        if !there.is_some_and(|row| row.durable) {
            let copy = CopyRow {
                size,
                durable: false,
                epoch: shared.epoch,
                last_used_ms: shared.clock.wall().0,
                upstream: source.repository.0,
            };
            batch.put(&digest, &copy);
        }
        match shared.meta.apply(batch).await {
            // Few change the row of a digest that is being fetched, and nobody does for ever.
            Err(MetaError::Conflict(_)) => {
                there = shared.read(move |shared| Ok(shared.meta.get::<CopyRow>(&digest)?)).await?;
            }
            other => return Ok(other?),
        }
    }
}

/// The draft that an earlier run left, or a new one.
fn take_up(
    shared: &Shared,
    digest: &Digest,
    leftover: Option<Leftover>,
) -> io::Result<(Draft, Vec<Checkpoint>)> {
    let algorithm = digest.algorithm();
    if let Some(Leftover { id, checkpoints }) = leftover
        && let Some(draft) = shared.store.reopen_draft(id, algorithm, &checkpoints)?
    {
        let valid = checkpoints.into_iter().filter(|one| one.len <= draft.len()).collect();
        return Ok((draft, valid));
    }
    Ok((shared.store.create_draft(shared.next_draft(), algorithm)?, Vec::new()))
}

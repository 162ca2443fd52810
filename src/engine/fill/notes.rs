//! Owns what a fill writes down: how far its draft is, and in the end that the blob lies here.
//! Must not know: the upstream, readers.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Millis;
use crate::engine::flight::Source;
use crate::engine::model::EngineError;
use crate::engine::shared::Shared;
use crate::meta::{
    Batch, ContentRow, CopyRow, DraftRow, DraftSource, Durability, LinkRow, MetaError, MetaExt as _,
    RepositoryRow,
};
use crate::names::Digest;
use crate::store::{Checkpoint, Draft, DraftId};

const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
const CHECKPOINT_BYTES: u64 = 16 * 1024 * 1024;
/// A draft that was cut loses at most what came after the last of these.
const CHECKPOINTS_KEPT: usize = 16;
/// Few change the row of a digest that is being fetched.
const TRIES: usize = 8;

/// What holds for the bytes of a digest, whoever brings them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promise {
    /// They can be fetched again.
    None,
    /// They were pushed, and acknowledged: a power cut must not take them.
    Pushed,
}

pub(super) struct Notes {
    shared: Arc<Shared>,
    digest: Digest,
    source: Source,
    /// Of the link that there was.
    media_type: Option<String>,
    checkpoints: Vec<Checkpoint>,
    checked_at: Millis,
}

impl Notes {
    pub fn new(
        shared: Arc<Shared>,
        digest: Digest,
        source: Source,
        media_type: Option<String>,
        checkpoints: Vec<Checkpoint>,
    ) -> Self {
        let checked_at = shared.clock.now();
        Self { shared, digest, source, media_type, checkpoints, checked_at }
    }

    /// Called after every append.
    pub async fn now_and_then(&mut self, draft: &Draft, size: Option<u64>) {
        let last = self.checkpoints.last().map_or(0, |checkpoint| checkpoint.len);
        let now = self.shared.clock.now();
        let due = now.since(self.checked_at) >= CHECKPOINT_EVERY;
        if !due && draft.len() - last < CHECKPOINT_BYTES {
            return;
        }
        self.checked_at = now;
        self.note(draft, size, Durability::Relaxed).await;
    }

    /// The last note of this run: it must be there at the next start.
    pub async fn put_down(&mut self, draft: &Draft, size: Option<u64>) {
        self.note(draft, size, Durability::Durable).await;
    }

    /// A fresh draft takes the place of this one.
    pub async fn start_over(&mut self, old: DraftId) {
        self.forget(old).await;
        self.checkpoints.clear();
    }

    /// The draft is gone, or will be in a moment.
    pub async fn forget(&self, draft: DraftId) {
        let mut batch = Batch::new(Durability::Relaxed);
        batch.delete::<DraftRow>(&draft.0);
        if let Err(error) = self.shared.meta.apply(batch).await {
            tracing::warn!(draft = draft.0, %error, "a draft's row stays until the next start");
        }
    }

    async fn note(&mut self, draft: &Draft, size: Option<u64>, durability: Durability) {
        if self.checkpoints.len() == CHECKPOINTS_KEPT {
            // The oldest but one: the first is the last resort.
            self.checkpoints.remove(1);
        }
        self.checkpoints.push(draft.checkpoint());
        let row = DraftRow {
            digest: self.digest,
            size,
            sources: vec![DraftSource {
                repository: self.source.repository,
                image: self.source.image.clone(),
            }],
            checkpoints: self.checkpoints.iter().map(|one| (one.len, one.prefix.to_string())).collect(),
            created_ms: self.shared.clock.wall().0,
        };
        let mut batch = Batch::new(durability);
        batch.put(&draft.id().0, &row);
        if let Err(error) = self.shared.meta.apply(batch).await {
            tracing::warn!(digest = %self.digest, %error, "a draft's progress cannot be noted");
        }
    }

    /// Where it cannot be told none is kept: the copy's row says so, and an unclean stop makes it suspect.
    pub async fn promise(&self) -> Promise {
        let digest = self.digest;
        let pushed = self.shared.read(move |shared| {
            let content = shared.meta.get::<ContentRow>(&digest)?;
            Ok(content.is_some_and(|row| row.pushed))
        });
        if pushed.await.unwrap_or(false) { Promise::Pushed } else { Promise::None }
    }

    /// The blob lies under its digest, and this image has it. What a push has noted about the same bytes meanwhile
    /// stays: it promises more than a fill does.
    pub async fn published(&self, size: u64, draft: DraftId, promise: Promise) -> Result<(), EngineError> {
        let digest = self.digest;
        // Mostly there is none.
        let mut there = None;
        for _ in 1..TRIES {
            match self.shared.meta.apply(self.batch(size, draft, promise, there.as_ref())).await {
                Err(MetaError::Conflict(_)) => {
                    let look = self.shared.read(move |shared| Ok(shared.meta.get::<CopyRow>(&digest)?));
                    there = look.await?;
                }
                applied => return Ok(applied?),
            }
        }
        Ok(self.shared.meta.apply(self.batch(size, draft, promise, there.as_ref())).await?)
    }

    /// All of it on the condition that the copy's row is still what it was.
    fn batch(&self, size: u64, draft: DraftId, promise: Promise, there: Option<&CopyRow>) -> Batch {
        let (digest, source) = (&self.digest, &self.source);
        let pushed = promise == Promise::Pushed;
        let mut batch = Batch::new(if pushed { Durability::Durable } else { Durability::Relaxed });
        match there {
            Some(row) => batch.require_equal(digest, row),
            None => batch.require_absent::<CopyRow>(digest),
        };
        // Written anew also where it stays what it promises: who saw it without its file takes it away else.
        let promised = there.filter(|row| row.durable);
        let copy = CopyRow {
            size,
            durable: pushed || promised.is_some(),
            epoch: self.shared.epoch,
            last_used_ms: self.shared.clock.wall().0,
            upstream: promised.map_or(source.repository.0, |row| row.upstream),
        };
        batch.put(digest, &copy);
        // A repository that was removed meanwhile gets no link: nobody would ever remove it.
        if self.shared.repositories.by_id(source.repository).is_some() {
            batch.require_present::<RepositoryRow>(&source.repository);
            let stamp = Some(self.shared.stamp());
            let link = LinkRow { media_type: self.media_type.clone(), size, stamp };
            batch.put(&(source.repository, source.image.clone(), *digest), &link);
        }
        batch.delete::<DraftRow>(&draft.0);
        batch
    }
}

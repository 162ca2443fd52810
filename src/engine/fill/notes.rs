//! Owns what a fill writes down: how far its draft is, and in the end that the blob lies here.
//! Must not know: the upstream, readers.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Millis;
use crate::engine::flight::Source;
use crate::engine::shared::Shared;
use crate::meta::{
    Batch, CopyRow, DraftRow, DraftSource, Durability, LinkRow, MetaError, MetaExt as _, RepositoryRow,
};
use crate::names::Digest;
use crate::store::{Checkpoint, Draft, DraftId};

const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
const CHECKPOINT_BYTES: u64 = 16 * 1024 * 1024;
/// A draft that was cut loses at most what came after the last of these.
const CHECKPOINTS_KEPT: usize = 16;
/// A row changes under us when a push comes at the same moment; that does not happen often in a row.
const TRIES: usize = 8;

pub(super) struct Notes {
    shared: Arc<Shared>,
    digest: Digest,
    source: Source,
    checkpoints: Vec<Checkpoint>,
    checked_at: Millis,
}

impl Notes {
    pub fn new(shared: Arc<Shared>, digest: Digest, source: Source, checkpoints: Vec<Checkpoint>) -> Self {
        let checked_at = shared.clock.now();
        Self { shared, digest, source, checkpoints, checked_at }
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

    /// The blob lies under its digest, and this image has it. What a push has noted about the same bytes stays: it
    /// promises more than a fill does.
    pub async fn published(&self, size: u64, draft: DraftId) -> Result<(), MetaError> {
        for _ in 1..TRIES {
            match self.try_published(size, draft).await {
                Err(MetaError::Conflict(_)) => {}
                noted => return noted,
            }
        }
        self.try_published(size, draft).await
    }

    async fn try_published(&self, size: u64, draft: DraftId) -> Result<(), MetaError> {
        let (digest, source, shared) = (self.digest, self.source.clone(), Arc::clone(&self.shared));
        let planned = shared.read(move |shared| Ok(plan(shared, &digest, &source, size))).await;
        // Only a panic, which was logged, leaves it without a plan.
        let mut batch = planned.unwrap_or(Err(MetaError::Closed))?;
        batch.delete::<DraftRow>(&draft.0);
        self.shared.meta.apply(batch).await
    }
}

/// All of it on the condition that nobody changes the same rows meanwhile.
fn plan(shared: &Shared, digest: &Digest, source: &Source, size: u64) -> Result<Batch, MetaError> {
    let mut batch = Batch::new(Durability::Relaxed);
    let fresh = CopyRow {
        size,
        durable: false,
        epoch: shared.epoch,
        last_used_ms: shared.clock.wall().0,
        upstream: source.repository.0,
    };
    match shared.meta.get::<CopyRow>(digest)? {
        Some(there) if there.durable => batch.require_equal(digest, &there),
        Some(there) => batch.require_equal(digest, &there).put(digest, &fresh),
        None => batch.require_absent::<CopyRow>(digest).put(digest, &fresh),
    };
    // A repository that was removed meanwhile gets no link: nobody would ever remove it.
    if shared.repositories.by_id(source.repository).is_some() {
        let key = (source.repository, source.image.clone(), *digest);
        let media_type = shared.meta.get::<LinkRow>(&key)?.and_then(|link| link.media_type);
        batch.require_present::<RepositoryRow>(&source.repository);
        batch.put(&key, &LinkRow { media_type, size, origin_proven: true });
    }
    Ok(batch)
}

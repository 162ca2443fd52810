//! Owns removing evicted copies, and the regular notes of space and last uses.
//! Must not know: why the cache chose a victim.

use std::sync::Arc;
use std::time::Duration;

use super::actor::Coordination;
use super::blobs::{self, Copy};
use super::model::EngineError;
use super::shared::Shared;
use super::uploads;
use crate::cache::Event;
use crate::clock::UnixMillis;
use crate::meta::{
    Batch, ContentRow, CopyRow, DocumentRow, Durability, HolderRow, MetaError, MetaExt as _, Row as _,
};
use crate::names::Digest;

/// Rows removed in one commit, so that other writers get their turn.
pub(super) const ROWS: usize = 1_000;
const SPACE_EVERY: Duration = Duration::from_secs(10);
const NOTES_EVERY: Duration = Duration::from_secs(60);
/// For a note a document is written anew, all of it.
const DOCUMENT_NOTES_EVERY: Duration = Duration::from_secs(600);
/// The order of eviction is no truth to fight for.
const NOTE_TRIES: usize = 3;
/// How long a round of making room waits for what must go.
const SETTLE: Duration = Duration::from_secs(2);

/// Why a copy is to be removed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Why {
    /// To make room.
    Chosen,
    /// Somebody did not find it. That may be old news: where many did not find it at once, the first of them has had it
    /// fetched again by the time the last one speaks.
    Lost,
}

/// What became of a copy that was to be removed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Eviction {
    Done,
    /// Its row says that somebody pushed it: it stays.
    Pushed,
    /// It is still there: it could not be removed, or is not lost after all.
    Stays,
}

/// Removes a cached copy. Readers that have it open finish undisturbed.
pub(super) async fn evict(shared: &Arc<Shared>, digest: &Digest, why: Why) -> Eviction {
    let digest = *digest;
    let was_pushed = match let_go(shared, &digest).await {
        Ok(LetGo::Held) => return Eviction::Pushed,
        Ok(LetGo::Cached) => false,
        Ok(LetGo::Pushed) => true,
        Err(error) => {
            tracing::warn!(%digest, %error, "pushed content cannot be let go");
            return Eviction::Stays;
        }
    };
    // Who sets a damaged file aside drops its row first: until their turn is over, the file without a row is theirs.
    let _turn = shared.turns.take(&digest).await;
    let removed = shared
        .read(move |shared| {
            if matches!(why, Why::Lost)
                && matches!(blobs::look(shared, &digest)?, Copy::Here(_) | Copy::Suspect)
            {
                return Ok(Err(Eviction::Stays));
            }
            let size = shared.meta.get::<CopyRow>(&digest)?.map_or(0, |copy| copy.size);
            shared.store.unlink(&digest)?;
            Ok(Ok(size))
        })
        .await;
    match removed {
        Ok(Ok(_)) if was_pushed => Eviction::Done,
        Ok(Ok(size)) => {
            let mut batch = Batch::new(Durability::Relaxed);
            batch.delete::<CopyRow>(&digest);
            if let Err(error) = shared.meta.apply(batch).await {
                // A row without its file is a plain miss.
                tracing::warn!(%digest, %error, "an evicted blob's row stays behind");
            }
            shared.metrics.evicted(size);
            tracing::debug!(%digest, size, "evicted");
            Eviction::Done
        }
        Ok(Err(kept)) => kept,
        Err(error) => {
            tracing::error!(%digest, %error, "a blob cannot be evicted");
            Eviction::Stays
        }
    }
}

/// Whether the sweep may take a copy.
enum LetGo {
    /// Somebody pushed it, and images hold it.
    Held,
    /// Its rows said that it was pushed, and are gone.
    Pushed,
    Cached,
}

/// What was pushed goes only once no image holds it: its rows first, so that no row ever promises what is gone. Nobody
/// who brings it again does so meanwhile: their claim waits for the sweep.
async fn let_go(shared: &Arc<Shared>, digest: &Digest) -> Result<LetGo, EngineError> {
    let digest = *digest;
    let pushed = shared.read(move |shared| Ok(shared.meta.get::<ContentRow>(&digest)?)).await?;
    let Some(content) = pushed.filter(|content| content.pushed) else { return Ok(LetGo::Cached) };
    let mut batch = Batch::new(Durability::Durable);
    batch.require_none::<HolderRow>(&digest).require_equal(&digest, &content);
    batch.delete::<ContentRow>(&digest).delete::<CopyRow>(&digest);
    match shared.meta.apply(batch).await {
        Ok(()) => {
            shared.metrics.collected(content.size);
            Ok(LetGo::Pushed)
        }
        Err(MetaError::Conflict(_)) => Ok(LetGo::Held),
        Err(error) => Err(error.into()),
    }
}

/// Tells the coordinator how much may lie here.
pub(super) async fn space(shared: &Arc<Shared>, coordination: &Coordination) {
    let counts = coordination.counts().await;
    let cached = counts.bytes();
    match shared.read(|shared| Ok(shared.store.space()?)).await {
        Ok(space) => {
            let limit = shared.settings.limit(cached, space.free, space.total);
            // What uploads have announced will not stay free.
            let limit = limit.min(shared.announced.leave(cached.saturating_add(space.free)));
            coordination.tell(Event::Space { limit }).await;
        }
        Err(error) => tracing::error!(%error, "the free space cannot be read"),
    }
}

/// Tells the coordinator the remotes' own limits.
async fn shares(shared: &Shared, coordination: &Coordination) {
    for repository in shared.repositories.list() {
        if let Some(remote) = repository.remote() {
            let (upstream, limit) = (repository.id.0, remote.spec.max_size);
            coordination.tell(Event::Share { upstream, limit }).await;
        }
    }
}

/// Runs until the stop: space, last uses, old drafts. Nothing here may take long: who wants room waits for it.
pub(super) async fn housekeeping(shared: Arc<Shared>, coordination: Coordination) {
    let mut notes_due = shared.clock.now().after(NOTES_EVERY);
    let mut document_notes_due = shared.clock.now().after(DOCUMENT_NOTES_EVERY);
    loop {
        shares(&shared, &coordination).await;
        let out_of_turn = tokio::select! {
            () = tokio::time::sleep(SPACE_EVERY) => false,
            () = shared.room.wanted() => true,
            () = shared.tasks.stopping() => return,
        };
        if out_of_turn {
            make_room(&shared, &coordination).await;
            shared.room.made();
        } else {
            space(&shared, &coordination).await;
        }
        if shared.clock.now() >= notes_due {
            notes_due = shared.clock.now().after(NOTES_EVERY);
            if shared.clock.now() >= document_notes_due {
                document_notes_due = shared.clock.now().after(DOCUMENT_NOTES_EVERY);
                note_document_uses(&shared).await;
            }
            note_blob_uses(&shared).await;
            onto_the_disk(&shared, Durability::Durable).await;
            super::boot::drop_old_drafts(&shared).await;
            uploads::expire(&shared).await;
        }
    }
}

/// Has what must go be gone, out of turn.
pub(super) async fn make_room(shared: &Arc<Shared>, coordination: &Coordination) {
    space(shared, coordination).await;
    settle(shared, coordination).await;
}

/// Waits until what must go has gone; not for ever, since more may be chosen meanwhile.
async fn settle(shared: &Shared, coordination: &Coordination) {
    let until = shared.clock.now().after(SETTLE);
    while coordination.counts().await.evicting_bytes > 0
        && shared.clock.now() < until
        && !shared.tasks.is_stopping()
    {
        tokio::time::sleep(SETTLE / 100).await;
    }
}

/// Writes down when what was last used, so that the order of eviction survives a restart.
pub(super) async fn note_uses(shared: &Arc<Shared>, durability: Durability) {
    note_blob_uses(shared).await;
    note_document_uses(shared).await;
    onto_the_disk(shared, durability).await;
}

async fn note_blob_uses(shared: &Arc<Shared>) {
    for blobs in shared.touched.take_blobs().chunks(ROWS) {
        note_some(shared, (blobs.to_vec(), Vec::new())).await;
    }
}

pub(super) async fn note_document_uses(shared: &Arc<Shared>) {
    for documents in shared.touched.take_documents().chunks(DocumentRow::PAGE) {
        note_some(shared, (Vec::new(), documents.to_vec())).await;
    }
}

/// Nothing in it: it carries the others to the disk.
async fn onto_the_disk(shared: &Shared, durability: Durability) {
    if let Err(error) = shared.meta.apply(Batch::new(durability)).await {
        tracing::warn!(%error, "last uses are not on the disk yet");
    }
}

type Used = (Vec<(Digest, UnixMillis)>, Vec<(Digest, UnixMillis)>);

/// One that was pushed or evicted since spoils them all: look again, never over what is newer.
async fn note_some(shared: &Arc<Shared>, used: Used) {
    let used = Arc::new(used);
    for _ in 0..NOTE_TRIES {
        let used = Arc::clone(&used);
        let applied = match shared.read(move |shared| uses(shared, &used)).await {
            Ok(batch) => shared.meta.apply(batch).await,
            Err(error) => return tracing::warn!(%error, "last uses are not noted"),
        };
        match applied {
            Ok(()) => return,
            Err(MetaError::Conflict(_)) => {}
            Err(error) => return tracing::debug!(%error, "last uses are not noted"),
        }
    }
}

fn uses(shared: &Shared, (blobs, documents): &Used) -> Result<Batch, EngineError> {
    let mut batch = Batch::new(Durability::Relaxed);
    for (digest, at) in blobs {
        if let Some(row) = shared.meta.get::<CopyRow>(digest)? {
            batch.require_equal(digest, &row);
            batch.put(digest, &CopyRow { last_used_ms: at.0, ..row });
        }
    }
    for (digest, at) in documents {
        if let Some(row) = shared.meta.get::<DocumentRow>(digest)? {
            batch.require_equal(digest, &row);
            batch.put(digest, &DocumentRow { last_used_ms: at.0, ..row });
        }
    }
    Ok(batch)
}

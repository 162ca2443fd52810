//! Owns removing: evicted copies, what retired repositories left; and the regular notes of space and last uses.
//! Must not know: why the cache chose a victim.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::actor::Coordination;
use super::documents;
use super::model::EngineError;
use super::shared::Shared;
use super::uploads;
use crate::cache::Event;
use crate::clock::UnixMillis;
use crate::meta::{
    Batch, ContentRow, CopyRow, DocumentRow, Durability, HolderRow, LinkRow, MetaError, MetaExt as _,
    ReferrerRow, RepositoryRow, TagRow,
};
use crate::names::{Digest, RepositoryId};

/// Rows removed in one commit, so that other writers get their turn.
pub(super) const ROWS: usize = 1_000;
const SPACE_EVERY: Duration = Duration::from_secs(10);
const NOTES_EVERY: Duration = Duration::from_secs(60);
/// The order of eviction is no truth to fight for.
const NOTE_TRIES: usize = 3;

/// What became of a copy that was to be removed.
pub(super) enum Eviction {
    Done,
    /// Its row says that somebody pushed it: it stays.
    Pushed,
    Failed,
}

/// Removes a cached copy. Readers that have it open finish undisturbed.
pub(super) async fn evict(shared: &Arc<Shared>, digest: &Digest) -> Eviction {
    let digest = *digest;
    let removed = shared
        .read(move |shared| {
            if shared.meta.get::<ContentRow>(&digest)?.is_some_and(|content| content.pushed) {
                return Ok(None);
            }
            let size = shared.meta.get::<CopyRow>(&digest)?.map_or(0, |copy| copy.size);
            shared.store.unlink(&digest)?;
            Ok(Some(size))
        })
        .await;
    match removed {
        Ok(Some(size)) => {
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
        Ok(None) => Eviction::Pushed,
        Err(error) => {
            tracing::error!(%digest, %error, "a blob cannot be evicted");
            Eviction::Failed
        }
    }
}

/// Tells the coordinator how much may lie here.
pub(super) async fn space(shared: &Arc<Shared>, coordination: &Coordination) {
    let counts = coordination.counts().await;
    let cached = counts.present_bytes + counts.reserved_bytes + counts.evicting_bytes;
    match shared.read(|shared| Ok(shared.store.space()?)).await {
        Ok(space) => {
            // What uploads have announced will not stay free.
            let free = space.free.saturating_sub(shared.promised.load(Ordering::Relaxed));
            let limit = shared.settings.limit(cached, free, space.total);
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

/// Runs until the stop: space, last uses, documents.
pub(super) async fn housekeeping(shared: Arc<Shared>, coordination: Coordination) {
    let mut since_notes = Duration::ZERO;
    loop {
        shares(&shared, &coordination).await;
        for id in shared.repositories.take_retired() {
            clear_retired(Arc::clone(&shared), id).await;
        }
        tokio::select! {
            () = tokio::time::sleep(SPACE_EVERY) => {}
            () = shared.tasks.stopping() => return,
        }
        space(&shared, &coordination).await;
        since_notes += SPACE_EVERY;
        if since_notes >= NOTES_EVERY {
            since_notes = Duration::ZERO;
            note_uses(&shared, Durability::Durable).await;
            uploads::expire(&shared).await;
            if let Err(error) = documents::cap(&shared).await {
                tracing::warn!(%error, "the documents cannot be capped");
            }
        }
    }
}

/// Writes down when what was last used, so that the order of eviction survives a restart.
pub(super) async fn note_uses(shared: &Arc<Shared>, durability: Durability) {
    let used = Arc::new((shared.touched.take_blobs(), shared.touched.take_documents()));
    for _ in 0..NOTE_TRIES {
        let used = Arc::clone(&used);
        let applied = match shared.read(move |shared| uses(shared, &used, durability)).await {
            Ok(batch) => shared.meta.apply(batch).await,
            Err(error) => return tracing::debug!(%error, "last uses are not noted"),
        };
        match applied {
            Ok(()) => return,
            // One of them was pushed or evicted since: look again, never over what is newer.
            Err(MetaError::Conflict(_)) => {}
            Err(error) => return tracing::debug!(%error, "last uses are not noted"),
        }
    }
}

type Used = (Vec<(Digest, UnixMillis)>, Vec<(Digest, UnixMillis)>);

fn uses(shared: &Shared, (blobs, documents): &Used, durability: Durability) -> Result<Batch, EngineError> {
    let mut batch = Batch::new(durability);
    for (digest, at) in blobs {
        if let Some(row) = shared.meta.get::<CopyRow>(digest)? {
            batch.require_equal(digest, &row);
            batch.put(digest, &CopyRow { last_used_ms: at.0, ..row });
        }
    }
    for (digest, at) in documents {
        if let Some(row) = shared.meta.get::<DocumentRow>(digest)? {
            batch.require_present::<DocumentRow>(digest);
            batch.put(digest, &DocumentRow { last_used_ms: at.0, ..row });
        }
    }
    Ok(batch)
}

/// All rows of a table, a page at a time.
pub(super) fn each<R>(shared: &Shared, mut visit: impl FnMut(R::Key, R)) -> Result<(), EngineError>
where
    R: crate::meta::Row,
    R::Key: Clone,
{
    let mut after: Option<R::Key> = None;
    loop {
        let page = shared.meta.scan::<R>(&(), after.as_ref(), ROWS)?;
        let last = page.len() < ROWS;
        for (key, row) in page {
            after = Some(key.clone());
            visit(key, row);
        }
        if last {
            return Ok(());
        }
    }
}

/// Removes what a retired repository left, a page of rows at a time, then its own row.
async fn clear_retired(shared: Arc<Shared>, id: RepositoryId) {
    uploads::give_up_all(&shared, id).await;
    loop {
        let applied = match shared.read(move |shared| clear_page(shared, id)).await {
            Ok((batch, done)) => shared.meta.apply(batch).await.map(|()| done).map_err(EngineError::from),
            Err(error) => Err(error),
        };
        match applied {
            Ok(true) => return,
            Ok(false) if shared.tasks.is_stopping() => return,
            Ok(false) => tokio::task::yield_now().await,
            Err(error) => {
                tracing::warn!(%id, %error, "a removed repository's rows stay until the next start");
                return;
            }
        }
    }
}

/// Whether that was the last.
fn clear_page(shared: &Shared, id: RepositoryId) -> Result<(Batch, bool), EngineError> {
    let mut batch = Batch::new(Durability::Relaxed);
    let links = shared.meta.scan::<LinkRow>(&id, None, ROWS)?;
    let tags = shared.meta.scan::<TagRow>(&id, None, ROWS)?;
    let referrers = shared.meta.scan::<ReferrerRow>(&id, None, ROWS)?;
    for (key, _) in &links {
        batch.delete::<LinkRow>(key);
        batch.delete::<HolderRow>(&(key.2, key.0, key.1.clone()));
    }
    for (key, _) in &tags {
        batch.delete::<TagRow>(key);
    }
    for (key, _) in &referrers {
        batch.delete::<ReferrerRow>(key);
    }
    let done = links.is_empty() && tags.is_empty() && referrers.is_empty();
    if done {
        batch.delete::<RepositoryRow>(&id);
    }
    Ok((batch, done))
}

//! Owns removing: evicted copies, documents above their cap, what retired repositories left; and the regular
//! notes of space and last uses.
//! Must not know: why the cache chose a victim.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::actor::Coordination;
use super::model::EngineError;
use super::shared::Shared;
use crate::cache::Event;
use crate::meta::{
    Batch, ContentRow, CopyRow, DocumentRow, Durability, LinkRow, MetaExt as _, RepositoryRow, TagRow,
};
use crate::names::{Digest, RepositoryId};

/// Rows removed in one commit, so that other writers get their turn.
const ROWS: usize = 1_000;
const SPACE_EVERY: Duration = Duration::from_secs(10);
const NOTES_EVERY: Duration = Duration::from_secs(60);
/// Documents go down to this share of their cap at once.
const LOW_PERCENT: u64 = 90;

/// Bytes that are counted here rather than in the coordinator.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    documents: AtomicU64,
}

impl Sizes {
    pub fn document_added(&self, bytes: u64) {
        self.documents.fetch_add(bytes, Ordering::Relaxed);
    }

    fn set(&self, bytes: u64) {
        self.documents.store(bytes, Ordering::Relaxed);
    }

    fn documents(&self) -> u64 {
        self.documents.load(Ordering::Relaxed)
    }
}

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
            let limit = shared.settings.limit(cached, space.free, space.total);
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
            if let Err(error) = cap_documents(&shared).await {
                tracing::warn!(%error, "the documents cannot be capped");
            }
        }
    }
}

/// Writes down when what was last used, so that the order of eviction survives a restart.
pub(super) async fn note_uses(shared: &Arc<Shared>, durability: Durability) {
    let (blobs, documents) = (shared.touched.take_blobs(), shared.touched.take_documents());
    let noted = shared
        .read(move |shared| {
            let mut batch = Batch::new(durability);
            for (digest, at) in blobs {
                if let Some(row) = shared.meta.get::<CopyRow>(&digest)? {
                    batch.require_present::<CopyRow>(&digest);
                    batch.put(&digest, &CopyRow { last_used_ms: at.0, ..row });
                }
            }
            for (digest, at) in documents {
                if let Some(row) = shared.meta.get::<DocumentRow>(&digest)? {
                    batch.put(&digest, &DocumentRow { last_used_ms: at.0, ..row });
                }
            }
            Ok(batch)
        })
        .await;
    let applied = match noted {
        Ok(batch) => shared.meta.apply(batch).await.map_err(EngineError::from),
        Err(error) => Err(error),
    };
    if let Err(error) = applied {
        tracing::debug!(%error, "last uses are noted a minute later");
    }
}

/// Removes the least recently used documents above the cap, with the links and tags that rest on them.
pub(super) async fn cap_documents(shared: &Arc<Shared>) -> Result<(), EngineError> {
    let cap = shared.settings.document_cap;
    if shared.sizes.documents() <= cap {
        return Ok(());
    }
    let victims = shared.read(move |shared| oldest_documents(shared, cap / 100 * LOW_PERCENT)).await?;
    if victims.is_empty() {
        return Ok(());
    }
    tracing::info!(documents = victims.len(), "removing the least recently used manifests");
    forget_documents(shared, victims).await
}

/// Which documents must go so that `keep` bytes remain. Corrects the running count on the way.
fn oldest_documents(shared: &Shared, keep: u64) -> Result<Vec<Digest>, EngineError> {
    let mut all = Vec::new();
    let mut total = 0;
    let mut after = None;
    loop {
        let page = shared.meta.scan::<DocumentRow>(&(), after.as_ref(), ROWS)?;
        let last = page.len() < ROWS;
        for (digest, row) in page {
            let size = row.bytes.len() as u64;
            total += size;
            all.push((row.last_used_ms, size, digest));
            after = Some(digest);
        }
        if last {
            break;
        }
    }
    shared.sizes.set(total);
    all.sort_unstable();
    let mut victims = Vec::new();
    for (_, size, digest) in all {
        if total <= keep {
            break;
        }
        total -= size;
        victims.push(digest);
    }
    shared.sizes.set(total);
    Ok(victims)
}

/// Documents, and in every repository the links and tags that name them.
pub(super) async fn forget_documents(shared: &Arc<Shared>, victims: Vec<Digest>) -> Result<(), EngineError> {
    let victims: std::collections::BTreeSet<Digest> = victims.into_iter().collect();
    let batches = shared
        .read(move |shared| {
            let mut batches = vec![Batch::new(Durability::Relaxed)];
            let mut rows = 0;
            let mut room = |batches: &mut Vec<Batch>| {
                rows += 1;
                if rows % ROWS == 0 {
                    batches.push(Batch::new(Durability::Relaxed));
                }
            };
            each::<TagRow>(shared, |key, row| {
                if victims.contains(&row.digest) {
                    room(&mut batches);
                    if let Some(batch) = batches.last_mut() {
                        batch.delete::<TagRow>(&key);
                    }
                }
            })?;
            each::<LinkRow>(shared, |key, _| {
                if victims.contains(&key.2) {
                    room(&mut batches);
                    if let Some(batch) = batches.last_mut() {
                        batch.delete::<LinkRow>(&key);
                    }
                }
            })?;
            for digest in &victims {
                room(&mut batches);
                if let Some(batch) = batches.last_mut() {
                    batch.delete::<DocumentRow>(digest);
                }
            }
            Ok(batches)
        })
        .await?;
    for batch in batches {
        shared.meta.apply(batch).await?;
    }
    shared.answers.clear();
    shared.resolutions.clear();
    Ok(())
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
    loop {
        let page = shared
            .read(move |shared| {
                let mut batch = Batch::new(Durability::Relaxed);
                let links = shared.meta.scan::<LinkRow>(&id, None, ROWS)?;
                let tags = shared.meta.scan::<TagRow>(&id, None, ROWS)?;
                for (key, _) in &links {
                    batch.delete::<LinkRow>(key);
                }
                for (key, _) in &tags {
                    batch.delete::<TagRow>(key);
                }
                let done = links.is_empty() && tags.is_empty();
                if done {
                    batch.delete::<RepositoryRow>(&id);
                }
                Ok((batch, done))
            })
            .await;
        let applied = match page {
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

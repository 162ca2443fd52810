//! Owns removing: evicted copies, documents above their cap, what retired repositories left; and the regular
//! notes of space and last uses.
//! Must not know: why the cache chose a victim.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::actor::Coordination;
use super::model::{EngineError, ErrorKind};
use super::shared::Shared;
use crate::cache::Event;
use crate::meta::{
    Batch, ContentRow, CopyRow, DocumentRow, Durability, LinkRow, MetaError, MetaExt as _, RepositoryRow,
    TagRow,
};
use crate::names::{Digest, RepositoryId};

/// Rows removed in one commit, so that other writers get their turn.
pub(super) const ROWS: usize = 1_000;
const SPACE_EVERY: Duration = Duration::from_secs(10);
const NOTES_EVERY: Duration = Duration::from_secs(60);
const NOTE_TRIES: usize = 3;
/// How long a round of making room waits for what must go.
const SETTLE: Duration = Duration::from_secs(2);
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
#[derive(Clone, Copy, Debug)]
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

/// Runs until the stop: space, last uses, documents, old drafts, and what removed repositories left.
pub(super) async fn housekeeping(shared: Arc<Shared>, coordination: Coordination) {
    let mut notes_due = shared.clock.now().after(NOTES_EVERY);
    loop {
        shares(&shared, &coordination).await;
        for id in shared.repositories.take_retired() {
            coordination.tell(Event::Share { upstream: id.0, limit: None }).await;
            clear_retired(&shared, id).await;
        }
        let out_of_turn = tokio::select! {
            () = tokio::time::sleep(SPACE_EVERY) => false,
            () = shared.room.wanted() => true,
            () = shared.tasks.stopping() => return,
        };
        space(&shared, &coordination).await;
        if out_of_turn {
            settle(&shared, &coordination).await;
            shared.room.made();
        }
        if shared.clock.now() >= notes_due {
            notes_due = shared.clock.now().after(NOTES_EVERY);
            note_uses(&shared, Durability::Durable).await;
            super::boot::drop_old_drafts(&shared).await;
            if let Err(error) = cap_documents(&shared).await {
                tracing::warn!(%error, "the documents cannot be capped");
            }
        }
    }
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
    for used in shared.touched.take_blobs().chunks(ROWS) {
        let used = used.to_vec();
        note_some(shared, move |shared, batch| {
            for (digest, at) in &used {
                if let Some(row) = shared.meta.get::<CopyRow>(digest)? {
                    batch.require_equal(digest, &row);
                    batch.put(digest, &CopyRow { last_used_ms: at.0, ..row });
                }
            }
            Ok(())
        })
        .await;
    }
    for used in shared.touched.take_documents().chunks(ROWS) {
        let used = used.to_vec();
        note_some(shared, move |shared, batch| {
            for (digest, at) in &used {
                if let Some(row) = shared.meta.get::<DocumentRow>(digest)? {
                    batch.require_present::<DocumentRow>(digest);
                    batch.put(digest, &DocumentRow { last_used_ms: at.0, ..row });
                }
            }
            Ok(())
        })
        .await;
    }
    // Nothing in it: it carries the others to the disk.
    if let Err(error) = shared.meta.apply(Batch::new(durability)).await {
        tracing::warn!(%error, "last uses are not on the disk yet");
    }
}

/// A row that changes meanwhile (evicted, fetched again) spoils the batch, so it is planned anew.
async fn note_some<F>(shared: &Arc<Shared>, plan: F)
where
    F: Fn(&Shared, &mut Batch) -> Result<(), EngineError> + Clone + Send + 'static,
{
    for _ in 0..NOTE_TRIES {
        let plan = plan.clone();
        let planned = shared.read(move |shared| {
            let mut batch = Batch::new(Durability::Relaxed);
            plan(shared, &mut batch).map(|()| batch)
        });
        let applied = match planned.await {
            Ok(batch) => shared.meta.apply(batch).await,
            // It was logged there.
            Err(_) => return,
        };
        match applied {
            Err(MetaError::Conflict(_)) => {}
            Ok(()) => return,
            Err(error) => return tracing::warn!(%error, "last uses cannot be noted"),
        }
    }
    tracing::debug!("some last uses are not noted: their rows change all the time");
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

/// Removes what a retired repository left, a page of rows at a time, then its own row; and once more what came
/// between the last look and that, since with the row nothing can be noted for it any more. Its blobs stay, unseen,
/// until room is wanted.
async fn clear_retired(shared: &Arc<Shared>, id: RepositoryId) {
    let cleared = async {
        clear_rows(shared, id).await?;
        let mut last = Batch::new(Durability::Relaxed);
        last.delete::<RepositoryRow>(&id);
        shared.meta.apply(last).await?;
        clear_rows(shared, id).await
    };
    if let Err(error) = cleared.await {
        tracing::warn!(%id, %error, "a removed repository's rows stay until the next start");
    }
}

async fn clear_rows(shared: &Arc<Shared>, id: RepositoryId) -> Result<(), EngineError> {
    loop {
        let page = shared.read(move |shared| {
            let mut batch = Batch::new(Durability::Relaxed);
            let links = shared.meta.scan::<LinkRow>(&id, None, ROWS)?;
            let tags = shared.meta.scan::<TagRow>(&id, None, ROWS)?;
            for (key, _) in &links {
                batch.delete::<LinkRow>(key);
            }
            for (key, _) in &tags {
                batch.delete::<TagRow>(key);
            }
            Ok((batch, links.is_empty() && tags.is_empty()))
        });
        let (batch, done) = page.await?;
        if done {
            return Ok(());
        }
        if shared.tasks.is_stopping() {
            return Err(EngineError::new(ErrorKind::Overloaded, "the server is stopping"));
        }
        shared.meta.apply(batch).await?;
    }
}

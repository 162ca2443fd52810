//! Owns the account of cached manifests, and removing them: above their cap, and on request. What was pushed is no
//! cache and is neither counted nor removed here.
//! Must not know: files, who asks for a manifest.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::flight::Source;
use super::model::EngineError;
use super::prune::{Gone, prune};
use super::shared::Shared;
use super::sweep;
use crate::meta::{Batch, ContentRow, DocumentRow, Durability, LinkRow, MetaError, MetaExt as _, Row as _};
use crate::names::Digest;

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

    fn removed(&self, bytes: u64) {
        let less = |documents: u64| Some(documents.saturating_sub(bytes));
        // It is never refused.
        let _ = self.documents.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    fn set(&self, bytes: u64) {
        self.documents.store(bytes, Ordering::Relaxed);
    }

    fn documents(&self) -> u64 {
        self.documents.load(Ordering::Relaxed)
    }
}

/// A document that is to go as long as nobody fetches it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Victim {
    pub last_used_ms: u64,
    pub digest: Digest,
}

/// Counts them once, after the start.
pub(super) fn count(shared: &Shared) -> Result<(), EngineError> {
    let mut total = 0;
    each_cached(shared, |_, row| total += row.bytes.len() as u64)?;
    shared.sizes.document_added(total);
    Ok(())
}

/// Removes the least recently used documents above the cap, with the links and tags that rest on them. Those first, so
/// that wherever it is broken off nothing may be shown that no document gives.
pub(super) async fn cap(shared: &Arc<Shared>) -> Result<(), EngineError> {
    let cap = shared.settings.document_cap;
    if shared.sizes.documents() <= cap {
        return Ok(());
    }
    // The rows say how things were some minutes ago.
    sweep::note_document_uses(shared).await;
    let Chosen { victims, kept } = shared.read(move |shared| choose(shared, cap)).await?;
    if victims.is_empty() {
        return Ok(());
    }
    tracing::info!(documents = victims.len(), "removing the least recently used manifests");
    let gone: Gone = victims.iter().map(|victim| (victim.digest, Some(victim.last_used_ms))).collect();
    let gone = Arc::new(gone);
    let without = Arc::clone(&gone);
    for image in shared.read(move |shared| images(shared, &without, &kept)).await? {
        if shared.tasks.is_stopping() {
            return Ok(());
        }
        prune(shared, &image, &gone).await?;
    }
    remove(shared, &victims).await
}

struct Chosen {
    victims: Vec<Victim>,
    kept: HashSet<Digest>,
}

/// Which documents must go so that there is room again. Corrects the running count on the way: above the cap it may be,
/// and not they.
fn choose(shared: &Shared, cap: u64) -> Result<Chosen, EngineError> {
    let mut all = Vec::new();
    let mut total = 0;
    each_cached(shared, |digest, row| {
        let size = row.bytes.len() as u64;
        total += size;
        all.push((Victim { last_used_ms: row.last_used_ms, digest }, size));
    })?;
    shared.sizes.set(total);
    let keep = if total > cap { cap / 100 * LOW_PERCENT } else { total };
    all.sort_unstable();
    let mut chosen = Chosen { victims: Vec::new(), kept: HashSet::new() };
    for (victim, size) in all {
        if total > keep {
            total -= size;
            chosen.victims.push(victim);
        } else {
            chosen.kept.insert(victim.digest);
        }
    }
    Ok(chosen)
}

fn each_cached(shared: &Shared, mut visit: impl FnMut(Digest, DocumentRow)) -> Result<(), EngineError> {
    shared.meta.each::<DocumentRow, EngineError>(&(), |digest, row| {
        if shared.meta.get::<ContentRow>(&digest)?.is_none() {
            visit(digest, row);
        }
        Ok(())
    })
}

/// The images of remotes that show something of what goes, or nothing of what stays: what was proven in those rests on
/// no manifest, and nobody else would ever remove it.
fn images(shared: &Shared, gone: &Gone, kept: &HashSet<Digest>) -> Result<Vec<Source>, EngineError> {
    #[derive(Default)]
    struct Shows {
        gone: bool,
        kept: bool,
    }
    let mut images: HashMap<Source, Shows> = HashMap::new();
    shared.meta.each::<LinkRow, EngineError>(&(), |(repository, image, digest), _| {
        let shows = images.entry(Source { repository, image }).or_default();
        shows.gone |= gone.contains_key(&digest);
        shows.kept |= kept.contains(&digest);
        Ok(())
    })?;
    let is_remote = |image: &Source| {
        let repository = shared.repositories.by_id(image.repository);
        repository.is_some_and(|repository| repository.remote().is_some())
    };
    let found = images.into_iter().filter(|(image, shows)| (shows.gone || !shows.kept) && is_remote(image));
    Ok(found.map(|(image, _)| image).collect())
}

/// Documents, each unless it was fetched again or pushed since it was chosen.
pub(super) async fn remove(shared: &Arc<Shared>, victims: &[Victim]) -> Result<(), EngineError> {
    for page in victims.chunks(DocumentRow::PAGE) {
        let page = page.to_vec();
        let (batch, bytes) = shared.read(move |shared| removal(shared, &page)).await?;
        match shared.meta.apply(batch).await {
            Ok(()) => shared.sizes.removed(bytes),
            Err(MetaError::Conflict(_)) => {
                tracing::debug!("a manifest came again while it was being removed: it and some others stay");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn removal(shared: &Shared, page: &[Victim]) -> Result<(Batch, u64), EngineError> {
    let mut batch = Batch::new(Durability::Relaxed);
    let mut bytes = 0;
    for Victim { last_used_ms, digest } in page {
        let Some(row) = shared.meta.get::<DocumentRow>(digest)? else { continue };
        let pushed = shared.meta.get::<ContentRow>(digest)?.is_some();
        if !pushed && row.last_used_ms == *last_used_ms {
            bytes += row.bytes.len() as u64;
            batch.require_absent::<ContentRow>(digest);
            batch.require_equal(digest, &row).delete::<DocumentRow>(digest);
        }
    }
    Ok((batch, bytes))
}

//! Owns throwing away what is cached, on request.
//! Must not know: who asks, and why.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Engine;
use super::documents::{self, Victim};
use super::flight::{FlightKey, Source};
use super::images::PAGE;
use super::model::{EngineError, ErrorKind, Purge, Purged};
use super::prune::{prune, with_children};
use super::repository::Repository;
use super::shared::Shared;
use crate::cache::Event;
use crate::meta::{CopyRow, DocumentRow, LinkRow, MetaExt as _, TagRow};
use crate::names::{Digest, ImageName, RepositoryId, RepositoryName};

impl Engine {
    /// Removes documents, tags and links, and the bytes that no image needs any more.
    pub async fn purge(&self, repository: &RepositoryName, what: Purge) -> Result<Purged, EngineError> {
        let repository = self.named_repository(repository)?;
        if repository.remote().is_none() {
            let message = format!("{} is a local repository: its images are not a cache", repository.name);
            return Err(EngineError::new(ErrorKind::Unsupported, message));
        }
        let id = repository.id;
        let wanted = what.clone();
        let plan = self.shared.read(move |shared| plan(shared, id, &wanted)).await?;
        if plan.links.is_empty() && plan.tags.is_empty() {
            let message = format!("nothing of that is cached in {}", repository.name);
            return Err(EngineError::new(ErrorKind::ManifestUnknown, message));
        }
        let unlinked = match what {
            Purge::Digest(digest) => self.without(digest, &plan).await?,
            Purge::All | Purge::Image(_) | Purge::Tag(..) => Vec::new(),
        };
        self.carry_out(plan, unlinked).await
    }

    pub(super) fn named_repository(&self, name: &RepositoryName) -> Result<Arc<Repository>, EngineError> {
        self.shared.repositories.by_name(name.as_str()).ok_or_else(|| {
            EngineError::new(ErrorKind::NameUnknown, format!("there is no repository named {name}"))
        })
    }

    /// With a manifest goes what only it gives, in each image that shows it; with an index the manifests that only it
    /// names, and what only those give. Answers what that was.
    async fn without(&self, digest: Digest, plan: &Plan) -> Result<Vec<Digest>, EngineError> {
        let is_manifest = move |shared: &Shared| Ok(shared.meta.get::<DocumentRow>(&digest)?.is_some());
        let mut unlinked = Vec::new();
        if self.shared.read(is_manifest).await? {
            for (repository, image, _) in &plan.links {
                let image = Source { repository: *repository, image: image.clone() };
                let looked = image.clone();
                let gone = self.shared.read(move |shared| with_children(shared, &looked, digest)).await?;
                unlinked.extend(prune(&self.shared, &image, &Arc::new(gone)).await?);
            }
        }
        Ok(unlinked)
    }

    async fn carry_out(&self, plan: Plan, unlinked: Vec<Digest>) -> Result<Purged, EngineError> {
        let mut purged = Purged::default();
        for batch in plan.batches() {
            self.shared.meta.apply(batch).await?;
        }
        self.shared.answers.clear();
        self.shared.resolutions.clear();
        let digests: BTreeSet<Digest> = plan.links.iter().map(|key| key.2).chain(unlinked).collect();
        let orphans = self.shared.read(move |shared| orphans(shared, digests)).await?;
        purged.documents = orphans.documents.len() as u64;
        documents::remove(&self.shared, &orphans.documents).await?;
        for (digest, size) in orphans.blobs {
            // The coordinator decides: what is being fetched or claimed stays.
            self.coordination.tell(Event::Collect { key: FlightKey::Content(digest) }).await;
            purged.blobs += 1;
            purged.bytes += size;
        }
        Ok(purged)
    }
}

type LinkKey = (RepositoryId, ImageName, Digest);
type TagKey = (RepositoryId, ImageName, crate::names::Tag);

/// The rows that go.
struct Plan {
    links: Vec<LinkKey>,
    tags: Vec<TagKey>,
}

impl Plan {
    fn batches(&self) -> Vec<crate::meta::Batch> {
        use crate::meta::{Batch, Durability};
        let mut batches = Vec::new();
        for links in self.links.chunks(PAGE) {
            let mut batch = Batch::new(Durability::Durable);
            for key in links {
                batch.delete::<LinkRow>(key);
            }
            batches.push(batch);
        }
        for tags in self.tags.chunks(PAGE) {
            let mut batch = Batch::new(Durability::Durable);
            for key in tags {
                batch.delete::<TagRow>(key);
            }
            batches.push(batch);
        }
        batches
    }
}

fn plan(shared: &Shared, id: RepositoryId, what: &Purge) -> Result<Plan, EngineError> {
    let mut plan = Plan { links: Vec::new(), tags: Vec::new() };
    shared.meta.each::<TagRow, EngineError>(&id, |key, row| {
        let goes = match what {
            Purge::All => true,
            Purge::Image(image) => key.1 == *image,
            Purge::Tag(image, tag) => key.1 == *image && key.2 == *tag,
            Purge::Digest(digest) => row.digest == *digest,
        };
        if goes {
            plan.tags.push(key);
        }
        Ok(())
    })?;
    shared.meta.each::<LinkRow, EngineError>(&id, |key, _| {
        let goes = match what {
            Purge::All => true,
            Purge::Image(image) => key.1 == *image,
            // Other tags may name the same manifest.
            Purge::Tag(..) => false,
            Purge::Digest(digest) => key.2 == *digest,
        };
        if goes {
            plan.links.push(key);
        }
        Ok(())
    })?;
    Ok(plan)
}

/// What nobody links to any more.
struct Orphans {
    documents: Vec<Victim>,
    blobs: Vec<(Digest, u64)>,
}

fn orphans(shared: &Shared, mut digests: BTreeSet<Digest>) -> Result<Orphans, EngineError> {
    shared.meta.each::<LinkRow, EngineError>(&(), |key, _| {
        digests.remove(&key.2);
        Ok(())
    })?;
    let mut orphans = Orphans { documents: Vec::new(), blobs: Vec::new() };
    for digest in digests {
        if let Some(DocumentRow { last_used_ms, .. }) = shared.meta.get(&digest)? {
            orphans.documents.push(Victim { last_used_ms, digest });
        }
        if let Some(copy) = shared.meta.get::<CopyRow>(&digest)? {
            orphans.blobs.push((digest, copy.size));
        }
    }
    Ok(orphans)
}

//! Owns looking at what is cached, and throwing it away on request.
//! Must not know: how it is shown.

use std::collections::{BTreeMap, BTreeSet};

use super::Engine;
use super::documents;
use super::flight::FlightKey;
use super::model::{CachedImage, CachedTag, EngineError, ErrorKind, Purge, Purged};
use super::repository::Repository;
use super::shared::Shared;
use super::sweep;
use crate::cache::Event;
use crate::meta::{CopyRow, DocumentRow, LinkRow, MetaExt as _, TagRow};
use crate::names::{Digest, ImageName, RepositoryId, RepositoryName};

const PAGE: usize = 1_000;

impl Engine {
    /// What lies here, by image.
    pub async fn cached(&self, repository: Option<&RepositoryName>) -> Result<Vec<CachedImage>, EngineError> {
        let chosen: Vec<_> = match repository {
            Some(name) => vec![self.named_repository(name)?],
            None => self.shared.repositories.list(),
        };
        self.shared
            .read(move |shared| {
                let mut images = Vec::new();
                for repository in &chosen {
                    images.extend(images_of(shared, repository)?);
                }
                Ok(images)
            })
            .await
    }

    /// Removes documents, tags and links, and the bytes that no image needs any more.
    pub async fn purge(&self, repository: &RepositoryName, what: Purge) -> Result<Purged, EngineError> {
        let repository = self.named_repository(repository)?;
        if repository.remote().is_none() {
            let message = format!("{} is a local repository: its images are not a cache", repository.name);
            return Err(EngineError::new(ErrorKind::Unsupported, message));
        }
        let id = repository.id;
        let plan = self.shared.read(move |shared| plan(shared, id, &what)).await?;
        if plan.links.is_empty() && plan.tags.is_empty() {
            let message = format!("nothing of that is cached in {}", repository.name);
            return Err(EngineError::new(ErrorKind::ManifestUnknown, message));
        }
        self.carry_out(plan).await
    }

    fn named_repository(&self, name: &RepositoryName) -> Result<std::sync::Arc<Repository>, EngineError> {
        self.shared.repositories.by_name(name.as_str()).ok_or_else(|| {
            EngineError::new(ErrorKind::NameUnknown, format!("there is no repository named {name}"))
        })
    }

    async fn carry_out(&self, plan: Plan) -> Result<Purged, EngineError> {
        let mut purged = Purged::default();
        for batch in plan.batches() {
            self.shared.meta.apply(batch).await?;
        }
        self.shared.answers.clear();
        self.shared.resolutions.clear();
        let digests: BTreeSet<Digest> = plan.links.iter().map(|key| key.2).collect();
        let orphans = self.shared.read(move |shared| orphans(shared, digests)).await?;
        purged.documents = orphans.documents.len() as u64;
        if !orphans.documents.is_empty() {
            documents::forget(&self.shared, orphans.documents).await?;
        }
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
    each_under::<TagRow, _>(shared, id, |key, row| {
        let goes = match what {
            Purge::All => true,
            Purge::Image(image) => key.1 == *image,
            Purge::Tag(image, tag) => key.1 == *image && key.2 == *tag,
            Purge::Digest(digest) => row.digest == *digest,
        };
        if goes {
            plan.tags.push(key);
        }
    })?;
    each_under::<LinkRow, _>(shared, id, |key, _| {
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
    })?;
    Ok(plan)
}

/// What nobody links to any more.
struct Orphans {
    documents: Vec<Digest>,
    blobs: Vec<(Digest, u64)>,
}

fn orphans(shared: &Shared, mut digests: BTreeSet<Digest>) -> Result<Orphans, EngineError> {
    sweep::each::<LinkRow>(shared, |key, _| {
        digests.remove(&key.2);
    })?;
    let mut orphans = Orphans { documents: Vec::new(), blobs: Vec::new() };
    for digest in digests {
        if shared.meta.get::<DocumentRow>(&digest)?.is_some() {
            orphans.documents.push(digest);
        }
        if let Some(copy) = shared.meta.get::<CopyRow>(&digest)? {
            orphans.blobs.push((digest, copy.size));
        }
    }
    Ok(orphans)
}

fn images_of(shared: &Shared, repository: &Repository) -> Result<Vec<CachedImage>, EngineError> {
    let mut images: BTreeMap<ImageName, CachedImage> = BTreeMap::new();
    let now = shared.clock.wall().0;
    let empty = |image: &ImageName| CachedImage {
        repository: repository.name.clone(),
        image: image.clone(),
        tags: Vec::new(),
        manifests: 0,
        blobs: 0,
        bytes: 0,
    };
    let mut failed = None;
    each_under::<LinkRow, _>(shared, repository.id, |key, _| {
        let found = shared.meta.get::<CopyRow>(&key.2).and_then(|copy| {
            let document = shared.meta.get::<DocumentRow>(&key.2)?;
            Ok((copy, document))
        });
        match found {
            Ok((copy, document)) => {
                let image = images.entry(key.1.clone()).or_insert_with(|| empty(&key.1));
                if let Some(document) = document {
                    image.manifests += 1;
                    image.bytes += document.bytes.len() as u64;
                }
                if let Some(copy) = copy {
                    image.blobs += 1;
                    image.bytes += copy.size;
                }
            }
            Err(error) => failed = Some(error),
        }
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    each_under::<TagRow, _>(shared, repository.id, |key, row| {
        let image = images.entry(key.1.clone()).or_insert_with(|| empty(&key.1));
        let age_s = now.saturating_sub(row.checked_ms) / 1_000;
        image.tags.push(CachedTag { tag: key.2, digest: row.digest, age_s });
    })?;
    Ok(images.into_values().filter(|image| image.manifests + image.blobs + image.tags.len() > 0).collect())
}

/// All rows of one repository, a page at a time.
fn each_under<R, L>(
    shared: &Shared,
    id: RepositoryId,
    mut visit: impl FnMut(R::Key, R),
) -> Result<(), EngineError>
where
    R: crate::meta::Row<Key = (RepositoryId, ImageName, L)>,
    L: crate::meta::RowKey + Clone,
{
    let mut after: Option<R::Key> = None;
    loop {
        let page = shared.meta.scan::<R>(&id, after.as_ref(), PAGE)?;
        let last = page.len() < PAGE;
        for (key, row) in page {
            after = Some(key.clone());
            visit(key, row);
        }
        if last {
            return Ok(());
        }
    }
}

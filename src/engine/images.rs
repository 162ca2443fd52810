//! Owns looking at what lies here by image: its tags, manifests and blobs, with sizes and dates.
//! Must not know: how it is shown, how anything is removed.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Engine;
use super::model::{EngineError, ErrorKind, Scope, StoredImage, StoredTag};
use super::repository::Repository;
use super::shared::Shared;
use crate::meta::{CopyRow, DocumentRow, LinkRow, MetaExt as _, Prefix, Row, TagRow};
use crate::names::{Digest, ImageName, Reference, RepositoryName, Tag, manifest};

pub(super) const PAGE: usize = 1_000;
/// Indexes within indexes are followed this far down.
const DEPTH: usize = 4;

impl Engine {
    /// What lies here, by image.
    pub async fn stored_images(
        &self,
        repository: Option<&RepositoryName>,
    ) -> Result<Vec<StoredImage>, EngineError> {
        let chosen: Vec<_> = match repository {
            Some(name) => vec![self.named_repository(name)?],
            None => self.shared.repositories.list(),
        };
        self.shared
            .read(move |shared| {
                let mut images = Vec::new();
                for repository in &chosen {
                    images.extend(images_of(shared, repository, &repository.id)?);
                }
                Ok(images)
            })
            .await
    }

    /// One of them.
    pub async fn stored_image(&self, scope: &Scope) -> Result<StoredImage, EngineError> {
        let (repository, name) = (scope.repository.clone(), scope.image.clone());
        let found =
            self.shared.read(move |shared| images_of(shared, &repository, &(repository.id, name))).await?;
        found.into_iter().next().ok_or_else(|| no_image(scope))
    }
}

/// What a reference names in an image, from its tags alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedManifest {
    pub digest: Digest,
    /// All that name it.
    pub tags: Vec<Tag>,
}

impl Engine {
    /// `None`: there is no such tag. Reads the image's tags, and nothing of what they name.
    pub async fn named_manifest(
        &self,
        scope: &Scope,
        reference: &Reference,
    ) -> Result<Option<NamedManifest>, EngineError> {
        let (image, wanted) = ((scope.repository.id, scope.image.clone()), reference.clone());
        let find = move |shared: &Shared| {
            let digest = match wanted {
                Reference::Digest(digest) => digest,
                Reference::Tag(tag) => match shared.meta.get::<TagRow>(&(image.0, image.1.clone(), tag))? {
                    Some(row) => row.digest,
                    None => return Ok(None),
                },
            };
            let mut tags = Vec::new();
            shared.meta.each::<TagRow, EngineError>(&image, |key, row| {
                tags.extend((row.digest == digest).then_some(key.2));
                Ok(())
            })?;
            Ok(Some(NamedManifest { digest, tags }))
        };
        self.shared.read(find).await
    }
}

pub(super) fn no_image(scope: &Scope) -> EngineError {
    let message = format!("{} has no image {}", scope.repository.name, scope.image);
    EngineError::new(ErrorKind::ManifestUnknown, message)
}

fn images_of<P>(shared: &Shared, repository: &Repository, prefix: &P) -> Result<Vec<StoredImage>, EngineError>
where
    P: Prefix<<LinkRow as Row>::Key> + Prefix<<TagRow as Row>::Key>,
{
    let mut images: BTreeMap<ImageName, StoredImage> = BTreeMap::new();
    // The manifests of each: others may have what an image only names.
    let mut shown: HashMap<ImageName, HashSet<Digest>> = HashMap::new();
    let mut documents = Documents { shared, views: HashMap::new() };
    let empty = |image: &ImageName| StoredImage {
        repository: repository.name.clone(),
        image: image.clone(),
        tags: Vec::new(),
        manifests: 0,
        blobs: 0,
        bytes: 0,
    };
    shared.meta.each::<LinkRow, EngineError>(prefix, |key, link| {
        let image = images.entry(key.1.clone()).or_insert_with(|| empty(&key.1));
        // A blob's link has no type: there is no document to look for.
        if link.media_type.is_some()
            && let Some(document) = documents.view(&key.2)?
        {
            image.manifests += 1;
            image.bytes += document.size;
            shown.entry(key.1.clone()).or_default().insert(key.2);
        }
        if let Some(copy) = shared.meta.get::<CopyRow>(&key.2)? {
            image.blobs += 1;
            image.bytes += copy.size;
        }
        Ok(())
    })?;
    shared.meta.each::<TagRow, EngineError>(prefix, |key, row| {
        let image = images.entry(key.1.clone()).or_insert_with(|| empty(&key.1));
        let size = match shown.get(&key.1) {
            Some(shown) => documents.size(&row.digest, row.size, shown)?,
            None => row.size,
        };
        let (updated_ms, media_type) = (row.checked_ms, row.media_type);
        image.tags.push(StoredTag { tag: key.2, digest: row.digest, media_type, size, updated_ms });
        Ok(())
    })?;
    Ok(images.into_values().filter(|image| image.manifests + image.blobs + image.tags.len() > 0).collect())
}

/// Manifests, each read once however many tags and indexes name it.
struct Documents<'a> {
    shared: &'a Shared,
    views: HashMap<Digest, Option<Named>>,
}

/// What a manifest is and names: enough to add up.
#[derive(Clone)]
struct Named {
    size: u64,
    children: Vec<(Digest, u64)>,
}

impl Documents<'_> {
    /// `None`: it is not here.
    fn view(&mut self, digest: &Digest) -> Result<Option<&Named>, EngineError> {
        if !self.views.contains_key(digest) {
            let document = self.shared.meta.get::<DocumentRow>(digest)?;
            let named = document.map(|document| {
                // What cannot be read names nothing.
                let references = manifest::parse(&document.bytes).map(|view| view.references);
                let children =
                    references.unwrap_or_default().iter().map(|one| (one.digest, one.size)).collect();
                Named { size: document.bytes.len() as u64, children }
            });
            self.views.insert(*digest, named);
        }
        Ok(self.views.get(digest).and_then(Option::as_ref))
    }

    /// Of a manifest of `size` bytes and all it names, as far as that is known where only these are `shown`; the same
    /// content counts once.
    fn size(&mut self, digest: &Digest, size: u64, shown: &HashSet<Digest>) -> Result<u64, EngineError> {
        let (mut sum, mut seen) = (0_u64, HashSet::from([*digest]));
        let mut level = vec![(*digest, size)];
        for _ in 0..DEPTH {
            let mut below = Vec::new();
            for (digest, size) in level {
                sum = sum.saturating_add(size);
                if !shown.contains(&digest) {
                    continue;
                }
                let children = self.view(&digest)?.map_or(&[][..], |named| named.children.as_slice());
                below.extend(children.iter().copied().filter(|(child, _)| seen.insert(*child)));
            }
            level = below;
        }
        Ok(sum)
    }
}

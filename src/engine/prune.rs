//! Owns what goes from a remote's image with its manifests: their tags, and the links that no other manifest of the image
//! gives. Who asks for such a blob afterwards has the upstream asked, as for one that nobody ever heard of.
//! Must not know: why a manifest goes; how documents and blobs are removed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::answers::Of;
use super::flight::Source;
use super::model::EngineError;
use super::shared::Shared;
use super::sweep::ROWS;
use crate::meta::{Batch, DocumentRow, Durability, LinkRow, MetaError, MetaExt as _, TagRow};
use crate::names::{Digest, Reference, Tag, manifest};

/// What others fetch at the same time is looked at again this often.
const TRIES: usize = 8;

/// Manifests that go, each only as long as it was last used then: who fetches it again keeps it. `None`: whatever is done
/// with it meanwhile.
pub(super) type Gone = HashMap<Digest, Option<u64>>;

/// What none of an image's manifests gives, as it was seen.
#[derive(Default)]
struct Spares {
    tags: Vec<(Tag, TagRow)>,
    links: Vec<(Digest, LinkRow)>,
}

/// Takes from an image what rests on the manifests that are `gone`, or on none at all. Answers which digests it shows no
/// more. What is fetched or proven meanwhile stays, also one of those manifests.
pub(super) async fn prune(
    shared: &Arc<Shared>,
    image: &Source,
    gone: &Arc<Gone>,
) -> Result<Vec<Digest>, EngineError> {
    let mut unlinked = Vec::new();
    for _ in 0..TRIES {
        let (looked, without) = (image.clone(), Arc::clone(gone));
        let spares = shared.read(move |shared| look(shared, &looked, &without)).await?;
        match take(shared, image, &spares, &mut unlinked).await {
            Ok(()) => return Ok(unlinked),
            Err(MetaError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    tracing::debug!(image = %image.image, "an image is fetched all the time: some links stay until the next time");
    Ok(unlinked)
}

/// What goes with a manifest that is purged: manifests of the same image that only it names, and no tag.
pub(super) fn with_children(shared: &Shared, image: &Source, digest: Digest) -> Result<Gone, EngineError> {
    let under = (image.repository, image.image.clone());
    let mut stays = HashSet::new();
    shared.meta.each::<TagRow, EngineError>(&under, |_, row| {
        stays.insert(row.digest);
        Ok(())
    })?;
    let mut manifests = HashMap::new();
    shared.meta.each::<LinkRow, EngineError>(&under, |(_, _, digest), _| {
        if let Some(document) = shared.meta.get::<DocumentRow>(&digest)? {
            manifests.insert(digest, (named(&document), document.last_used_ms));
        }
        Ok(())
    })?;
    let mut gone = Gone::from([(digest, None)]);
    let mut next = vec![digest];
    while let Some(parent) = next.pop() {
        let children = manifests.get(&parent).map(|(named, _)| named.as_slice()).unwrap_or_default();
        for child in children {
            let is_named_by = |(other, (named, _)): (&Digest, &(Vec<Digest>, u64))| {
                !gone.contains_key(other) && named.contains(child)
            };
            let Some((_, last_used_ms)) = manifests.get(child) else { continue };
            if !gone.contains_key(child) && !stays.contains(child) && !manifests.iter().any(is_named_by) {
                gone.insert(*child, Some(*last_used_ms));
                next.push(*child);
            }
        }
    }
    Ok(gone)
}

/// What gives the right to it. A manifest that cannot be read gives nothing.
fn named(document: &DocumentRow) -> Vec<Digest> {
    let references = manifest::parse(&document.bytes).map(|view| view.references).unwrap_or_default();
    references.into_iter().filter(|named| !named.external).map(|named| named.digest).collect()
}

fn look(shared: &Shared, image: &Source, gone: &Gone) -> Result<Spares, EngineError> {
    let under = (image.repository, image.image.clone());
    let mut spares = Spares::default();
    shared.meta.each::<TagRow, EngineError>(&under, |(_, _, tag), row| {
        spares.tags.push((tag, row));
        Ok(())
    })?;
    shared.meta.each::<LinkRow, EngineError>(&under, |(_, _, digest), row| {
        spares.links.push((digest, row));
        Ok(())
    })?;
    // Only now the manifests: one that came with a row seen above is found, and one that comes later changes that row.
    let (mut manifests, mut given) = (HashSet::new(), HashSet::new());
    shared.meta.each::<LinkRow, EngineError>(&under, |(_, _, digest), _| {
        let Some(document) = shared.meta.get::<DocumentRow>(&digest)? else { return Ok(()) };
        let goes =
            gone.get(&digest).is_some_and(|seen| seen.is_none_or(|seen| seen == document.last_used_ms));
        if !goes {
            manifests.insert(digest);
            given.extend(named(&document));
        }
        Ok(())
    })?;
    spares.tags.retain(|(_, row)| !manifests.contains(&row.digest));
    spares.links.retain(|(digest, _)| !manifests.contains(digest) && !given.contains(digest));
    Ok(spares)
}

async fn take(
    shared: &Shared,
    image: &Source,
    spares: &Spares,
    unlinked: &mut Vec<Digest>,
) -> Result<(), MetaError> {
    let Source { repository, image: name } = image;
    for tags in spares.tags.chunks(ROWS) {
        let mut batch = Batch::new(Durability::Relaxed);
        for (tag, row) in tags {
            let key = (*repository, name.clone(), tag.clone());
            batch.require_equal(&key, row).delete::<TagRow>(&key);
        }
        shared.meta.apply(batch).await?;
        for (tag, _) in tags {
            shared.resolutions.forget(image, tag);
        }
        let of = tags.iter().map(|(tag, _)| Of::Manifest(Reference::Tag(tag.clone())));
        shared.answers.committed(*repository, name, of);
    }
    for links in spares.links.chunks(ROWS) {
        let mut batch = Batch::new(Durability::Relaxed);
        for (digest, row) in links {
            let key = (*repository, name.clone(), *digest);
            batch.require_equal(&key, row).delete::<LinkRow>(&key);
        }
        shared.meta.apply(batch).await?;
        let of =
            |(digest, _): &(Digest, LinkRow)| [Of::Manifest(Reference::Digest(*digest)), Of::Blob(*digest)];
        shared.answers.committed(*repository, name, links.iter().flat_map(of));
        unlinked.extend(links.iter().map(|(digest, _)| *digest));
    }
    Ok(())
}

//! Owns taking links away from a local image: a tag, a manifest with all its tags, a blob, or all of it. Visible at
//! once; the bytes go when nobody holds them any more.
//! Must not know: HTTP, when content is collected.

use super::Engine;
use super::answers::Of;
use super::flight::Source;
use super::images::no_image;
use super::local::no_manifest;
use super::manifests::source;
use super::model::{EngineError, ErrorKind, Scope, Verdict};
use super::shared::Shared;
use super::sweep::ROWS;
use crate::meta::{
    Batch, CopyRow, DocumentRow, Durability, HolderRow, LinkRow, MetaError, MetaExt as _, ReferrerRow, TagRow,
};
use crate::names::{Digest, Reference, Tag, manifest};

/// What others change at the same time is looked at again this often.
const TRIES: usize = 8;

/// A batch, and the answers that it makes untrue.
struct Removal {
    batch: Batch,
    changed: Vec<Of>,
}

impl Engine {
    /// By tag only the tag goes, by digest the manifest and all tags that name it.
    pub async fn delete_manifest(&self, scope: &Scope, reference: &Reference) -> Result<(), EngineError> {
        let (image, wanted) = (source(scope), reference.clone());
        let immutable = scope.repository.local().is_some_and(|local| local.immutable_tags);
        let plan = move |shared: &Shared| {
            let removal = match &wanted {
                Reference::Tag(tag) => remove_tag(shared, &image, tag),
                Reference::Digest(digest) => remove_manifest(shared, &image, digest),
            };
            removal.and_then(|found| if immutable { without_tags(found) } else { Ok(found) })
        };
        if self.remove(scope, plan).await? { Ok(()) } else { Err(no_manifest(scope, reference)) }
    }

    pub async fn delete_blob(&self, scope: &Scope, digest: &Digest) -> Result<(), EngineError> {
        let (image, wanted) = (source(scope), *digest);
        if self.remove(scope, move |shared| remove_blob(shared, &image, &wanted)).await? {
            return Ok(());
        }
        let message = format!("{} of {} has no such blob", scope.image, scope.repository.name);
        Err(EngineError::new(ErrorKind::BlobUnknown, message).with_verdict(Verdict::Local))
    }

    /// All of an image: its tags first, so that none is left that names nothing. What is pushed into it meanwhile goes
    /// as well.
    pub async fn delete_image(&self, scope: &Scope) -> Result<(), EngineError> {
        let immutable = scope.repository.local().is_some_and(|local| local.immutable_tags);
        let mut found = false;
        loop {
            let image = source(scope);
            let plan = move |shared: &Shared| {
                let page = remove_page(shared, &image)?;
                if immutable { without_tags(page) } else { Ok(page) }
            };
            if !self.remove(scope, plan).await? {
                return if found { Ok(()) } else { Err(no_image(scope)) };
            }
            found = true;
        }
    }

    /// Carries out what `plan` makes of the rows as they are. `false`: there is nothing to remove.
    async fn remove<F>(&self, scope: &Scope, plan: F) -> Result<bool, EngineError>
    where
        F: Fn(&Shared) -> Result<Option<Removal>, EngineError> + Send + Sync + 'static,
    {
        if scope.repository.local().is_none() {
            return Err(EngineError::new(ErrorKind::Unsupported, "only local repositories take deletions"));
        }
        let (engine, image, plan) = (self.clone(), source(scope), std::sync::Arc::new(plan));
        let job = async move {
            for _ in 0..TRIES {
                let look = std::sync::Arc::clone(&plan);
                let Some(removal) = engine.shared.read(move |shared| look(shared)).await? else {
                    return Ok(false);
                };
                match engine.shared.meta.apply(removal.batch).await {
                    Ok(()) => {
                        engine.shared.answers.committed(image.repository, &image.image, removal.changed);
                        return Ok(true);
                    }
                    // Pushed again, or removed, since it was looked at.
                    Err(MetaError::Conflict(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let message = "this is pushed all the time; try again";
            Err(EngineError::new(ErrorKind::Overloaded, message))
        };
        self.to_its_end(job).await
    }
}

/// Whoever could remove a tag could push another one in its place.
fn without_tags(removal: Option<Removal>) -> Result<Option<Removal>, EngineError> {
    let tag = removal.as_ref().and_then(|removal| {
        removal.changed.iter().find_map(|of| match of {
            Of::Manifest(Reference::Tag(tag)) => Some(tag),
            _ => None,
        })
    });
    match tag {
        None => Ok(removal),
        Some(tag) => {
            let message = format!(
                "the tag {tag} stays: tags of this repository are neither moved nor removed (immutable_tags)"
            );
            Err(EngineError::new(ErrorKind::Denied, message))
        }
    }
}

fn remove_tag(shared: &Shared, image: &Source, tag: &Tag) -> Result<Option<Removal>, EngineError> {
    let key = (image.repository, image.image.clone(), tag.clone());
    let Some(row) = shared.meta.get::<TagRow>(&key)? else { return Ok(None) };
    let mut batch = Batch::new(Durability::Durable);
    let holder = (row.digest, image.repository, image.image.clone());
    if let Some(held) = shared.meta.get::<HolderRow>(&holder)? {
        // Its grace begins when its last tag goes.
        batch.require_equal(&holder, &held).put(&holder, &HolderRow { stamp: shared.stamp() });
    }
    batch.require_present::<TagRow>(&key).delete::<TagRow>(&key);
    Ok(Some(Removal { batch, changed: vec![Of::Manifest(Reference::Tag(tag.clone()))] }))
}

fn remove_manifest(shared: &Shared, image: &Source, digest: &Digest) -> Result<Option<Removal>, EngineError> {
    let Source { repository, image } = image;
    let link = (*repository, image.clone(), *digest);
    let Some(document) = shared.meta.get::<DocumentRow>(digest)? else { return Ok(None) };
    if shared.meta.get::<LinkRow>(&link)?.is_none() {
        return Ok(None);
    }
    let mut batch = Batch::new(Durability::Durable);
    unlink(shared, &mut batch, &link)?;
    let mut changed = vec![Of::Manifest(Reference::Digest(*digest)), Of::Blob(*digest)];
    let mut after = None;
    loop {
        let page = shared.meta.scan::<TagRow>(&(*repository, image.clone()), after.as_ref(), ROWS)?;
        let is_last = page.len() < ROWS;
        for (key, row) in page {
            if row.digest == *digest {
                batch.delete::<TagRow>(&key);
                changed.push(Of::Manifest(Reference::Tag(key.2.clone())));
            }
            after = Some(key);
        }
        if is_last {
            break;
        }
    }
    if let Some(subject) = manifest::parse(&document.bytes).ok().and_then(|view| view.subject) {
        batch.delete::<ReferrerRow>(&(*repository, image.clone(), (subject.digest, *digest)));
    }
    Ok(Some(Removal { batch, changed }))
}

/// Tags as long as there are any, then links, then what only listed what is gone.
fn remove_page(shared: &Shared, image: &Source) -> Result<Option<Removal>, EngineError> {
    let mut removal = Removal { batch: Batch::new(Durability::Durable), changed: Vec::new() };
    let under = (image.repository, image.image.clone());
    let tags = shared.meta.scan::<TagRow>(&under, None, ROWS)?;
    for (key, row) in &tags {
        removal.batch.require_equal(key, row).delete::<TagRow>(key);
        removal.changed.push(Of::Manifest(Reference::Tag(key.2.clone())));
    }
    if !tags.is_empty() {
        return Ok(Some(removal));
    }
    let links = shared.meta.scan::<LinkRow>(&under, None, ROWS)?;
    for (key, _) in &links {
        unlink(shared, &mut removal.batch, key)?;
        removal.changed.extend([Of::Manifest(Reference::Digest(key.2)), Of::Blob(key.2)]);
    }
    let referrers = shared.meta.scan::<ReferrerRow>(&under, None, ROWS)?;
    for (key, _) in &referrers {
        removal.batch.delete::<ReferrerRow>(key);
    }
    Ok((!links.is_empty() || !referrers.is_empty()).then_some(removal))
}

fn remove_blob(shared: &Shared, image: &Source, digest: &Digest) -> Result<Option<Removal>, EngineError> {
    let link = (image.repository, image.image.clone(), *digest);
    // A manifest is removed as one.
    let is_blob = shared.meta.get::<LinkRow>(&link)?.is_some_and(|link| link.media_type.is_none());
    if !is_blob || shared.meta.get::<CopyRow>(digest)?.is_none() {
        return Ok(None);
    }
    let mut batch = Batch::new(Durability::Durable);
    unlink(shared, &mut batch, &link)?;
    Ok(Some(Removal { batch, changed: vec![Of::Blob(*digest)] }))
}

/// Takes a link away, unless the digest was pushed again since now. With it goes the right to set tags on it, so
/// tags that are looked for afterwards are all there are.
fn unlink(
    shared: &Shared,
    batch: &mut Batch,
    link: &<LinkRow as crate::meta::Row>::Key,
) -> Result<(), EngineError> {
    let holder = (link.2, link.0, link.1.clone());
    match shared.meta.get::<HolderRow>(&holder)? {
        Some(row) => batch.require_equal(&holder, &row),
        None => batch.require_absent::<HolderRow>(&holder),
    };
    batch.require_present::<LinkRow>(link).delete::<LinkRow>(link).delete::<HolderRow>(&holder);
    Ok(())
}

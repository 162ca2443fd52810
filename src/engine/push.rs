//! Owns the push of a manifest: what it must be, that its image has all it names, and the one durable batch by which
//! it becomes visible with its tags.
//! Must not know: HTTP, how blobs came.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::Engine;
use super::answers::Of;
use super::flight::Source;
use super::manifests::source;
use super::model::{EngineError, ErrorKind, Scope};
use super::publish::{Kept, link_to, promised};
use super::repository::LocalSpec;
use super::shared::Shared;
use crate::meta::{
    Batch, ContentRow, CopyRow, DocumentRow, EdgeRow, HolderRow, LinkRow, MetaError, MetaExt as _,
    ReferrerRow, RepositoryRow, TagRow,
};
use crate::names::manifest::{self, Descriptor, ManifestView};
use crate::names::{Algorithm, Digest, MediaType, Reference, Tag, mentions};

/// A manifest of more bytes is refused, as everywhere.
pub const MAX_MANIFEST: usize = 4 << 20;
/// With more bytes it is read where no other request waits for it.
const LARGE: usize = 64 << 10;
/// What others change at the same time is looked at again this often.
const TRIES: usize = 8;

/// A manifest on its way in.
#[derive(Clone, Debug)]
pub struct ManifestPush {
    pub reference: Reference,
    /// What the client says it is.
    pub media_type: Option<MediaType>,
    pub bytes: Bytes,
    /// To be set besides the reference.
    pub tags: Vec<Tag>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedManifest {
    pub digest: Digest,
    /// What it is about, if it says so; the referrers listing knows it from now on.
    pub subject: Option<Digest>,
    pub tags: Vec<Tag>,
}

/// A manifest that may become visible as soon as its image has all it names.
struct Checked {
    image: Source,
    policy: LocalSpec,
    digest: Digest,
    media_type: MediaType,
    bytes: Bytes,
    tags: Vec<Tag>,
    view: ManifestView,
    /// What stands in it besides what it names in the way of a known type.
    mentions: BTreeSet<Digest>,
}

/// What the image has of what a manifest names.
#[derive(Default)]
struct Needs {
    /// Cached copies, not yet ours.
    unkept: Vec<Digest>,
    /// The same of what the manifest only mentions, or says to live elsewhere. They need not be there, nor be whole.
    unkept_mentions: Vec<Digest>,
    /// What it has, and holds from now on for this manifest.
    linked: Vec<Digest>,
    /// What it does not have. What comes later is kept by the manifest's edges; what comes between the look and the
    /// batch might be taken by a cleanup that has not seen those edges, so the batch requires that nothing did.
    missing: Vec<Digest>,
    /// Those of its tags that are there.
    tags: BTreeMap<Tag, TagRow>,
    /// What they named until now: its grace begins when its last tag goes.
    left: BTreeMap<Digest, HolderRow>,
}

impl Engine {
    /// Makes a manifest visible, by its digest and its tags, when it is durable with all it needs. Runs to its end
    /// also where the caller stops waiting.
    pub async fn push_manifest(
        &self,
        scope: &Scope,
        push: ManifestPush,
    ) -> Result<PushedManifest, EngineError> {
        let checked = if push.bytes.len() > LARGE {
            let scope = scope.clone();
            self.shared.read(move |_| check(&scope, push)).await?
        } else {
            check(scope, push)?
        };
        let engine = self.clone();
        self.to_its_end(async move { engine.commit_manifest(checked).await }).await
    }

    async fn commit_manifest(&self, manifest: Checked) -> Result<PushedManifest, EngineError> {
        let manifest = std::sync::Arc::new(manifest);
        let (mut tries, mut missing) = (0, usize::MAX);
        while tries < TRIES {
            let looked = std::sync::Arc::clone(&manifest);
            let needs = self.shared.read(move |shared| looked.needs(shared)).await?;
            // Blobs may arrive all the while, but each of them only once.
            tries += usize::from(needs.missing.len() >= missing);
            missing = needs.missing.len();
            let _kept = self.keep_all(&needs, &manifest).await?;
            match self.shared.meta.apply(manifest.batch(&self.shared, &needs)).await {
                Ok(()) => return Ok(self.announce(&manifest)),
                // Something was removed or has arrived, or a tag was set, since it was looked at.
                Err(MetaError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let message = "what the manifest names, or its tag, is changed all the time; try again";
        Err(EngineError::new(ErrorKind::Overloaded, message))
    }

    /// Cached content among what it names must not be evicted any more, nor be lost with the power.
    async fn keep_all(&self, needs: &Needs, manifest: &Checked) -> Result<Vec<Kept>, EngineError> {
        let mut all = Vec::new();
        let mut lost = Vec::new();
        for digest in &needs.unkept {
            match self.keep(digest, manifest.image.repository).await? {
                Some(kept) => all.push(kept),
                None => lost.push(*digest),
            }
        }
        if !lost.is_empty() {
            return Err(unknown(lost));
        }
        for digest in &needs.unkept_mentions {
            all.extend(self.keep(digest, manifest.image.repository).await?);
        }
        Ok(all)
    }

    /// Nothing answered before this is true any more.
    fn announce(&self, manifest: &Checked) -> PushedManifest {
        let mut changed = vec![Of::Manifest(Reference::Digest(manifest.digest))];
        changed.extend(manifest.tags.iter().map(|tag| Of::Manifest(Reference::Tag(tag.clone()))));
        self.shared.answers.committed(manifest.image.repository, &manifest.image.image, changed);
        PushedManifest {
            digest: manifest.digest,
            subject: manifest.view.subject.as_ref().map(|subject| subject.digest),
            tags: manifest.tags.clone(),
        }
    }
}

/// What can be told of a manifest without looking at anything else. Reading a [`LARGE`] one takes milliseconds.
fn check(scope: &Scope, push: ManifestPush) -> Result<Checked, EngineError> {
    let ManifestPush { reference, media_type, bytes, mut tags } = push;
    let Some(local) = scope.repository.local() else {
        return Err(EngineError::new(ErrorKind::Unsupported, "only local repositories take pushes"));
    };
    if bytes.len() > MAX_MANIFEST {
        let message = format!("a manifest has at most {MAX_MANIFEST} bytes");
        return Err(EngineError::new(ErrorKind::TooLarge, message));
    }
    let digest = match reference {
        Reference::Digest(digest) => digest,
        Reference::Tag(tag) => {
            tags.push(tag);
            Digest::of(Algorithm::Sha256, &bytes)
        }
    };
    let found = Digest::of(digest.algorithm(), &bytes);
    if found != digest {
        let message = format!("the manifest that came is {found}, not {digest}");
        return Err(EngineError::new(ErrorKind::DigestMismatch, message));
    }
    if let Err(error) = std::str::from_utf8(&bytes) {
        // Where nobody reads it a parser may pass over it; the next client's may not.
        return Err(invalid(format!("the manifest is no UTF-8 text: {error}")));
    }
    let view = manifest::parse(&bytes).map_err(|error| invalid(error.to_string()))?;
    let mut mentions = mentions(&bytes).map_err(|error| invalid(error.to_string()))?;
    // The subject keeps what is about it, and not the other way round.
    for named in view.references.iter().chain(&view.subject) {
        mentions.remove(&named.digest);
    }
    let media_type = media_type_of(media_type, &view)?;
    check_shape(&media_type, &view)?;
    tags.sort();
    tags.dedup();
    let policy = local.clone();
    Ok(Checked { image: source(scope), policy, digest, media_type, bytes, tags, view, mentions })
}

/// The type that it will be served with. A document that can be read as two types is none.
fn media_type_of(given: Option<MediaType>, view: &ManifestView) -> Result<MediaType, EngineError> {
    if view.ambiguous {
        return Err(invalid(
            "the manifest has the parts of an image and of an index, so it could be read as two types",
        ));
    }
    if view.skipped > 0 {
        let message = format!(
            "{} of the manifest's descriptors have no size or no digest of a known algorithm (sha256, sha512)",
            view.skipped
        );
        return Err(invalid(message));
    }
    match (given, &view.media_type) {
        (Some(given), Some(own)) if given != *own => {
            Err(invalid(format!("the manifest calls itself {own}, but was sent as {given}")))
        }
        (Some(given), _) => Ok(given),
        (None, Some(own)) => Ok(own.clone()),
        (None, None) => {
            Err(invalid("the type of the manifest is not said: neither by Content-Type nor by mediaType"))
        }
    }
}

/// A document whose parts are those of another type is read by some as the one and by some as the other; and so are
/// two lengths of one digest.
fn check_shape(media_type: &MediaType, view: &ManifestView) -> Result<(), EngineError> {
    if media_type.is_index() && view.has_parts {
        return Err(invalid(format!("an {media_type} has no config and no layers")));
    }
    if media_type.is_image() && view.has_children {
        return Err(invalid(format!("an {media_type} has no manifests")));
    }
    let mut sizes = BTreeMap::new();
    for named in &view.references {
        if *sizes.entry(named.digest).or_insert(named.size) != named.size {
            return Err(invalid(format!("the manifest names {} with two sizes", named.digest)));
        }
    }
    Ok(())
}

impl Checked {
    /// All that it keeps where the image has it; with a descriptor what must be like that, and be there unless the
    /// repository takes sparse manifests. A subject may come later or never, and what lives elsewhere may as well.
    fn keeps(&self) -> BTreeMap<Digest, Option<&Descriptor>> {
        let (elsewhere, here): (Vec<_>, Vec<_>) =
            self.view.references.iter().partition(|named| named.external);
        let besides = self.mentions.iter().copied().chain(elsewhere.iter().map(|named| named.digest));
        let mut keeps: BTreeMap<_, _> = besides.map(|digest| (digest, None)).collect();
        keeps.extend(here.into_iter().map(|named| (named.digest, Some(named))));
        keeps
    }

    fn link_key(&self, digest: &Digest) -> <LinkRow as crate::meta::Row>::Key {
        (self.image.repository, self.image.image.clone(), *digest)
    }

    fn holder_key(&self, digest: &Digest) -> <HolderRow as crate::meta::Row>::Key {
        (*digest, self.image.repository, self.image.image.clone())
    }

    fn tag_key(&self, tag: &Tag) -> <TagRow as crate::meta::Row>::Key {
        (self.image.repository, self.image.image.clone(), tag.clone())
    }

    fn needs(&self, shared: &Shared) -> Result<Needs, EngineError> {
        let mut needs = Needs::default();
        let mut refused = Vec::new();
        for (digest, named) in self.keeps() {
            let Some(link) = shared.meta.get::<LinkRow>(&self.link_key(&digest))? else {
                refused.extend(named.filter(|_| !self.policy.sparse_manifests).map(|named| named.digest));
                needs.missing.push(digest);
                continue;
            };
            if let Some(named) = named
                && link.size != named.size
            {
                let message = format!("{digest} has {} bytes, the manifest says {}", link.size, named.size);
                return Err(EngineError::new(ErrorKind::SizeMismatch, message));
            }
            match state(shared, &digest)? {
                State::Kept => {}
                State::Unkept if named.is_none() => needs.unkept_mentions.push(digest),
                State::Unkept => needs.unkept.push(digest),
                // The image should have it, but its file was lost: it must come again.
                State::Gone => refused.extend(named.map(|named| named.digest)),
            }
            needs.linked.push(digest);
        }
        if !refused.is_empty() {
            return Err(unknown(refused));
        }
        self.look_at_tags(shared, &mut needs)?;
        Ok(needs)
    }

    fn look_at_tags(&self, shared: &Shared, needs: &mut Needs) -> Result<(), EngineError> {
        for tag in &self.tags {
            let Some(row) = shared.meta.get::<TagRow>(&self.tag_key(tag))? else { continue };
            if self.policy.immutable_tags && row.digest != self.digest {
                let message = format!("the tag {tag} is there, and tags of this repository are not moved");
                return Err(EngineError::new(ErrorKind::Denied, message));
            }
            if row.digest != self.digest
                && let Some(holder) = shared.meta.get::<HolderRow>(&self.holder_key(&row.digest))?
            {
                needs.left.insert(row.digest, holder);
            }
            needs.tags.insert(tag.clone(), row);
        }
        Ok(())
    }

    /// All of it or nothing.
    fn batch(&self, shared: &Shared, needs: &Needs) -> Batch {
        let now = shared.clock.wall().0;
        let size = self.bytes.len() as u64;
        let media_type = self.media_type.to_string();
        let mut batch = Batch::new(promised());
        let link = LinkRow { media_type: Some(media_type.clone()), size, stamp: None };
        link_to(shared, &mut batch, &self.image, &self.digest, &link);
        batch.put(&self.digest, &ContentRow { size, pushed: true });
        let document =
            DocumentRow { media_type: media_type.clone(), last_used_ms: now, bytes: self.bytes.clone() };
        batch.put(&self.digest, &document);
        for (digest, holder) in &needs.left {
            let key = self.holder_key(digest);
            batch.require_equal(&key, holder).put(&key, &HolderRow { stamp: shared.stamp() });
        }
        self.put_references(shared, &mut batch, needs);
        for tag in &self.tags {
            let key = self.tag_key(tag);
            if self.policy.immutable_tags {
                match needs.tags.get(tag) {
                    Some(row) => batch.require_equal(&key, row),
                    None => batch.require_absent::<TagRow>(&key),
                };
            }
            let row = TagRow { digest: self.digest, media_type: media_type.clone(), checked_ms: now, size };
            batch.put(&key, &row);
        }
        if let Some(subject) = &self.view.subject {
            let (repository, image) = (self.image.repository, self.image.image.clone());
            let row = ReferrerRow {
                media_type,
                size,
                artifact_type: self.view.artifact_type.clone(),
                annotations: self.view.annotations.clone(),
            };
            batch.put(&(repository, image, (subject.digest, self.digest)), &row);
        }
        batch
    }

    /// The edges are the same wherever the manifest is pushed, whatever the image has of them: all images share them.
    fn put_references(&self, shared: &Shared, batch: &mut Batch, needs: &Needs) {
        for digest in &needs.linked {
            batch.require_present::<LinkRow>(&self.link_key(digest));
            batch.put(&self.holder_key(digest), &HolderRow { stamp: shared.stamp() });
        }
        for digest in &needs.missing {
            batch.require_absent::<LinkRow>(&self.link_key(digest));
        }
        let named = self.view.references.iter().map(|named| EdgeRow {
            child: named.digest,
            size: named.size,
            media_type: named.media_type.as_ref().map(MediaType::to_string).unwrap_or_default(),
        });
        let mentioned = self.mentions.iter();
        let mentioned = mentioned.map(|child| EdgeRow { child: *child, size: 0, media_type: String::new() });
        for (position, edge) in (0_u32..).zip(named.chain(mentioned)) {
            batch.put(&(self.digest, position), &edge);
        }
        batch.require_present::<RepositoryRow>(&self.image.repository);
    }
}

/// What there is of something that is linked.
enum State {
    Kept,
    /// A cached copy, not yet ours.
    Unkept,
    Gone,
}

fn state(shared: &Shared, digest: &Digest) -> Result<State, EngineError> {
    let pushed = shared.meta.get::<ContentRow>(digest)?.is_some_and(|content| content.pushed);
    Ok(match shared.meta.get::<CopyRow>(digest)? {
        Some(copy) if copy.durable && pushed => State::Kept,
        Some(_) => State::Unkept,
        None if shared.meta.get::<DocumentRow>(digest)?.is_some() => State::Kept,
        None => State::Gone,
    })
}

fn invalid(message: impl Into<String>) -> EngineError {
    EngineError::new(ErrorKind::ManifestInvalid, message)
}

/// The same words whether nobody has them or somebody whose images the caller may not see.
fn unknown(digests: Vec<Digest>) -> EngineError {
    let message = "the image does not have all that the manifest names; push or mount it first";
    EngineError::new(ErrorKind::ReferencesUnknown(digests), message)
}

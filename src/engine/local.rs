//! Owns reading what a local repository holds: its rows are the truth, and no upstream is asked.
//! Must not know: HTTP, how content came here.

use std::time::Duration;

use super::Engine;
use super::answers::AnswerKey;
use super::blobs::{Copy, head};
use super::flight::{FlightKey, Source};
use super::manifests::source;
use super::model::{BlobAnswer, BlobWant, EngineError, ErrorKind, Manifest, Scope, Verdict, Want};
use super::shared::Shared;
use super::unneeded::micros;
use crate::cache::Event;
use crate::meta::{Batch, DocumentRow, Durability, HolderRow, LinkRow, MetaError, MetaExt as _, TagRow};
use crate::names::{Digest, MediaType, Reference};

/// A damaged file is set aside and looked for again, once; and what was pushed meanwhile is looked at again.
const TRIES: usize = 4;
/// Others change what was asked for.
const SOON: Duration = Duration::from_secs(1);
/// An operator must act before a lost blob comes back.
const RETRY: Duration = Duration::from_secs(60);

impl Engine {
    pub(super) async fn local_blob(
        &self,
        scope: &Scope,
        digest: &Digest,
        want: BlobWant,
        key: AnswerKey,
    ) -> Result<BlobAnswer, EngineError> {
        let local = |answer: BlobAnswer| BlobAnswer { verdict: Verdict::Local, ..answer };
        let noted = self.shared.answers.generation(key.repository, &key.image);
        let mut unreadable = false;
        for _ in 0..TRIES {
            let seen = self.see(scope, digest, None).await?;
            let Some(size) = seen.linked else { return Err(no_blob(scope)) };
            match seen.copy {
                Copy::Here(_) if want.want == Want::Head => {
                    if !self.hold(&source(scope), digest).await? {
                        continue;
                    }
                    return head(digest, size, want, Verdict::Local);
                }
                Copy::Here(blob) => {
                    if let Some(answer) = self.whole(digest, blob, want, &key, noted).await? {
                        return Ok(local(answer));
                    }
                    unreadable = true;
                }
                Copy::Absent if self.is_only_manifest(digest).await? => return Err(no_blob(scope)),
                Copy::Suspect => _ = self.verify(scope, digest).await?,
                Copy::Lost | Copy::Absent => return Err(self.lost_for_good(digest).await),
            }
        }
        if unreadable {
            // And on a disk that takes no changes it cannot be set aside.
            return Err(self.lost_for_good(digest).await);
        }
        // It lies here, or did a moment ago: whoever changes it is faster each time.
        let message = "the blob is changed all the time; try again";
        Err(EngineError::new(ErrorKind::Overloaded, message)
            .with_verdict(Verdict::Local)
            .with_retry_after(Some(SOON)))
    }

    /// Keeps cleanup from taking a link that somebody was just told of. `false`: it was taken, or pushed, meanwhile.
    async fn hold(&self, image: &Source, digest: &Digest) -> Result<bool, EngineError> {
        let key = (*digest, image.repository, image.image.clone());
        let held = key.clone();
        let link = (image.repository, image.image.clone(), *digest);
        let look = move |shared: &Shared| {
            let holder = shared.meta.get::<HolderRow>(&held)?;
            Ok((holder, shared.meta.get::<LinkRow>(&link)?.is_some()))
        };
        let holder = match self.shared.read(look).await? {
            (Some(holder), _) => holder,
            (None, linked) => return Ok(linked),
        };
        let stamp = self.shared.stamp();
        if stamp.saturating_sub(holder.stamp) < micros(self.shared.settings.collect_after / 2) {
            return Ok(true);
        }
        let mut batch = Batch::new(Durability::Relaxed);
        batch.require_equal(&key, &holder).put(&key, &HolderRow { stamp });
        match self.shared.meta.apply(batch).await {
            Ok(()) => Ok(true),
            Err(MetaError::Conflict(_)) => Ok(false),
            // A disk that takes no writes takes no cleanup either.
            Err(error) => {
                tracing::debug!(%error, "the use of a blob is not noted");
                Ok(true)
            }
        }
    }

    /// Whether a linked digest without a copy was never a blob, rather than one that was lost.
    async fn is_only_manifest(&self, digest: &Digest) -> Result<bool, EngineError> {
        let digest = *digest;
        self.shared.read(move |shared| Ok(shared.meta.get::<DocumentRow>(&digest)?.is_some())).await
    }

    /// Not 404: a client must not take it for something that never was.
    async fn lost_for_good(&self, digest: &Digest) -> EngineError {
        tracing::error!(%digest, "a pushed blob's file is missing or damaged: it must be pushed again");
        self.coordination.tell(Event::Lost { key: FlightKey::Content(*digest) }).await;
        let message = "the blob was pushed here, but its file is missing or damaged; push it again";
        EngineError::new(ErrorKind::Overloaded, message)
            .with_verdict(Verdict::Local)
            .with_retry_after(Some(RETRY))
    }

    pub(super) async fn local_manifest(
        &self,
        scope: &Scope,
        reference: &Reference,
        key: AnswerKey,
    ) -> Result<Manifest, EngineError> {
        let noted = self.shared.answers.generation(key.repository, &key.image);
        let (image, wanted) = (source(scope), reference.clone());
        let found = self.shared.read(move |shared| read_manifest(shared, &image, &wanted)).await?;
        let manifest = found.ok_or_else(|| no_manifest(scope, reference))?;
        self.remember(key, &manifest, None, noted);
        Ok(manifest)
    }
}

/// What a reference names in an image, from the rows alone.
pub(super) fn read_manifest(
    shared: &Shared,
    image: &Source,
    reference: &Reference,
) -> Result<Option<Manifest>, EngineError> {
    let Source { repository, image } = image;
    let digest = match reference {
        Reference::Digest(digest) => *digest,
        Reference::Tag(tag) => match shared.meta.get::<TagRow>(&(*repository, image.clone(), tag.clone()))? {
            Some(row) => row.digest,
            None => return Ok(None),
        },
    };
    let Some(link) = shared.meta.get::<LinkRow>(&(*repository, image.clone(), digest))? else {
        return Ok(None);
    };
    let Some(document) = shared.meta.get::<DocumentRow>(&digest)? else { return Ok(None) };
    // The same bytes may have been pushed elsewhere as another type.
    let media_type = link.media_type.unwrap_or(document.media_type);
    let size = document.bytes.len() as u64;
    let of_type = |media_type| Manifest {
        digest,
        media_type,
        size,
        bytes: document.bytes,
        verdict: Verdict::Local,
        warning: None,
    };
    Ok(MediaType::parse(&media_type).map(of_type))
}

fn no_blob(scope: &Scope) -> EngineError {
    let message = format!("{} of {} has no such blob", scope.image, scope.repository.name);
    EngineError::new(ErrorKind::BlobUnknown, message).with_verdict(Verdict::Local)
}

pub(super) fn no_manifest(scope: &Scope, reference: &Reference) -> EngineError {
    let what = match reference {
        Reference::Tag(_) => "tag",
        Reference::Digest(_) => "manifest",
    };
    let message = format!("{} of {} has no {what} {reference}", scope.image, scope.repository.name);
    EngineError::new(ErrorKind::ManifestUnknown, message).with_verdict(Verdict::Local)
}

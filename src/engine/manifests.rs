//! Owns reading manifests by digest: from memory, from here, or fetched.
//! Must not know: HTTP, how flights are scheduled, how long a tag is fresh.

use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::actor::{Join, Joined};
use super::answers::{Answer, AnswerKey, Fresh, Generation, Of, Told};
use super::errors::Missed;
use super::flight::{FlightKey, Outcome, Pointer, Source, Task};
use super::model::{EngineError, ErrorKind, Manifest, Scope, Verdict, Want};
use super::shared::Shared;
use super::tags::Until;
use crate::cache::Refusal;
use crate::meta::{CopyRow, DocumentRow, LinkRow, MetaExt as _};
use crate::names::{Digest, ImageName, MediaType, Reference, RepositoryId, manifest};

impl Engine {
    /// A manifest by tag or digest.
    pub async fn manifest(
        &self,
        scope: &Scope,
        reference: &Reference,
        want: Want,
    ) -> Result<Manifest, EngineError> {
        if let Some(found) = self.manifest_at_once(scope, reference) {
            return Ok(found.manifest());
        }
        let key = answer_key(scope, reference.clone());
        let Some(remote) = scope.repository.remote() else {
            return self.local_manifest(scope, reference, key).await;
        };
        match reference {
            Reference::Tag(tag) => self.manifest_by_stored_tag(scope, remote, tag, want, key).await,
            Reference::Digest(digest) => {
                Ok(self.manifest_by_stored_digest(scope, digest, Verdict::Hit, key, None).await?)
            }
        }
    }

    /// For the order in which cached ones go.
    pub(super) fn touch_manifest(&self, digest: &Digest) {
        self.shared.touched.document(*digest, self.shared.clock.wall());
    }

    /// `verdict` is what it is called if it lies here; if it must be fetched it is a miss all the same. The upstream is
    /// waited for `until` then.
    pub(super) async fn manifest_by_digest(
        &self,
        scope: &Scope,
        digest: &Digest,
        verdict: Verdict,
        until: Option<Until>,
    ) -> Result<Manifest, Missed> {
        let key = answer_key(scope, Reference::Digest(*digest));
        if let Some(answer) = self.remembered(scope, &key) {
            return Ok(Manifest { verdict, ..from_memory(&answer) });
        }
        self.manifest_by_stored_digest(scope, digest, verdict, key, until).await
    }

    async fn manifest_by_stored_digest(
        &self,
        scope: &Scope,
        digest: &Digest,
        verdict: Verdict,
        key: AnswerKey,
        until: Option<Until>,
    ) -> Result<Manifest, Missed> {
        let noted = self.shared.answers.generation(key.repository, &key.image);
        let Some(manifest) = self.stored(scope, digest, verdict).await? else {
            return self.fetched(scope, Reference::Digest(*digest), until).await;
        };
        // While the upstream fails, it must show first that the rest of the image can be had.
        if scope.repository.is_failing(self.shared.clock.now())
            && let Some(missing) = self.first_missing(&manifest).await?
        {
            self.prove(scope, &missing, until).await.map_err(incomplete)?;
        }
        self.remember(key, &manifest, None, noted);
        Ok(manifest)
    }

    pub(super) async fn fetched(
        &self,
        scope: &Scope,
        reference: Reference,
        until: Option<Until>,
    ) -> Result<Manifest, Missed> {
        match self.fly(scope, Task::Fetch(reference), until).await? {
            Joined::Document { outcome: Outcome::Fetched(manifest), first } => {
                let verdict = if first { Verdict::Miss } else { Verdict::Joined };
                Ok(Manifest { verdict, ..manifest })
            }
            Joined::Refused { why, story } => {
                Err(Missed::of(why, story.as_ref(), ErrorKind::ManifestUnknown))
            }
            _ => Err(lost_answer().into()),
        }
    }

    /// From the metadata, if this image may show it.
    pub(super) async fn stored(
        &self,
        scope: &Scope,
        digest: &Digest,
        verdict: Verdict,
    ) -> Result<Option<Manifest>, EngineError> {
        let Source { repository, image } = source(scope);
        let link = (repository, image, *digest);
        let found = self.shared.read(move |shared| shared.linked_document(&link)).await?;
        if found.is_some() {
            self.touch_manifest(digest);
        }
        Ok(found.map(|manifest| Manifest { verdict, ..manifest }))
    }

    /// Of an image's config and layers the first that does not lie here. Some clients choose a mirror by the
    /// manifest and never fall back afterwards. An index misses nothing; its children are judged one by one.
    pub(super) async fn first_missing(&self, manifest: &Manifest) -> Result<Option<Digest>, EngineError> {
        let bytes = manifest.bytes.clone();
        self.shared
            .read(move |shared| {
                let Ok(view) = manifest::parse(&bytes) else { return Ok(None) };
                if view.is_index {
                    return Ok(None);
                }
                for named in view.references.iter().filter(|named| !named.external) {
                    if shared.meta.get::<CopyRow>(&named.digest)?.is_none() {
                        return Ok(Some(named.digest));
                    }
                }
                Ok(None)
            })
            .await
    }

    pub(super) fn remember(
        &self,
        key: AnswerKey,
        manifest: &Manifest,
        fresh: Option<Fresh>,
        noted: Generation,
    ) {
        if manifest.bytes.is_empty() {
            return;
        }
        let answer = Arc::new(Answer {
            digest: manifest.digest,
            media_type: Some(manifest.media_type.clone()),
            bytes: manifest.bytes.clone(),
            fresh,
            told: Told::default(),
        });
        self.shared.answers.insert(key, answer, noted);
    }

    /// Waits for a pointer flight of this scope, but no longer than `until`; the flight goes on for others.
    pub(super) async fn fly(
        &self,
        scope: &Scope,
        task: Task,
        until: Option<Until>,
    ) -> Result<Joined, EngineError> {
        let source = source(scope);
        let negative = scope.repository.remote().map_or(Duration::ZERO, |remote| remote.spec.negative_ttl);
        let key = FlightKey::Pointer(Arc::new(Pointer { source: source.clone(), task }));
        let join = |deadline| {
            let (key, source) = (key.clone(), source.clone());
            self.coordination.join(Join { key, source, proven: true, negative, deadline })
        };
        let Some(until) = until else { return Ok(join(None).await?) };
        let joined = join(Some(until.at.since(self.shared.clock.now()))).await?;
        let is_late = matches!(joined, Joined::Refused { why: Refusal::Late, .. });
        if is_late && !self.is_up(scope, &until).await? { Ok(join(None).await?) } else { Ok(joined) }
    }
}

impl Shared {
    /// A manifest from the metadata, if this image may show it. Blocks.
    pub(super) fn linked_document(
        &self,
        link: &(RepositoryId, ImageName, Digest),
    ) -> Result<Option<Manifest>, EngineError> {
        if self.meta.get::<LinkRow>(link)?.is_none() {
            return Ok(None);
        }
        let Some(document) = self.meta.get::<DocumentRow>(&link.2)? else { return Ok(None) };
        Ok(MediaType::parse(&document.media_type).map(|media_type| Manifest {
            digest: link.2,
            media_type,
            size: document.bytes.len() as u64,
            bytes: document.bytes,
            verdict: Verdict::Miss,
            warning: None,
        }))
    }
}

pub(super) fn source(scope: &Scope) -> Source {
    Source { repository: scope.repository.id, image: scope.image.clone() }
}

pub(super) fn answer_key(scope: &Scope, reference: Reference) -> AnswerKey {
    let Source { repository, image } = source(scope);
    AnswerKey { repository, image, of: Of::Manifest(reference) }
}

pub(super) fn from_memory(answer: &Answer) -> Manifest {
    let fallback = || MediaType::parse(MediaType::OCI_MANIFEST).expect("a constant media type");
    Manifest {
        digest: answer.digest,
        media_type: answer.media_type.clone().unwrap_or_else(fallback),
        size: answer.bytes.len() as u64,
        bytes: answer.bytes.clone(),
        verdict: Verdict::Hit,
        warning: None,
    }
}

pub(super) fn lost_answer() -> EngineError {
    EngineError::new(ErrorKind::Internal, "a flight brought back something else than it was sent for")
}

/// The manifest is here, and a layer is neither here nor to be had: to the client, the upstream's failure.
fn incomplete(error: EngineError) -> EngineError {
    let kind = if error.kind == ErrorKind::BlobUnknown { ErrorKind::UpstreamUnavailable } else { error.kind };
    let message = format!("not all of this image's layers are cached, and {}", error.message);
    EngineError { kind, message, ..error }
}

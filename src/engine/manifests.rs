//! Owns reading manifests of remotes: fresh from here, revalidated, fetched, or stale when the upstream fails.
//! Must not know: HTTP, how flights are scheduled.

use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::actor::{Join, Joined};
use super::answers::{Answer, AnswerKey, Generation, Of};
use super::errors::refused;
use super::flight::{FlightKey, Outcome, Pointer, Resolution, Source, Task};
use super::model::{EngineError, ErrorKind, Manifest, Scope, Verdict, Want};
use super::repository::Remote;
use super::shared::Shared;
use crate::cache::{Failure, Freshness, Refusal, judge};
use crate::clock::Millis;
use crate::meta::{Batch, CopyRow, DocumentRow, Durability, LinkRow, MetaExt as _, TagRow};
use crate::names::{Digest, ImageName, MediaType, Reference, RepositoryId, Tag, manifest};

/// How long a client waits for the upstream when something stale could be served instead.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is known of a tag, and for how long it has been so.
struct Known {
    resolution: Resolution,
    age: Duration,
}

impl Engine {
    /// A manifest by tag or digest.
    pub async fn manifest(
        &self,
        scope: &Scope,
        reference: &Reference,
        want: Want,
    ) -> Result<Manifest, EngineError> {
        let Some(remote) = scope.repository.remote() else {
            return Err(
                EngineError::new(ErrorKind::ManifestUnknown, "manifest unknown").with_verdict(Verdict::Local)
            );
        };
        match reference {
            Reference::Tag(tag) => self.manifest_by_tag(scope, remote, tag, want).await,
            Reference::Digest(digest) => self.manifest_by_digest(scope, digest, Verdict::Hit).await,
        }
    }

    async fn manifest_by_tag(
        &self,
        scope: &Scope,
        remote: &Remote,
        tag: &Tag,
        want: Want,
    ) -> Result<Manifest, EngineError> {
        let key = answer_key(scope, Reference::Tag(tag.clone()));
        if let Some(answer) = self.shared.answers.get(&key, self.shared.clock.now()) {
            return Ok(from_memory(&answer));
        }
        let noted = self.shared.answers.generation(key.repository, &key.image);
        let Some(known) = self.known(scope, tag).await? else {
            return self.cold(scope, tag, want).await;
        };
        let spec = &remote.spec;
        match judge(known.age, spec.tag_ttl, spec.stale_if_error) {
            Freshness::Fresh => {
                let left = spec.tag_ttl.saturating_sub(known.age);
                let manifest = self.named(scope, &known.resolution, want, Verdict::Hit).await?;
                self.remember(key, &manifest, Some(left), noted);
                Ok(manifest)
            }
            freshness => {
                let may_be_stale = freshness == Freshness::Stale;
                self.revalidate(scope, tag, known, want, may_be_stale).await
            }
        }
    }

    /// The newer of what the metadata and the last HEAD say.
    async fn known(&self, scope: &Scope, tag: &Tag) -> Result<Option<Known>, EngineError> {
        let source = source(scope);
        let key = (source.repository, source.image.clone(), tag.clone());
        let row = self.shared.read(move |shared| Ok(shared.meta.get::<TagRow>(&key)?)).await?;
        let now = self.shared.clock.now();
        let wall = self.shared.clock.wall().0;
        let stored = row.and_then(|row| {
            let media_type = MediaType::parse(&row.media_type)?;
            let age = Duration::from_millis(wall.saturating_sub(row.checked_ms));
            Some(Known { resolution: Resolution { digest: row.digest, media_type, size: row.size }, age })
        });
        let seen = self
            .shared
            .resolutions
            .get(&source, tag)
            .map(|seen| Known { age: now.since(seen.at), resolution: seen.resolution });
        Ok(match (stored, seen) {
            (Some(stored), Some(seen)) => Some(if seen.age < stored.age { seen } else { stored }),
            (stored, seen) => stored.or(seen),
        })
    }

    /// Nothing is known of the tag. A HEAD costs the upstream a HEAD, a GET a GET.
    async fn cold(&self, scope: &Scope, tag: &Tag, want: Want) -> Result<Manifest, EngineError> {
        let task = match want {
            Want::Head => Task::Resolve(tag.clone()),
            Want::Body => Task::Fetch(Reference::Tag(tag.clone())),
        };
        match self.fly(scope, task, None).await? {
            Joined::Document { outcome, first } => {
                let verdict = if first { Verdict::Miss } else { Verdict::Joined };
                self.landed(scope, tag, outcome, want, verdict).await
            }
            Joined::Refused { why, story } => Err(refused(why, story.as_ref(), ErrorKind::ManifestUnknown)),
            _ => Err(lost_answer()),
        }
    }

    async fn revalidate(
        &self,
        scope: &Scope,
        tag: &Tag,
        known: Known,
        want: Want,
        may_be_stale: bool,
    ) -> Result<Manifest, EngineError> {
        let deadline = may_be_stale.then_some(PATIENCE);
        let error = match self.fly(scope, Task::Resolve(tag.clone()), deadline).await {
            Ok(Joined::Document { outcome, .. }) => {
                let unchanged = matches!(&outcome,
                    Outcome::Resolved(now) if now.digest == known.resolution.digest);
                let verdict = if unchanged { Verdict::Revalidated } else { Verdict::Miss };
                return self.landed(scope, tag, outcome, want, verdict).await;
            }
            Ok(Joined::Refused { why, story }) => {
                let error = refused(why, story.as_ref(), ErrorKind::ManifestUnknown);
                if let Refusal::Failed(Failure::NotFound) | Refusal::Remembered(Failure::NotFound) = why {
                    // Gone upstream: nothing stale may bring it back.
                    self.forget_tag(scope, tag).await?;
                    return Err(error);
                }
                error
            }
            Ok(_) => lost_answer(),
            Err(error) => error,
        };
        if !may_be_stale {
            return Err(error);
        }
        self.stale(scope, &known, error).await
    }

    /// What a flight found out about the tag.
    async fn landed(
        &self,
        scope: &Scope,
        tag: &Tag,
        outcome: Outcome,
        want: Want,
        verdict: Verdict,
    ) -> Result<Manifest, EngineError> {
        match outcome {
            Outcome::Resolved(resolution) => {
                let now = self.shared.clock.now();
                self.shared.resolutions.note(&source(scope), tag, &resolution, now);
                self.named(scope, &resolution, want, verdict).await
            }
            Outcome::Fetched(manifest) => Ok(Manifest { verdict, ..manifest }),
            _ => Err(lost_answer()),
        }
    }

    /// The manifest that a tag names; for a HEAD what is known of it is enough.
    async fn named(
        &self,
        scope: &Scope,
        resolution: &Resolution,
        want: Want,
        verdict: Verdict,
    ) -> Result<Manifest, EngineError> {
        match want {
            Want::Body => self.manifest_by_digest(scope, &resolution.digest, verdict).await,
            Want::Head => Ok(Manifest {
                digest: resolution.digest,
                media_type: resolution.media_type.clone(),
                size: resolution.size,
                bytes: bytes::Bytes::new(),
                verdict,
                warning: None,
            }),
        }
    }

    /// `verdict` is what it is called if it lies here; if it must be fetched it is a miss all the same.
    async fn manifest_by_digest(
        &self,
        scope: &Scope,
        digest: &Digest,
        verdict: Verdict,
    ) -> Result<Manifest, EngineError> {
        let key = answer_key(scope, Reference::Digest(*digest));
        if let Some(answer) = self.shared.answers.get(&key, self.shared.clock.now()) {
            return Ok(Manifest { verdict, ..from_memory(&answer) });
        }
        let noted = self.shared.answers.generation(key.repository, &key.image);
        if let Some(manifest) = self.stored(scope, digest, verdict).await? {
            let failing = scope.repository.is_failing(self.shared.clock.now());
            if failing && !self.is_complete(&manifest).await? {
                return Err(incomplete());
            }
            self.remember(key, &manifest, None, noted);
            return Ok(manifest);
        }
        let task = Task::Fetch(Reference::Digest(*digest));
        match self.fly(scope, task, None).await? {
            Joined::Document { outcome: Outcome::Fetched(manifest), first } => {
                let verdict = if first { Verdict::Miss } else { Verdict::Joined };
                Ok(Manifest { verdict, ..manifest })
            }
            Joined::Refused { why, story } => Err(refused(why, story.as_ref(), ErrorKind::ManifestUnknown)),
            _ => Err(lost_answer()),
        }
    }

    /// From the metadata, if this image may show it.
    async fn stored(
        &self,
        scope: &Scope,
        digest: &Digest,
        verdict: Verdict,
    ) -> Result<Option<Manifest>, EngineError> {
        let Source { repository, image } = source(scope);
        let link = (repository, image, *digest);
        let manifest = self.shared.read(move |shared| document(shared, &link, verdict)).await?;
        self.shared.touched.document(*digest, self.shared.clock.wall());
        Ok(manifest)
    }

    /// The upstream does not answer well: what is here, if a client can be served all of it.
    async fn stale(&self, scope: &Scope, known: &Known, error: EngineError) -> Result<Manifest, EngineError> {
        let Some(manifest) = self.stored(scope, &known.resolution.digest, Verdict::Stale).await? else {
            return Err(error);
        };
        if !self.is_complete(&manifest).await? {
            return Err(error);
        }
        let minutes = known.age.as_secs() / 60;
        tracing::info!(repository = %scope.repository.name, image = %scope.image, minutes, why = %error.message,
            "served stale");
        let warning = format!("stale: the upstream does not answer; confirmed {minutes} minutes ago");
        Ok(Manifest { warning: Some(warning), ..manifest })
    }

    /// Whether an image's config and layers all lie here. Some clients choose a mirror by the manifest and never
    /// fall back afterwards. An index is complete by itself; its children are judged one by one.
    async fn is_complete(&self, manifest: &Manifest) -> Result<bool, EngineError> {
        let Ok(view) = manifest::parse(&manifest.bytes) else { return Ok(true) };
        if view.is_index {
            return Ok(true);
        }
        let needed: Vec<Digest> =
            view.references.iter().filter(|named| !named.external).map(|named| named.digest).collect();
        self.shared
            .read(move |shared| {
                for digest in &needed {
                    if shared.meta.get::<CopyRow>(digest)?.is_none() {
                        return Ok(false);
                    }
                }
                Ok(true)
            })
            .await
    }

    async fn forget_tag(&self, scope: &Scope, tag: &Tag) -> Result<(), EngineError> {
        let Source { repository, image } = source(scope);
        self.shared.resolutions.forget(&source(scope), tag);
        let mut batch = Batch::new(Durability::Relaxed);
        batch.delete::<TagRow>(&(repository, image.clone(), tag.clone()));
        self.shared.meta.apply(batch).await?;
        self.shared.answers.committed(repository, &image, [Of::Manifest(Reference::Tag(tag.clone()))]);
        Ok(())
    }

    fn remember(&self, key: AnswerKey, manifest: &Manifest, left: Option<Duration>, noted: Generation) {
        if manifest.bytes.is_empty() {
            return;
        }
        let until: Option<Millis> = left.map(|left| self.shared.clock.now().after(left));
        let answer = Answer {
            digest: manifest.digest,
            media_type: Some(manifest.media_type.clone()),
            bytes: manifest.bytes.clone(),
            until,
        };
        self.shared.answers.insert(key, answer, noted);
    }

    /// Waits for a pointer flight of this scope.
    pub(super) async fn fly(
        &self,
        scope: &Scope,
        task: Task,
        deadline: Option<Duration>,
    ) -> Result<Joined, EngineError> {
        let source = source(scope);
        let negative = scope.repository.remote().map_or(Duration::ZERO, |remote| remote.spec.negative_ttl);
        let pointer = Arc::new(Pointer { source: source.clone(), task });
        let key = FlightKey::Pointer(pointer);
        let join = Join { key, source, proven: true, negative, deadline };
        Ok(self.coordination.join(join).await?)
    }
}

/// A manifest from the metadata, if this image may show it.
pub(super) fn document(
    shared: &Shared,
    link: &(RepositoryId, ImageName, Digest),
    verdict: Verdict,
) -> Result<Option<Manifest>, EngineError> {
    if shared.meta.get::<LinkRow>(link)?.is_none() {
        return Ok(None);
    }
    let document = shared.meta.get::<DocumentRow>(&link.2)?;
    Ok(document.and_then(|document| {
        Some(Manifest {
            digest: link.2,
            media_type: MediaType::parse(&document.media_type)?,
            size: document.bytes.len() as u64,
            bytes: document.bytes,
            verdict,
            warning: None,
        })
    }))
}

pub(super) fn source(scope: &Scope) -> Source {
    Source { repository: scope.repository.id, image: scope.image.clone() }
}

fn answer_key(scope: &Scope, reference: Reference) -> AnswerKey {
    let Source { repository, image } = source(scope);
    AnswerKey { repository, image, of: Of::Manifest(reference) }
}

fn from_memory(answer: &Answer) -> Manifest {
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

fn lost_answer() -> EngineError {
    EngineError::new(ErrorKind::Internal, "a flight brought back something else than it was sent for")
}

fn incomplete() -> EngineError {
    EngineError::new(
        ErrorKind::UpstreamUnavailable,
        "the upstream does not answer, and not all of this image's layers are cached",
    )
}

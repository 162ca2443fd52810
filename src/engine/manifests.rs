//! Owns reading manifests of remotes: fresh from here, revalidated, fetched, or stale when the upstream fails.
//! Must not know: HTTP, how flights are scheduled.

use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::actor::{Join, Joined};
use super::answers::{Answer, AnswerKey, Beside, Fresh, Generation, Of, Remembered, Told};
use super::errors::refused;
use super::flight::{FlightKey, Outcome, Pointer, Resolution, Source, Task};
use super::model::{EngineError, ErrorKind, Manifest, Scope, Verdict, Want};
use super::repository::Remote;
use super::shared::Shared;
use crate::cache::{Failure, Freshness, Refusal, judge};
use crate::meta::{Batch, CopyRow, DocumentRow, Durability, LinkRow, MetaExt as _, TagRow};
use crate::names::{Digest, ImageName, MediaType, Reference, RepositoryId, Tag, manifest};
use crate::planted::Bug;

/// How long a client waits for the upstream when something stale could be served instead.
const PATIENCE: Duration = Duration::from_secs(2);

/// The same while the upstream is known to fail: time enough for it to show that it is back.
const IMPATIENCE: Duration = Duration::from_millis(250);

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
                self.manifest_by_stored_digest(scope, digest, Verdict::Hit, key).await
            }
        }
    }

    /// The same, where it is in memory and fresh; `None` where it must be waited for.
    pub fn manifest_at_once(&self, scope: &Scope, reference: &Reference) -> Option<Remembered> {
        let answer = self.remembered(scope, &answer_key(scope, reference.clone()))?;
        let verdict = if scope.repository.remote().is_some() { Verdict::Hit } else { Verdict::Local };
        Some(Remembered::new(answer, verdict))
    }

    async fn manifest_by_stored_tag(
        &self,
        scope: &Scope,
        remote: &Remote,
        tag: &Tag,
        want: Want,
        key: AnswerKey,
    ) -> Result<Manifest, EngineError> {
        let noted = self.shared.answers.generation(key.repository, &key.image);
        let Some(known) = self.known(scope, tag).await? else {
            return self.cold(scope, tag, want).await;
        };
        let spec = &remote.spec;
        match judge(known.age, spec.tag_ttl, spec.stale_if_error) {
            Freshness::Fresh => {
                let until = self.shared.clock.now().after(spec.tag_ttl.saturating_sub(known.age));
                let manifest = self.named(scope, tag, &known.resolution, want, Verdict::Hit).await?;
                self.remember(key, &manifest, Some(Fresh { until, tag_ttl: spec.tag_ttl }), noted);
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
            // From the future: the clock was set back since. Then it is as old as it seems young.
            let age = if Bug::FutureTagFresh.is_planted() {
                wall.saturating_sub(row.checked_ms)
            } else {
                wall.abs_diff(row.checked_ms)
            };
            let age = Duration::from_millis(age);
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

    /// Nothing is known of the tag. A HEAD tells its digest, and the GET is by digest, so that clients that ask by
    /// tag and those that ask by digest share it: GETs are what registries count.
    async fn cold(&self, scope: &Scope, tag: &Tag, want: Want) -> Result<Manifest, EngineError> {
        match self.fly(scope, Task::Resolve(tag.clone()), None).await? {
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
        let failing = scope.repository.is_failing(self.shared.clock.now());
        let deadline = may_be_stale.then_some(if failing { IMPATIENCE } else { PATIENCE });
        let error = match self.fly(scope, Task::Resolve(tag.clone()), deadline).await {
            Ok(Joined::Document { outcome, .. }) => {
                let unchanged = matches!(&outcome,
                    Outcome::Resolved(now) if now.digest == known.resolution.digest);
                let verdict = if unchanged { Verdict::Revalidated } else { Verdict::Miss };
                match self.landed(scope, tag, outcome, want, verdict).await {
                    Err(error) if error.kind != ErrorKind::ManifestUnknown => error,
                    told => return told,
                }
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
            Outcome::Resolved(resolution) => self.named(scope, tag, &resolution, want, verdict).await,
            Outcome::Fetched(manifest) => Ok(Manifest { verdict, ..manifest }),
            _ => Err(lost_answer()),
        }
    }

    /// The manifest that a tag names; for a HEAD what is known of it is enough.
    async fn named(
        &self,
        scope: &Scope,
        tag: &Tag,
        resolution: &Resolution,
        want: Want,
        verdict: Verdict,
    ) -> Result<Manifest, EngineError> {
        match want {
            Want::Body => match self.manifest_by_digest(scope, &resolution.digest, verdict).await {
                // The HEAD lied, or the tag moved and its old manifest went at once: the tag itself decides.
                Err(error) if error.kind == ErrorKind::ManifestUnknown => {
                    self.fetched(scope, Reference::Tag(tag.clone())).await
                }
                told => told,
            },
            Want::Head => {
                // A client that has it already asks for no more.
                self.touch_manifest(&resolution.digest);
                Ok(Manifest {
                    digest: resolution.digest,
                    media_type: resolution.media_type.clone(),
                    size: resolution.size,
                    bytes: bytes::Bytes::new(),
                    verdict,
                    warning: None,
                })
            }
        }
    }

    /// For the order in which cached ones go.
    fn touch_manifest(&self, digest: &Digest) {
        self.shared.touched.document(*digest, self.shared.clock.wall());
    }

    /// `verdict` is what it is called if it lies here; if it must be fetched it is a miss all the same.
    async fn manifest_by_digest(
        &self,
        scope: &Scope,
        digest: &Digest,
        verdict: Verdict,
    ) -> Result<Manifest, EngineError> {
        let key = answer_key(scope, Reference::Digest(*digest));
        if let Some(answer) = self.remembered(scope, &key) {
            return Ok(Manifest { verdict, ..from_memory(&answer) });
        }
        self.manifest_by_stored_digest(scope, digest, verdict, key).await
    }

    async fn manifest_by_stored_digest(
        &self,
        scope: &Scope,
        digest: &Digest,
        verdict: Verdict,
        key: AnswerKey,
    ) -> Result<Manifest, EngineError> {
        let noted = self.shared.answers.generation(key.repository, &key.image);
        let Some(manifest) = self.stored(scope, digest, verdict).await? else {
            return self.fetched(scope, Reference::Digest(*digest)).await;
        };
        // While the upstream fails, it must show first that the rest of the image can be had.
        if scope.repository.is_failing(self.shared.clock.now())
            && let Some(missing) = self.first_missing(&manifest).await?
        {
            self.prove(scope, &missing).await.map_err(incomplete)?;
        }
        self.remember(key, &manifest, None, noted);
        Ok(manifest)
    }

    async fn fetched(&self, scope: &Scope, reference: Reference) -> Result<Manifest, EngineError> {
        match self.fly(scope, Task::Fetch(reference), None).await? {
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
        let found = self.shared.read(move |shared| shared.linked_document(&link)).await?;
        if found.is_some() {
            self.touch_manifest(digest);
        }
        Ok(found.map(|manifest| Manifest { verdict, ..manifest }))
    }

    /// The upstream does not answer well: what is here, if a client can be served all of it.
    async fn stale(&self, scope: &Scope, known: &Known, error: EngineError) -> Result<Manifest, EngineError> {
        let Some(manifest) = self.stored(scope, &known.resolution.digest, Verdict::Stale).await? else {
            return Err(error);
        };
        if self.first_missing(&manifest).await?.is_some() {
            return Err(error);
        }
        let minutes = known.age.as_secs() / 60;
        tracing::info!(repository = %scope.repository.name, image = %scope.image, minutes, why = %error.message,
            "served stale");
        let warning = format!("stale: the upstream does not answer; confirmed {minutes} minutes ago");
        Ok(Manifest { warning: Some(warning), ..manifest })
    }

    /// Of an image's config and layers the first that does not lie here. Some clients choose a mirror by the
    /// manifest and never fall back afterwards. An index misses nothing; its children are judged one by one.
    async fn first_missing(&self, manifest: &Manifest) -> Result<Option<Digest>, EngineError> {
        let Ok(view) = manifest::parse(&manifest.bytes) else { return Ok(None) };
        if view.is_index {
            return Ok(None);
        }
        let needed: Vec<Digest> =
            view.references.iter().filter(|named| !named.external).map(|named| named.digest).collect();
        self.shared
            .read(move |shared| {
                for digest in needed {
                    if shared.meta.get::<CopyRow>(&digest)?.is_none() {
                        return Ok(Some(digest));
                    }
                }
                Ok(None)
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

    /// From memory, unless the upstream fails: then it is looked at first whether all of the image is here. Nor
    /// where the freshness of a tag was reckoned by a policy that has changed.
    fn remembered(&self, scope: &Scope, key: &AnswerKey) -> Option<Arc<Answer>> {
        let now = self.shared.clock.now();
        if scope.repository.is_failing(now) {
            return None;
        }
        let answer = self.shared.answers.get(key, now)?;
        let tag_ttl = scope.repository.remote().map(|remote| remote.spec.tag_ttl);
        if answer.fresh.is_some_and(|fresh| Some(fresh.tag_ttl) != tag_ttl) {
            return None;
        }
        if tag_ttl.is_some() && answer.is_news(now) {
            self.touch_manifest(&answer.digest);
        }
        Some(answer)
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
            beside: Beside::default(),
            told: Told::default(),
        });
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

fn lost_answer() -> EngineError {
    EngineError::new(ErrorKind::Internal, "a flight brought back something else than it was sent for")
}

/// The manifest is here, and a layer is neither here nor to be had: to the client, the upstream's failure.
fn incomplete(error: EngineError) -> EngineError {
    let kind = if error.kind == ErrorKind::BlobUnknown { ErrorKind::UpstreamUnavailable } else { error.kind };
    let message = format!("not all of this image's layers are cached, and {}", error.message);
    EngineError { kind, message, ..error }
}

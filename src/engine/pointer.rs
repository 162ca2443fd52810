//! Owns pointer flights: what a tag names, a manifest's bytes, a proof, a verification, a listing page.
//! Must not know: who waits for the result.

use std::sync::Arc;
use std::time::Duration;

use super::answers::Of;
use super::attempts::{self, Attempts, Verdict as Tried};
use super::flight::{ListingPage, Outcome, Pointer, Resolution, Source, Story, Task};
use super::guards::FillGuard;
use super::model::{EngineError, Manifest, Verdict};
use super::repository::Repository;
use super::shared::Shared;
use super::verify::verify;
use crate::cache::Failure;
use crate::meta::{Batch, DocumentRow, Durability, LinkRow, MetaError, MetaExt as _, RepositoryRow, TagRow};
use crate::names::manifest;
use crate::names::{Algorithm, Digest, MediaType, Reference, Tag};
use crate::upstream::{Kind, Listing, ManifestBody, Page, Upstream, UpstreamError};

/// A flight that landed this short a time ago answers the next one too.
const JUST_NOW: Duration = Duration::from_secs(1);

/// Why a pointer flight brought nothing.
enum Ended {
    Upstream(UpstreamError),
    /// The bytes do not match the digest they were asked for by.
    Mismatch(String),
    Here(EngineError),
}

impl From<UpstreamError> for Ended {
    fn from(error: UpstreamError) -> Self {
        Self::Upstream(error)
    }
}

impl From<EngineError> for Ended {
    fn from(error: EngineError) -> Self {
        Self::Here(error)
    }
}

/// Does what the pointer asks, and reports it.
pub(super) async fn run(shared: Arc<Shared>, guard: FillGuard, pointer: Arc<Pointer>) {
    let Some(repository) = shared.repositories.by_id(pointer.source.repository) else {
        return guard.failed(Failure::NotFound, Some(told("the repository was removed meanwhile")));
    };
    let stopping = shared.tasks.stopping();
    let flight = Flight { shared, repository, source: &pointer.source };
    let ended = tokio::select! {
        biased;
        // A silent upstream must not hold up the stop.
        () = stopping => return guard.failed(Failure::Died, Some(told("the server is stopping"))),
        ended = flight.perform(&pointer.task) => ended,
    };
    match ended {
        Ok(outcome) => guard.done(0, Some(outcome)),
        Err(Ended::Upstream(error)) => {
            guard.failed(attempts::failure(&error), Some(attempts::story(&error)));
        }
        Err(Ended::Mismatch(message)) => guard.failed(Failure::Mismatch, Some(told(&message))),
        Err(Ended::Here(error)) => {
            error.report();
            guard.failed(Failure::Died, Some(told(&error.message)));
        }
    }
}

fn told(message: &str) -> Story {
    Story { message: message.into(), timed_out: false }
}

struct Flight<'a> {
    shared: Arc<Shared>,
    repository: Arc<Repository>,
    source: &'a Source,
}

impl Flight<'_> {
    async fn perform(&self, task: &Task) -> Result<Outcome, Ended> {
        match task {
            Task::Resolve(tag) => self.resolve(tag).await,
            Task::Fetch(reference) => self.fetch(reference).await,
            Task::Prove(digest) => self.prove(digest).await,
            Task::Verify(digest) => Ok(Outcome::Verified(verify(&self.shared, digest).await?)),
            Task::Tags { query } => self.tags(query).await,
            Task::Referrers { digest, query } => self.referrers(digest, query).await,
        }
    }

    /// Which digest the tag names now. A HEAD, which Docker Hub does not count as a pull; where that does not
    /// tell, a GET.
    async fn resolve(&self, tag: &Tag) -> Result<Outcome, Ended> {
        if let Some(resolution) = self.resolved_just_now(tag) {
            return Ok(Outcome::Resolved(resolution));
        }
        let reference = Reference::Tag(tag.clone());
        let image = self.source.image.clone();
        let asked = self
            .ask("manifest_head", |origin| {
                let (image, reference) = (image.clone(), reference.clone());
                async move { origin.head_manifest(&image, &reference).await }
            })
            .await;
        let head = match asked {
            Ok(head) => head,
            Err(error) if error.kind == Kind::HeadUnsupported => return self.fetch(&reference).await,
            Err(error) => return Err(error.into()),
        };
        let (Some(digest), Some(media_type), Some(size)) = (head.digest, head.media_type, head.size) else {
            return self.fetch(&reference).await;
        };
        let resolution = Resolution { digest, media_type, size };
        if let Err(error) = self.confirm(tag, &resolution).await {
            // What the upstream says is true all the same; the next who asks hears it again.
            tracing::warn!(%tag, %error, "a tag that was confirmed cannot be noted");
        }
        self.shared.resolutions.note(self.source, tag, &resolution, self.shared.clock.now());
        Ok(Outcome::Resolved(resolution))
    }

    /// A flight that landed between a client's look and its join: the upstream is not asked twice for that.
    fn resolved_just_now(&self, tag: &Tag) -> Option<Resolution> {
        let seen = self.shared.resolutions.get(self.source, tag)?;
        let ttl = self.repository.remote()?.spec.tag_ttl.min(JUST_NOW);
        (self.shared.clock.now().since(seen.at) < ttl).then_some(seen.resolution)
    }

    /// The tag's row follows, if what it names now lies here; else the fetch that comes next will move it.
    async fn confirm(&self, tag: &Tag, resolution: &Resolution) -> Result<(), EngineError> {
        let (repository, image) = (self.source.repository, self.source.image.clone());
        let link = (repository, image.clone(), resolution.digest);
        let seen = link.clone();
        let here = self
            .shared
            .read(move |shared| {
                let linked = shared.meta.get::<LinkRow>(&seen)?.is_some();
                Ok(linked && shared.meta.get::<DocumentRow>(&seen.2)?.is_some())
            })
            .await?;
        if !here {
            return Ok(());
        }
        let row = TagRow {
            digest: resolution.digest,
            media_type: resolution.media_type.to_string(),
            checked_ms: self.shared.clock.wall().0,
            size: resolution.size,
        };
        let mut batch = Batch::new(Durability::Relaxed);
        batch.require_present::<RepositoryRow>(&repository);
        batch.require_present::<LinkRow>(&link).require_present::<DocumentRow>(&link.2);
        batch.put(&(repository, image, tag.clone()), &row);
        match self.shared.meta.apply(batch).await {
            // It has gone meanwhile.
            Err(MetaError::Conflict(_)) => return Ok(()),
            applied => applied?,
        }
        let of = Of::Manifest(Reference::Tag(tag.clone()));
        self.shared.answers.committed(repository, &self.source.image, [of]);
        Ok(())
    }

    /// The bytes of a manifest, checked and committed with all it names.
    async fn fetch(&self, reference: &Reference) -> Result<Outcome, Ended> {
        if let Reference::Digest(digest) = reference
            && let Some(manifest) = self.committed_just_now(digest).await?
        {
            return Ok(Outcome::Fetched(manifest));
        }
        let image = self.source.image.clone();
        let body = self
            .ask("manifest", |origin| {
                let (image, reference) = (image.clone(), reference.clone());
                async move { origin.manifest(&image, &reference).await }
            })
            .await?;
        self.shared.metrics.bytes_from_upstream(self.repository.name.as_str(), body.bytes.len() as u64);
        let digest = check(reference, &body).inspect_err(|_| self.shared.metrics.digest_mismatch())?;
        let manifest = Manifest {
            digest,
            media_type: body.media_type,
            size: body.bytes.len() as u64,
            bytes: body.bytes,
            verdict: Verdict::Miss,
            warning: None,
        };
        if let Err(error) = self.commit(reference, &manifest).await {
            // Its bytes are proven, so it is served; whoever comes next fetches it again.
            tracing::error!(%digest, %error, "a fetched manifest cannot be noted");
        }
        Ok(Outcome::Fetched(manifest))
    }

    /// As with a resolution: it came between a client's look and its join.
    async fn committed_just_now(&self, digest: &Digest) -> Result<Option<Manifest>, Ended> {
        let link = (self.source.repository, self.source.image.clone(), *digest);
        Ok(self.shared.read(move |shared| shared.linked_document(&link)).await?)
    }

    /// One batch: the document, the tag that named it, and a link for each digest that it names.
    async fn commit(&self, reference: &Reference, manifest: &Manifest) -> Result<(), MetaError> {
        let (repository, image) = (self.source.repository, &self.source.image);
        let now = self.shared.clock.wall().0;
        let link = |digest: Digest| (repository, image.clone(), digest);
        let mut batch = Batch::new(Durability::Relaxed);
        // Of a repository that was removed meanwhile nothing is noted: nobody would ever remove it.
        batch.require_present::<RepositoryRow>(&repository);
        let document = DocumentRow {
            media_type: manifest.media_type.to_string(),
            last_used_ms: now,
            bytes: manifest.bytes.clone(),
        };
        batch.put(&manifest.digest, &document);
        let stamp = Some(self.shared.stamp());
        let own = LinkRow { media_type: Some(manifest.media_type.to_string()), size: manifest.size, stamp };
        batch.put(&link(manifest.digest), &own);
        // What cannot be parsed is passed through all the same: only then it names nothing that we know of.
        if let Ok(view) = manifest::parse(&manifest.bytes) {
            // What lives elsewhere is not linked: registries do not check that it is theirs, so naming it would be
            // enough to read what lies here for somebody else.
            for named in view.references.into_iter().filter(|named| !named.external) {
                let media_type = named.media_type.map(|media_type| media_type.to_string());
                let row = LinkRow { media_type, size: named.size, stamp };
                batch.put(&link(named.digest), &row);
            }
        }
        let mut changed = vec![Of::Manifest(Reference::Digest(manifest.digest))];
        let mut named = Vec::new();
        for tag in self.tags_of(reference, manifest) {
            let row = TagRow {
                digest: manifest.digest,
                media_type: manifest.media_type.to_string(),
                checked_ms: now,
                size: manifest.size,
            };
            batch.put(&(repository, image.clone(), tag.clone()), &row);
            let resolution = Resolution {
                digest: manifest.digest,
                media_type: manifest.media_type.clone(),
                size: manifest.size,
            };
            changed.push(Of::Manifest(Reference::Tag(tag.clone())));
            named.push((tag, resolution));
        }
        self.shared.meta.apply(batch).await?;
        // Only now: who finds the resolution must find the document too.
        for (tag, resolution) in named {
            self.shared.resolutions.note(self.source, &tag, &resolution, self.shared.clock.now());
        }
        self.shared.answers.committed(repository, image, changed);
        self.shared.sizes.document_added(manifest.size);
        Ok(())
    }

    /// The tags that now name this manifest: the one it was asked by, or those a HEAD saw a moment ago.
    fn tags_of(&self, reference: &Reference, manifest: &Manifest) -> Vec<Tag> {
        match reference {
            Reference::Tag(tag) => vec![tag.clone()],
            Reference::Digest(_) => self.shared.resolutions.tags_of(self.source, &manifest.digest),
        }
    }

    /// Asks for one byte: some registries refuse a HEAD of a blob and answer the GET.
    async fn prove(&self, digest: &Digest) -> Result<Outcome, Ended> {
        let (image, digest) = (self.source.image.clone(), *digest);
        let size = self
            .ask("proof", |origin| {
                let image = image.clone();
                async move { origin.probe_blob(&image, &digest).await }
            })
            .await?;
        let Some(size) = size else {
            return Err(UpstreamError::bad_response("the upstream does not say how large the blob is").into());
        };
        let key = (self.source.repository, image, digest);
        let mut batch = Batch::new(Durability::Relaxed);
        batch.require_present::<RepositoryRow>(&self.source.repository);
        batch.put(&key, &LinkRow { media_type: None, size, stamp: Some(self.shared.stamp()) });
        if let Err(error) = self.shared.meta.apply(batch).await {
            tracing::warn!(%digest, %error, "a proof cannot be noted");
        }
        Ok(Outcome::Proven(size))
    }

    async fn tags(&self, query: &str) -> Result<Outcome, Ended> {
        let page = self.listing("tags", Listing::Tags, query.to_owned()).await?;
        Ok(Outcome::Page(ListingPage {
            bytes: page.bytes,
            next_query: page.next_query,
            filters_applied: None,
        }))
    }

    /// Through the referrers API; where the upstream has none, through the tag that clients keep instead.
    async fn referrers(&self, digest: &Digest, query: &str) -> Result<Outcome, Ended> {
        match self.listing("referrers", Listing::Referrers(*digest), query.to_owned()).await {
            Ok(page) => Ok(Outcome::Page(ListingPage {
                bytes: page.bytes,
                next_query: page.next_query,
                filters_applied: page.filters_applied,
            })),
            Err(error) if matches!(error.kind, Kind::NotFound | Kind::BadResponse) => {
                self.referrers_by_tag(digest).await
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn referrers_by_tag(&self, digest: &Digest) -> Result<Outcome, Ended> {
        const EMPTY: &str = concat!(
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","#,
            r#""manifests":[]}"#
        );
        let hex: String = digest.hex().chars().take(64).collect();
        let tag = format!("{}-{hex}", digest.algorithm().as_str()).parse::<Tag>();
        let reference = Reference::Tag(tag.expect("an algorithm, a hyphen and hex digits are a tag"));
        let image = self.source.image.clone();
        let asked = self
            .ask("manifest", |origin| {
                let (image, reference) = (image.clone(), reference.clone());
                async move { origin.manifest(&image, &reference).await }
            })
            .await;
        let bytes = match asked {
            Ok(body) if body.media_type.as_str() == MediaType::OCI_INDEX => body.bytes,
            Ok(_) => EMPTY.into(),
            Err(error) if error.kind == Kind::NotFound => EMPTY.into(),
            Err(error) => return Err(error.into()),
        };
        Ok(Outcome::Page(ListingPage { bytes, next_query: None, filters_applied: None }))
    }

    async fn listing(
        &self,
        operation: &'static str,
        listing: Listing,
        query: String,
    ) -> Result<Page, UpstreamError> {
        let image = self.source.image.clone();
        self.ask(operation, |origin| {
            let (image, listing, query) = (image.clone(), listing.clone(), query.clone());
            async move { origin.listing(&image, &listing, &query).await }
        })
        .await
    }

    /// Asks the origins in their order until one answers.
    async fn ask<T, F, A>(&self, operation: &'static str, call: F) -> Result<T, UpstreamError>
    where
        F: Fn(Upstream) -> A,
        A: Future<Output = Result<T, UpstreamError>>,
    {
        let name = self.repository.name.as_str();
        let metrics = &self.shared.metrics;
        let mut attempts = Attempts::new(self.repository.origins());
        while let Some((origin, pause)) = attempts.next() {
            tokio::time::sleep(pause).await;
            let answer = call(origin.clone()).await;
            let code = match &answer {
                Ok(_) => 200,
                Err(error) => error.status.unwrap_or(0),
            };
            metrics.upstream_request(name, operation, code);
            if let Some(limit) = origin.rate_limit() {
                metrics.ratelimit_remaining(name, limit.remaining);
            }
            let error = match answer {
                Ok(answer) => {
                    self.repository.note_health(true, self.shared.clock.now());
                    return Ok(answer);
                }
                Err(error) => error,
            };
            if !matches!(error.kind, Kind::NotFound | Kind::Denied | Kind::HeadUnsupported) {
                metrics.upstream_error(name, error.kind.as_str());
                // That may be meant for this image alone.
                if error.kind != Kind::Forbidden {
                    self.repository.note_health(false, self.shared.clock.now());
                }
                tracing::info!(repository = name, operation, upstream = origin.host_label(), %error,
                    "an upstream did not answer well");
            }
            attempts.failed(error);
        }
        match attempts.into_verdict() {
            Some(Tried::Error(error)) => Err(error),
            Some(Tried::Mismatch) | None => Err(UpstreamError::bad_response("no upstream was asked")),
        }
    }
}

/// The digest of the bytes, computed: what an upstream claims is hearsay.
fn check(reference: &Reference, body: &ManifestBody) -> Result<Digest, Ended> {
    let claimed = match reference {
        Reference::Digest(digest) => Some(*digest),
        Reference::Tag(_) => body.claimed,
    };
    let algorithm = claimed.map_or(Algorithm::Sha256, |digest| digest.algorithm());
    let computed = Digest::of(algorithm, &body.bytes);
    match claimed {
        Some(claimed) if claimed != computed => Err(Ended::Mismatch(format!(
            "the upstream sent a manifest whose digest is {computed}, not {claimed}"
        ))),
        _ if !is_json_object(&body.bytes) => {
            Err(UpstreamError::bad_response("the upstream sent something that is no manifest").into())
        }
        _ => Ok(computed),
    }
}

/// A captive portal answers everything with 200 and a web page.
fn is_json_object(bytes: &[u8]) -> bool {
    bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
}

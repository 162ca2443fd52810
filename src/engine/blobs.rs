//! Owns reading blobs of remotes: permission first, then the copy that lies here, or a fill to read along.
//! Must not know: HTTP, how flights are scheduled.

use super::Engine;
use super::actor::{Join, Joined};
use super::answers::{Answer, AnswerKey, Generation, Of, SMALL};
use super::bypass::Bypass;
use super::errors::refused;
use super::flight::{FlightKey, FlightTail, Outcome, Source, Task};
use super::manifests::source;
use super::model::{BlobAnswer, BlobWant, EngineError, ErrorKind, Scope, Verdict, Want};
use super::reader::{Reader, Wanted};
use super::shared::Shared;
use crate::cache::{Event, Refusal};
use crate::meta::{CopyRow, LinkRow, MetaExt as _};
use crate::names::{ByteRange, Digest, RangeRequest};
use crate::store::Blob;

/// "It is here" may be stale news when the file is opened: an eviction can win, but hardly three times.
const TRIES: usize = 4;

/// What the metadata and the store say of a digest within one image.
struct Seen {
    /// The size, if this image may show it.
    linked: Option<u64>,
    copy: Copy,
}

enum Copy {
    Absent,
    Here(Blob),
    /// It lay here through an unclean stop: hash it first.
    Suspect,
    /// A row without its file, or with another size.
    Lost,
}

/// A fill to read along with.
struct Along {
    tail: FlightTail,
    verdict: Verdict,
    proven: bool,
}

impl Engine {
    /// A blob, whole or in part.
    pub async fn blob(
        &self,
        scope: &Scope,
        digest: &Digest,
        want: BlobWant,
    ) -> Result<BlobAnswer, EngineError> {
        if scope.repository.remote().is_none() {
            return Err(EngineError::new(ErrorKind::BlobUnknown, "blob unknown").with_verdict(Verdict::Local));
        }
        let Source { repository, image } = source(scope);
        let key = AnswerKey { repository, image, of: Of::Blob(*digest) };
        if let Some(answer) = self.shared.answers.get(&key, self.shared.clock.now()) {
            self.touch(digest);
            return answered_from_memory(&answer, want);
        }
        // Boxed: what follows is large, and would make the future of every request for a small blob so.
        Box::pin(self.blob_from_disk_or_upstream(scope, digest, want, key)).await
    }

    async fn blob_from_disk_or_upstream(
        &self,
        scope: &Scope,
        digest: &Digest,
        want: BlobWant,
        key: AnswerKey,
    ) -> Result<BlobAnswer, EngineError> {
        let noted = self.shared.answers.generation(key.repository, &key.image);
        for _ in 0..TRIES {
            let seen = self.see(scope, digest).await?;
            let Some(size) = seen.linked else {
                match self.unlinked(scope, digest, want).await? {
                    Some(answer) => return Ok(answer),
                    None => continue,
                }
            };
            if want.want == Want::Head {
                let here = matches!(seen.copy, Copy::Here(_) | Copy::Suspect);
                return head(digest, size, want, if here { Verdict::Hit } else { Verdict::Miss });
            }
            match seen.copy {
                Copy::Here(blob) => {
                    self.touch(digest);
                    return self.whole(digest, blob, want, key, noted).await;
                }
                Copy::Suspect => self.verify(scope, digest).await?,
                Copy::Lost => self.lost(digest).await,
                Copy::Absent => {}
            }
            if let Some(answer) = self.fetch(scope, digest, want, true).await? {
                return Ok(answer);
            }
        }
        Err(EngineError::new(ErrorKind::Overloaded, "the blob is evicted as fast as it is fetched")
            .with_retry_after(Some(std::time::Duration::from_secs(1))))
    }

    async fn see(&self, scope: &Scope, digest: &Digest) -> Result<Seen, EngineError> {
        let Source { repository, image } = source(scope);
        let digest = *digest;
        self.shared
            .read(move |shared| {
                let link = shared.meta.get::<LinkRow>(&(repository, image, digest))?;
                let linked = link.map(|link| link.size);
                let copy = if linked.is_some() { look(shared, &digest)? } else { Copy::Absent };
                Ok(Seen { linked, copy })
            })
            .await
    }

    /// No manifest of this image names the digest. The upstream decides: by answering this very fetch, or,
    /// where others fetch it or have it, by a proof of its own.
    async fn unlinked(
        &self,
        scope: &Scope,
        digest: &Digest,
        want: BlobWant,
    ) -> Result<Option<BlobAnswer>, EngineError> {
        if want.want == Want::Body
            && let Some(answer) = self.fetch(scope, digest, want, false).await?
        {
            return Ok(Some(answer));
        }
        self.prove(scope, digest).await.map(|()| None)
    }

    async fn prove(&self, scope: &Scope, digest: &Digest) -> Result<(), EngineError> {
        match self.fly(scope, Task::Prove(*digest), None).await? {
            Joined::Refused { why, story } => Err(refused(why, story.as_ref(), ErrorKind::BlobUnknown)),
            _ => Ok(()),
        }
    }

    /// One hash for all who ask meanwhile. A bad file is set aside, and the cache told.
    async fn verify(&self, scope: &Scope, digest: &Digest) -> Result<(), EngineError> {
        match self.fly(scope, Task::Verify(*digest), None).await? {
            Joined::Document { outcome: Outcome::Verified(true), .. } => Ok(()),
            Joined::Document { .. } => {
                self.lost(digest).await;
                Ok(())
            }
            Joined::Refused { why, story } => Err(refused(why, story.as_ref(), ErrorKind::BlobUnknown)),
            _ => Ok(()),
        }
    }

    async fn lost(&self, digest: &Digest) {
        tracing::warn!(%digest, "a cached blob's file is missing or damaged: it is fetched again");
        self.coordination.tell(Event::Lost { key: FlightKey::Content(*digest) }).await;
    }

    pub(super) fn touch(&self, digest: &Digest) {
        if self.shared.touched.blob(*digest, self.shared.clock.wall()) {
            self.coordination.hint(Event::Touch { key: FlightKey::Content(*digest) });
        }
    }

    /// Joins the fill. `None`: look again, it lies here now, or a proof is needed first.
    async fn fetch(
        &self,
        scope: &Scope,
        digest: &Digest,
        want: BlobWant,
        proven: bool,
    ) -> Result<Option<BlobAnswer>, EngineError> {
        let joined = self.join_content(scope, digest, proven).await?;
        match joined {
            Joined::Tail { tail, first } => {
                let verdict = if first { Verdict::Miss } else { Verdict::Joined };
                self.read_along(scope, digest, want, Along { tail, verdict, proven }).await
            }
            Joined::Present | Joined::NeedProof | Joined::Document { .. } => Ok(None),
            Joined::Refused { why: Refusal::Bypass, .. } => {
                self.read_past(scope, digest, want).await.map(Some)
            }
            Joined::Refused { why, story } => Err(refused(why, story.as_ref(), ErrorKind::BlobUnknown)),
        }
    }

    pub(super) async fn join_content(
        &self,
        scope: &Scope,
        digest: &Digest,
        proven: bool,
    ) -> Result<Joined, EngineError> {
        let negative = scope.repository.remote().map(|remote| remote.spec.negative_ttl).unwrap_or_default();
        let key = FlightKey::Content(*digest);
        let join = Join { key, source: source(scope), proven, negative, deadline: None };
        Ok(self.coordination.join(join).await?)
    }

    /// The head goes out as soon as the size is known; for a small blob, and where the size is not known, when it
    /// is verified. A fill that fails before that is a real error, not a broken body.
    async fn read_along(
        &self,
        scope: &Scope,
        digest: &Digest,
        want: BlobWant,
        Along { tail: mut flight, verdict, proven }: Along,
    ) -> Result<Option<BlobAnswer>, EngineError> {
        let Ok(size) = flight.tail.size().await else { return Ok(None) };
        if size <= SMALL && flight.tail.finished().await.is_err() {
            // It was sent nothing: it may follow the fill to its next draft, or learn why there is none.
            return Ok(None);
        }
        let range = resolve(want.range, size)?;
        let ByteRange { start, end } = range.unwrap_or(ByteRange { start: 0, end: size });
        let wanted = Wanted { scope: scope.clone(), digest: *digest, size, start, end, proven };
        let reader = Reader::along(self.clone(), flight, wanted);
        Ok(Some(BlobAnswer { digest: *digest, size, range, reader: Some(reader), verdict }))
    }

    /// Nothing can be cached now: a fetch of one's own, hashed, its last byte held back.
    async fn read_past(
        &self,
        scope: &Scope,
        digest: &Digest,
        want: BlobWant,
    ) -> Result<BlobAnswer, EngineError> {
        let linked = self.see(scope, digest).await?.linked;
        let bypass = Bypass::start(&self.shared, scope, digest, linked).await?;
        let size = bypass.size();
        let range = resolve(want.range, size)?;
        let ByteRange { start, end } = range.unwrap_or(ByteRange { start: 0, end: size });
        let reader = Some(Reader::past(bypass, start, end));
        Ok(BlobAnswer { digest: *digest, size, range, reader, verdict: Verdict::Bypass })
    }

    async fn whole(
        &self,
        digest: &Digest,
        blob: Blob,
        want: BlobWant,
        key: AnswerKey,
        noted: Generation,
    ) -> Result<BlobAnswer, EngineError> {
        let size = blob.size();
        if size <= SMALL {
            let bytes = self.shared.read(move |_| Ok(blob.read_all()?)).await?;
            let answer = Answer { digest: *digest, media_type: None, bytes, fresh: None };
            self.shared.answers.insert(key, answer.clone(), noted);
            return answered_from_memory(&answer, want);
        }
        let range = resolve(want.range, size)?;
        let ByteRange { start, end } = range.unwrap_or(ByteRange { start: 0, end: size });
        let reader = Some(Reader::stored(blob.reader(start, end)));
        Ok(BlobAnswer { digest: *digest, size, range, reader, verdict: Verdict::Hit })
    }
}

/// Whether a copy lies here that may be served.
fn look(shared: &Shared, digest: &Digest) -> Result<Copy, EngineError> {
    let Some(copy) = shared.meta.get::<CopyRow>(digest)? else { return Ok(Copy::Absent) };
    if !copy.durable && copy.epoch < shared.trusted_since {
        return Ok(Copy::Suspect);
    }
    match shared.store.open(digest)? {
        Some(blob) if blob.size() == copy.size => Ok(Copy::Here(blob)),
        _ => Ok(Copy::Lost),
    }
}

fn answered_from_memory(answer: &Answer, want: BlobWant) -> Result<BlobAnswer, EngineError> {
    let size = answer.bytes.len() as u64;
    if want.want == Want::Head {
        return head(&answer.digest, size, want, Verdict::Hit);
    }
    let range = resolve(want.range, size)?;
    let bytes = match range {
        // A small blob's offsets fit.
        Some(part) => answer.bytes.slice(to_usize(part.start)..to_usize(part.end)),
        None => answer.bytes.clone(),
    };
    let reader = Some(Reader::memory(bytes));
    Ok(BlobAnswer { digest: answer.digest, size, range, reader, verdict: Verdict::Hit })
}

fn to_usize(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

fn head(digest: &Digest, size: u64, want: BlobWant, verdict: Verdict) -> Result<BlobAnswer, EngineError> {
    let range = resolve(want.range, size)?;
    Ok(BlobAnswer { digest: *digest, size, range, reader: None, verdict })
}

fn resolve(range: RangeRequest, size: u64) -> Result<Option<ByteRange>, EngineError> {
    range.resolve(size).map_err(|_| {
        EngineError::new(
            ErrorKind::Unsatisfiable { size },
            format!("the range lies outside the blob's {size} bytes"),
        )
    })
}

//! Owns reading blobs of remotes: permission first, then the copy that lies here, or a fill to read along.
//! Must not know: HTTP, how flights are scheduled.

use std::sync::Arc;

use super::Engine;
use super::actor::{Join, Joined};
use super::answers::{Answer, AnswerKey, Generation, Of, SMALL, Told};
use super::bypass::Bypass;
use super::errors::refused;
use super::flight::{FlightKey, FlightTail, Outcome, Parting, Source, Task};
use super::manifests::source;
use super::model::{BlobAnswer, BlobWant, EngineError, ErrorKind, Scope, Verdict, Want};
use super::reader::{Reader, Wanted};
use super::shared::Shared;
use super::tags::Until;
use crate::cache::{Event, Refusal};
use crate::meta::{CopyRow, LinkRow, MetaExt as _};
use crate::names::{ByteRange, Digest, RangeRequest};
use crate::planted::Bug;
use crate::store::{Blob, Trouble};

/// "It is here" may be stale news when the file is opened: an eviction can win, but hardly three times. After so
/// many looks the answer is fetched past the cache.
const TRIES: usize = 4;

/// What the metadata and the store say of a digest within one image.
pub(super) struct Seen {
    /// The size, if this image may show it.
    pub linked: Option<u64>,
    pub copy: Copy,
}

pub(super) enum Copy {
    Absent,
    Here(Blob),
    /// It lay here through an unclean stop: hash it first.
    Suspect,
    /// A row without its file, or with another size, or with something that is no file of ours.
    Lost,
}

/// What came of joining a fill.
enum Joining {
    Answer(BlobAnswer),
    /// The cache says that it lies here.
    Present,
    /// Look again: the fill failed before this waiter was sent anything, or wants a proof first.
    Again,
}

/// What came of asking for a digest that no manifest of this image names.
enum Unlinked {
    Answer(BlobAnswer),
    /// The image has it, in this size.
    Proven(u64),
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
        if let Some(found) = self.blob_at_once(scope, digest, want.want) {
            return found.blob(want);
        }
        let key = blob_key(scope, digest);
        match scope.repository.remote() {
            Some(_) => self.blob_from_disk_or_upstream(scope, digest, want, key).await,
            None => self.local_blob(scope, digest, want, key).await,
        }
    }

    async fn blob_from_disk_or_upstream(
        &self,
        scope: &Scope,
        digest: &Digest,
        want: BlobWant,
        key: AnswerKey,
    ) -> Result<BlobAnswer, EngineError> {
        let noted = self.shared.answers.generation(key.repository, &key.image);
        let (mut promised, mut proven) = (false, None);
        for _ in 0..TRIES {
            let seen = self.see(scope, digest, proven).await?;
            let Some(size) = seen.linked else {
                match self.unlinked(scope, digest, want).await? {
                    Unlinked::Answer(answer) => return Ok(answer),
                    Unlinked::Proven(size) => proven = Some(size),
                }
                continue;
            };
            if want.want == Want::Head {
                let here = matches!(seen.copy, Copy::Here(_) | Copy::Suspect);
                return head(digest, size, want, if here { Verdict::Hit } else { Verdict::Miss });
            }
            match seen.copy {
                Copy::Here(blob) => {
                    self.touch(digest);
                    if let Some(answer) = self.whole(digest, blob, want, &key, noted).await? {
                        return Ok(answer);
                    }
                }
                Copy::Suspect if self.verify(scope, digest).await? => continue,
                Copy::Suspect | Copy::Lost => self.lost(digest).await,
                // The cache counts what nobody can find.
                Copy::Absent if promised => self.lost(digest).await,
                Copy::Absent => {}
            }
            match self.fetch(scope, digest, want, true).await? {
                Joining::Answer(answer) => return Ok(answer),
                Joining::Present => promised = true,
                Joining::Again => {}
            }
        }
        tracing::warn!(%digest, "a blob is not found where it should be, again and again: fetched past the cache");
        self.read_past(scope, digest, want).await
    }

    /// `proven` is as good as a link, should the metadata not have taken that.
    pub(super) async fn see(
        &self,
        scope: &Scope,
        digest: &Digest,
        proven: Option<u64>,
    ) -> Result<Seen, EngineError> {
        let Source { repository, image } = source(scope);
        let digest = *digest;
        self.shared
            .read(move |shared| {
                let link = shared.meta.get::<LinkRow>(&(repository, image, digest))?;
                let linked = link.map(|link| link.size).or(proven);
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
    ) -> Result<Unlinked, EngineError> {
        if want.want == Want::Body
            && let Joining::Answer(answer) = self.fetch(scope, digest, want, false).await?
        {
            return Ok(Unlinked::Answer(answer));
        }
        self.prove(scope, digest, None).await.map(Unlinked::Proven)
    }

    /// Whether the upstream has the digest in this image, and of what size it is there.
    pub(super) async fn prove(
        &self,
        scope: &Scope,
        digest: &Digest,
        until: Option<Until>,
    ) -> Result<u64, EngineError> {
        match self.fly(scope, Task::Prove(*digest), until).await? {
            Joined::Document { outcome: Outcome::Proven(size), .. } => Ok(size),
            Joined::Refused { why, story } => Err(refused(why, story.as_ref(), ErrorKind::BlobUnknown)),
            _ => Err(EngineError::new(ErrorKind::Internal, "a flight brought back no proof")),
        }
    }

    /// One hash for all who ask meanwhile. `false`: the file was bad, and has been set aside.
    pub(super) async fn verify(&self, scope: &Scope, digest: &Digest) -> Result<bool, EngineError> {
        match self.fly(scope, Task::Verify(*digest), None).await? {
            Joined::Document { outcome: Outcome::Verified(whole), .. } => Ok(whole),
            Joined::Refused { why, story } => Err(refused(why, story.as_ref(), ErrorKind::BlobUnknown)),
            _ => Ok(false),
        }
    }

    pub(super) fn touch(&self, digest: &Digest) {
        if self.shared.touched.blob(*digest, self.shared.clock.wall()) {
            self.coordination.hint(Event::Touch { key: FlightKey::Content(*digest) });
        }
    }

    /// Joins the fill, or starts it.
    async fn fetch(
        &self,
        scope: &Scope,
        digest: &Digest,
        want: BlobWant,
        proven: bool,
    ) -> Result<Joining, EngineError> {
        let joined = self.join_content(scope, digest, proven).await?;
        match joined {
            Joined::Tail { tail, first, too_large, whole } => {
                let verdict = match (first, whole) {
                    // The next one will not find it here.
                    (true, _) if too_large => Verdict::Bypass,
                    (true, _) => Verdict::Miss,
                    (false, false) => Verdict::Joined,
                    (false, true) => Verdict::Hit,
                };
                self.read_along(scope, digest, want, Along { tail, verdict, proven }).await
            }
            Joined::Present => Ok(Joining::Present),
            Joined::NeedProof | Joined::Document { .. } => Ok(Joining::Again),
            Joined::Refused { why: Refusal::Bypass, .. } => {
                self.read_past(scope, digest, want).await.map(Joining::Answer)
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
    ) -> Result<Joining, EngineError> {
        let known = match flight.tail.size().await {
            Ok(size) if size <= SMALL => flight.tail.finished().await,
            known => known,
        };
        let Ok(size) = known else {
            // It was sent nothing. The disk being full is no reason to send it away; otherwise it may follow the
            // fill to its next draft.
            return match flight.parting.get() {
                Some(Parting::Salvage(_)) => self.read_past(scope, digest, want).await.map(Joining::Answer),
                Some(Parting::Failed { source: lead, failure, story }) if *lead == source(scope) => {
                    Err(refused(Refusal::Failed(*failure), story.as_ref(), ErrorKind::BlobUnknown))
                }
                Some(Parting::Failed { .. }) | None => Ok(Joining::Again),
            };
        };
        let range = resolve(want.range, size)?;
        let ByteRange { start, end } = range.unwrap_or(ByteRange { start: 0, end: size });
        let wanted = Wanted { scope: scope.clone(), digest: *digest, size, start, end, proven };
        let reader = Reader::along(self.clone(), flight, wanted);
        Ok(Joining::Answer(BlobAnswer { digest: *digest, size, range, reader: Some(reader), verdict }))
    }

    /// Nothing can be cached now: a fetch of one's own, hashed, its last byte held back.
    async fn read_past(
        &self,
        scope: &Scope,
        digest: &Digest,
        want: BlobWant,
    ) -> Result<BlobAnswer, EngineError> {
        let linked = self.see(scope, digest, None).await?.linked;
        let bypass = Bypass::start(&self.shared, scope, digest, linked).await?;
        let size = bypass.size();
        let range = resolve(want.range, size)?;
        let ByteRange { start, end } = range.unwrap_or(ByteRange { start: 0, end: size });
        let reader = Some(Reader::past(bypass, start, end));
        Ok(BlobAnswer { digest: *digest, size, range, reader, verdict: Verdict::Bypass })
    }

    /// `None`: its file cannot be read, and has been set aside.
    pub(super) async fn whole(
        &self,
        digest: &Digest,
        blob: Blob,
        want: BlobWant,
        key: &AnswerKey,
        noted: Generation,
    ) -> Result<Option<BlobAnswer>, EngineError> {
        let size = blob.size();
        if size <= SMALL {
            let reading = blob.clone();
            let bytes = match self.shared.read(move |_| Ok(reading.read_all())).await? {
                Ok(bytes) => bytes,
                Err(error) if Trouble::of(&error) == Trouble::Damage => {
                    self.unreadable(*digest, blob, &error).await;
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            };
            let told = Told::default();
            let answer = Arc::new(Answer { digest: *digest, media_type: None, bytes, fresh: None, told });
            self.shared.answers.insert(key.clone(), Arc::clone(&answer), noted);
            return answered_from_memory(&answer, want).map(Some);
        }
        let range = resolve(want.range, size)?;
        let part = range.unwrap_or(ByteRange { start: 0, end: size });
        let reader = Some(Reader::stored(self.clone(), *digest, blob, part));
        Ok(Some(BlobAnswer { digest: *digest, size, range, reader, verdict: Verdict::Hit }))
    }
}

pub(super) fn blob_key(scope: &Scope, digest: &Digest) -> AnswerKey {
    let Source { repository, image } = source(scope);
    AnswerKey { repository, image, of: Of::Blob(*digest) }
}

/// Whether a copy lies here that may be served.
pub(super) fn look(shared: &Shared, digest: &Digest) -> Result<Copy, EngineError> {
    let Some(copy) = shared.meta.get::<CopyRow>(digest)? else { return Ok(Copy::Absent) };
    let suspect = !copy.durable && copy.epoch < shared.trusted_since;
    if suspect && !Bug::SuspectsTrusted.is_planted() {
        return Ok(Copy::Suspect);
    }
    match shared.store.open(digest) {
        Ok(Some(blob)) if blob.size() == copy.size => Ok(Copy::Here(blob)),
        Ok(_) => Ok(Copy::Lost),
        // Others need their files too; this one is as good as it was.
        Err(error) if Trouble::of(&error) == Trouble::Shortage => Err(error.into()),
        Err(error) => {
            shared.metrics.disk_error();
            tracing::error!(%digest, %error, "disk_error: a cached blob cannot be opened");
            Ok(Copy::Lost)
        }
    }
}

pub(super) fn answered_from_memory(answer: &Answer, want: BlobWant) -> Result<BlobAnswer, EngineError> {
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

pub(super) fn head(
    digest: &Digest,
    size: u64,
    want: BlobWant,
    verdict: Verdict,
) -> Result<BlobAnswer, EngineError> {
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

//! Owns the work on one upload: bytes in their order, hashed as they come, up to the blob that they are.
//! Must not know: HTTP, how a published blob is noted.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedMutexGuard;

use super::Engine;
use super::accounts::Principal;
use super::announced::Announcement;
use super::flight::Source;
use super::manifests::source;
use super::model::{EngineError, ErrorKind, Scope};
use super::shared::Shared;
use super::sweep;
use super::uploads::{self, Session, State};
use crate::meta::{LinkRow, MetaExt as _};
use crate::names::{Algorithm, Digest, UploadId};
use crate::store::{Asleep, Draft, Space, Trouble};

/// How often an upload asks for the free space, and has the disk begin with what came.
const LOOK_EVERY: u64 = 16 << 20;
/// How much may gather while what came before is being written, of all bodies where each has its least, and of each:
/// larger pieces need fewer threads to be woken. An upload has up to three in memory.
const GATHERED: usize = 64 << 20;
const LEAST_PIECE: usize = 256 << 10;
const LARGEST_PIECE: usize = 2 << 20;
/// What to do where there is no upload to go on with.
const PUSH_AGAIN: &str = "push the blob again when there is";
const NOT_KEPT: &str = "the disk does not keep the blob; push it again";

/// An upload that this request alone works on. Dropped, it rests with the bytes that came.
pub struct Upload {
    engine: Engine,
    session: Arc<Session>,
    state: OwnedMutexGuard<State>,
    draft: Option<Draft>,
    /// What an empty upload will be hashed with.
    algorithm: Algorithm,
    /// Bytes until the next look at the disk.
    look_in: u64,
    announced: Announcement,
    /// What is known to be written, and so is not announced any more.
    written: u64,
    /// It can be gone on with by another request.
    has_name: bool,
}

impl Engine {
    /// A new upload session of this image.
    pub async fn start_upload(
        &self,
        scope: &Scope,
        by: &Principal,
        algorithm: Algorithm,
    ) -> Result<UploadId, EngineError> {
        Ok(uploads::start(&self.shared, source(scope), by, algorithm).await?.id)
    }

    /// Takes an upload to work on. One that somebody works on already is out of order.
    pub async fn upload(&self, scope: &Scope, by: &Principal, id: &UploadId) -> Result<Upload, EngineError> {
        let session = self.shared.uploads.find(id, &source(scope), by).ok_or_else(unknown)?;
        let Ok(state) = Arc::clone(&session.state).try_lock_owned() else {
            let message = "another request writes to this upload";
            return Err(EngineError::new(ErrorKind::UploadOutOfOrder { at: session.len() }, message));
        };
        // To its end: an earlier run's file is read for long, and who stops waiting must find the upload again.
        let engine = self.clone();
        self.to_its_end(async move { engine.take_up(session, state).await }).await
    }

    async fn take_up(
        self,
        session: Arc<Session>,
        mut state: OwnedMutexGuard<State>,
    ) -> Result<Upload, EngineError> {
        let taken = std::mem::replace(&mut *state, State::Taken);
        let (draft, algorithm) = match self.wake(&session, taken).await {
            Ok(woken) => woken,
            Err(NotWoken { state: Some(left), error }) => {
                *state = left;
                return Err(error);
            }
            Err(NotWoken { state: None, error }) => {
                // Its file cannot be opened: there is nothing to go on with.
                drop(state);
                uploads::lost(&self.shared, &session).await;
                return Err(error);
            }
        };
        uploads::used(&self.shared, &session, algorithm).await;
        session.follow(draft.as_ref());
        let (written, announced) = (session.len(), self.shared.announced.join());
        let (look_in, has_name) = (0, true);
        Ok(Upload { engine: self, session, state, draft, algorithm, look_in, announced, written, has_name })
    }

    /// How many bytes of an upload came. Asking takes it from nobody: who asks and who writes do not meet.
    /// Pieces that a client left on their way are waited for: they count.
    pub async fn upload_len(&self, scope: &Scope, by: &Principal, id: &UploadId) -> Result<u64, EngineError> {
        let session = self.shared.uploads.find(id, &source(scope), by).ok_or_else(unknown)?;
        Ok(session.settled_len().await)
    }

    /// Ends an upload without a blob, also while somebody works on it.
    pub async fn cancel_upload(
        &self,
        scope: &Scope,
        by: &Principal,
        id: &UploadId,
    ) -> Result<(), EngineError> {
        let session = self.shared.uploads.find(id, &source(scope), by).ok_or_else(unknown)?;
        let shared = Arc::clone(&self.shared);
        self.to_its_end(async move { uploads::give_up(&shared, &session).await }).await
    }

    /// Ends the uploads that nobody went on with for their whole life, as housekeeping does now and then.
    pub async fn expire_uploads(&self) {
        uploads::expire(&self.shared).await;
    }

    /// Whether this upload ended with this digest already, and the answer got lost. What the image has lost since is to
    /// be pushed again.
    pub async fn has_uploaded(
        &self,
        scope: &Scope,
        by: &Principal,
        id: &UploadId,
        digest: &Digest,
    ) -> Result<bool, EngineError> {
        let image = source(scope);
        if !self.shared.uploads.has_finished(id, &image, by, digest) {
            return Ok(false);
        }
        let key = (image.repository, image.image, *digest);
        self.shared.read(move |shared| Ok(shared.meta.get::<LinkRow>(&key)?.is_some())).await
    }

    async fn wake(&self, session: &Session, state: State) -> Result<(Option<Draft>, Algorithm), NotWoken> {
        let id = session.draft;
        match state {
            State::Empty(algorithm) => Ok((None, algorithm)),
            State::Left(algorithm) => {
                let resumed = move |shared: &Shared| Ok(shared.store.resume_draft(id, algorithm));
                match self.shared.read(resumed).await? {
                    Ok(draft) => Ok((draft, algorithm)),
                    Err(error) => Err(NotWoken::by_disk(State::Left(algorithm), error)),
                }
            }
            State::Resting(resting) => {
                let woken = move |shared: &Shared| Ok(shared.store.wake_draft(resting));
                let woken =
                    self.shared.read(woken).await?.map_err(|Asleep { resting, error }| {
                        NotWoken::by_disk(State::Resting(resting), error)
                    })?;
                let draft = woken.ok_or_else(file_gone)?;
                let algorithm = draft.algorithm();
                Ok((Some(draft), algorithm))
            }
            State::Taken => Err(unknown().into()),
        }
    }
}

impl Upload {
    pub fn len(&self) -> u64 {
        self.draft.as_ref().map_or(0, Draft::len)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Refuses bytes that do not begin where the upload ends.
    pub fn begins_at(&self, start: u64) -> Result<(), EngineError> {
        let at = self.len();
        if start == at {
            return Ok(());
        }
        let message = format!("the upload has {at} bytes, so what comes next begins there, not at {start}");
        Err(EngineError::new(ErrorKind::UploadOutOfOrder { at }, message))
    }

    /// Makes sure that `more` bytes have room, beside what others have announced, before the first of them is read.
    pub async fn expect(&mut self, more: u64) -> Result<(), EngineError> {
        let size = self.len().saturating_add(more);
        let space = self.space().await?;
        if size > space.total {
            let message = format!("{size} bytes are more than the disk has: {}", space.total);
            return Err(EngineError::new(ErrorKind::TooLarge, message));
        }
        if self.announced.announce(more, space.free) {
            return Ok(());
        }
        let cached = self.engine.coordination.counts().await.present_bytes;
        // Nothing goes for what does not fit even so.
        if self.announced.fits(more, space.free.saturating_add(cached)) {
            self.announced.insist(more);
            if self.make_room(more).await? {
                return Ok(());
            }
        }
        Err(self.full())
    }

    /// Nobody but this request knows of the upload: after an error it is over.
    pub fn set_nameless(&mut self) {
        self.has_name = false;
    }

    /// Hashes with this algorithm from the start, if nothing came yet: later that takes a second look at all of it.
    pub fn hash_with(&mut self, algorithm: Algorithm) {
        if self.draft.is_none() {
            self.algorithm = algorithm;
        }
    }

    /// How large a piece may become before it is appended.
    pub fn gathers(&self) -> usize {
        (GATHERED / self.announced.among()).clamp(LEAST_PIECE, LARGEST_PIECE)
    }

    /// Appends bytes, all or none of them. After an error the upload can go on where it was.
    pub async fn append(&mut self, chunks: Vec<Bytes>) -> Result<(), EngineError> {
        self.append_behind(chunks).await?;
        self.settle().await
    }

    /// The same, but waits only until those before are written: an error may be theirs.
    pub async fn append_behind(&mut self, chunks: Vec<Bytes>) -> Result<(), EngineError> {
        let bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        if bytes == 0 {
            return Ok(());
        }
        if self.session.is_over() {
            return Err(unknown());
        }
        if let Err(error) = self.look_at_the_disk(bytes).await {
            // What came before counts, where the upload goes on.
            let _ = self.settle().await;
            return Err(error);
        }
        let draft = self.draft().await?;
        let appended = draft.append_behind(chunks).await;
        self.note_progress();
        appended.map_err(|error| self.refused_by_disk(&error))
    }

    /// Waits until all that was appended is written.
    pub async fn settle(&mut self) -> Result<(), EngineError> {
        let Some(draft) = &mut self.draft else { return Ok(()) };
        let settled = draft.settle().await;
        self.note_progress();
        settled.map_err(|error| self.refused_by_disk(&error))
    }

    /// What is written needs no more room.
    fn note_progress(&mut self) {
        let len = self.len();
        self.announced.came(len.saturating_sub(self.written));
        self.written = len;
    }

    /// Ends the upload with the blob that it is. Afterwards it is durable and linked to the image; the session is
    /// over either way. Runs to its end also where the caller stops waiting.
    pub async fn finish(mut self, digest: &Digest) -> Result<u64, EngineError> {
        self.settle().await?;
        let draft = self.draft().await?;
        let hashed = draft.rehash(digest.algorithm()).await;
        let found = draft.digest();
        hashed.map_err(|error| self.refused_by_disk(&error))?;
        if found != *digest {
            uploads::give_up(&self.engine.shared, &self.session).await?;
            let message = format!("the {} bytes that came are {found}, not {digest}", self.len());
            return Err(EngineError::new(ErrorKind::DigestMismatch, message));
        }
        let Some(draft) = self.draft.take().filter(|_| self.engine.shared.uploads.end(&self.session)) else {
            return Err(unknown());
        };
        let (engine, session, digest) = (self.engine.clone(), Arc::clone(&self.session), *digest);
        self.engine.to_its_end(async move { engine.publish(&session, draft, digest).await }).await
    }

    async fn draft(&mut self) -> Result<&mut Draft, EngineError> {
        if self.draft.is_none() {
            let (id, algorithm) = (self.session.draft, self.algorithm);
            let make = move |shared: &Shared| Ok(shared.store.create_draft(id, algorithm));
            let made = self.engine.shared.read(make).await?;
            self.draft = Some(made.map_err(|error| self.refused_by_disk(&error))?);
            self.session.follow(self.draft.as_ref());
        }
        Ok(self.draft.as_mut().expect("there is one by now"))
    }

    /// Now and then, not for every piece.
    async fn look_at_the_disk(&mut self, bytes: u64) -> Result<(), EngineError> {
        if let Some(left) = self.look_in.checked_sub(bytes) {
            self.look_in = left;
            return Ok(());
        }
        if !self.announced.fits(bytes, self.space().await?.free) && !self.make_room(bytes).await? {
            return Err(self.full());
        }
        if let Some(draft) = &mut self.draft
            && let Err(error) = draft.sync_ahead(LOOK_EVERY).await
        {
            uploads::lost(&self.engine.shared, &self.session).await;
            return Err(not_kept_by_disk(&error));
        }
        self.look_in = LOOK_EVERY;
        Ok(())
    }

    /// Has cached content go for what is announced. Answers whether `bytes` have room then.
    async fn make_room(&self, bytes: u64) -> Result<bool, EngineError> {
        sweep::make_room(&self.engine.shared, &self.engine.coordination).await;
        Ok(self.announced.fits(bytes, self.space().await?.free))
    }

    async fn space(&self) -> Result<Space, EngineError> {
        self.engine.shared.read(|shared| Ok(shared.store.space()?)).await
    }

    /// Nothing that was acknowledged is lost by it.
    fn full(&self) -> EngineError {
        no_space(if self.has_name { "the upload can go on when there is" } else { PUSH_AGAIN })
    }

    fn refused_by_disk(&self, error: &io::Error) -> EngineError {
        if Trouble::of(error) == Trouble::Full {
            return self.full();
        }
        tracing::error!(%error, "the disk does not take an upload");
        EngineError::new(ErrorKind::Overloaded, "the disk does not take the upload right now")
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        *self.state = match self.draft.take() {
            _ if self.session.is_over() => State::Taken,
            None => State::Empty(self.algorithm),
            Some(draft) => State::Resting(Box::new(draft.rest())),
        };
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Source { repository, image } = &self.session.image;
        f.debug_struct("Upload").field("repository", repository).field("image", image).finish_non_exhaustive()
    }
}

/// Why an upload cannot be gone on with now, and what to go on with later: nothing, where its bytes are damaged.
struct NotWoken {
    state: Option<State>,
    error: EngineError,
}

impl NotWoken {
    fn by_disk(state: State, error: io::Error) -> Self {
        let damaged = Trouble::of(&error) == Trouble::Damage;
        Self { state: (!damaged).then_some(state), error: error.into() }
    }
}

impl From<EngineError> for NotWoken {
    fn from(error: EngineError) -> Self {
        Self { state: None, error }
    }
}

fn unknown() -> EngineError {
    EngineError::new(ErrorKind::UploadUnknown, "there is no such upload of this image, or it has ended")
}

/// The file of a draft goes as soon as the disk has lost a write to it.
fn file_gone() -> EngineError {
    EngineError::new(ErrorKind::Overloaded, NOT_KEPT)
}

/// Of a blob that came whole and could not be made durable. What the disk has of it is not known, so its upload is
/// over.
pub(super) fn not_kept_by_disk(error: &io::Error) -> EngineError {
    if Trouble::of(error) == Trouble::Full {
        return no_space(PUSH_AGAIN);
    }
    tracing::error!(%error, "the disk does not keep a blob");
    EngineError::new(ErrorKind::Overloaded, NOT_KEPT)
}

fn no_space(then: &str) -> EngineError {
    tracing::warn!("no space left on the disk for an upload");
    EngineError::new(ErrorKind::Overloaded, format!("there is no space left on the disk; {then}"))
}

//! Owns the upload sessions there are: by whom they are found, how many, how long they live.
//! Must not know: HTTP, how a blob is published.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::Mutex;

use super::accounts::Principal;
use super::flight::Source;
use super::model::{EngineError, ErrorKind};
use super::shared::Shared;
use crate::clock::UnixMillis;
use crate::meta::{Batch, Durability, MetaExt as _, SessionRow};
use crate::names::{Algorithm, Digest, RepositoryId, UploadId};
use crate::store::{Draft, DraftId, Length, Resting};

/// The number of this node: the first part of the names of its sessions.
const NODE: u16 = 1;
/// Sessions cost a row and a file each.
const MOST: usize = 10_000;
/// After this many newer ones a finished upload is forgotten, and a repeated PUT is told so.
const FINISHED: usize = 10_000;
/// The row follows the last use at this distance.
const NOTE_EVERY_MS: u64 = 600_000;
const RETRY: Duration = Duration::from_secs(60);

/// An upload under way. Whoever holds its state's lock works on it.
#[derive(Debug)]
pub(super) struct Session {
    pub id: UploadId,
    /// The image that it was started for, and the only one it is for.
    pub image: Source,
    /// Who began it, and who alone may go on.
    owner: String,
    pub draft: DraftId,
    pub state: Arc<Mutex<State>>,
    /// What is known to lie in the draft, for who asks while somebody works on it.
    far: StdMutex<Far>,
    /// It was published, cancelled or given up.
    over: AtomicBool,
    used: AtomicU64,
    noted: AtomicU64,
}

/// What lies in the draft.
#[derive(Debug)]
pub(super) enum State {
    /// Nothing came yet: there is no file.
    Empty(Algorithm),
    /// Left by an earlier run, not hashed since.
    Left(Algorithm),
    Resting(Box<Resting>),
    /// Taken by who holds the lock, or over.
    Taken,
}

/// How far a session is.
#[derive(Clone, Debug)]
enum Far {
    /// Nobody has worked on it in this run.
    Left(u64),
    Draft(Length),
}

impl Session {
    fn new(id: UploadId, whose: (Source, String), draft: DraftId, state: State, used: UnixMillis) -> Self {
        let (image, owner) = whose;
        Self {
            id,
            image,
            owner,
            draft,
            state: Arc::new(Mutex::new(state)),
            far: StdMutex::new(Far::Left(0)),
            over: AtomicBool::new(false),
            used: AtomicU64::new(used.0),
            noted: AtomicU64::new(used.0),
        }
    }

    pub fn len(&self) -> u64 {
        match &*self.far() {
            Far::Left(size) => *size,
            Far::Draft(length) => length.now(),
        }
    }

    /// When what is on its way to the disk now is written.
    pub async fn settled_len(&self) -> u64 {
        let far = self.far().clone();
        match far {
            Far::Left(size) => size,
            Far::Draft(length) => length.settled().await,
        }
    }

    /// From now on its bytes go there.
    pub fn follow(&self, draft: Option<&Draft>) {
        *self.far() = draft.map_or(Far::Left(0), |draft| Far::Draft(draft.length()));
    }

    /// An earlier run left so much.
    pub fn left(&self, size: u64) {
        *self.far() = Far::Left(size);
    }

    fn far(&self) -> MutexGuard<'_, Far> {
        self.far.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    fn row(&self, algorithm: Algorithm, used: UnixMillis) -> SessionRow {
        SessionRow {
            repository: self.image.repository,
            image: self.image.image.clone(),
            owner: self.owner.clone(),
            draft: self.draft.0,
            algorithm,
            used_ms: used.0,
        }
    }
}

/// All sessions of this node.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    live: DashMap<UploadId, Arc<Session>>,
    finished: StdMutex<Finished>,
}

/// Which uploads ended well, so that a PUT whose answer was lost may be repeated.
#[derive(Debug, Default)]
struct Finished {
    order: VecDeque<UploadId>,
    digests: HashMap<UploadId, (Source, String, Digest)>,
}

impl Uploads {
    /// The session, if it is this image's and this caller's.
    pub fn find(&self, id: &UploadId, image: &Source, by: &Principal) -> Option<Arc<Session>> {
        let session = self.live.get(id).map(|entry| Arc::clone(&entry))?;
        let theirs = session.image == *image && session.owner == by.key();
        (theirs && !session.is_over()).then_some(session)
    }

    /// Whether this upload of this image ended with this digest a while ago.
    pub fn has_finished(&self, id: &UploadId, image: &Source, by: &Principal, digest: &Digest) -> bool {
        let finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        let known = finished.digests.get(id);
        known.is_some_and(|(of, owner, with)| of == image && *owner == by.key() && with == digest)
    }

    /// Takes the session out. Whoever works on it finds out at the end. `false`: somebody else was faster.
    pub fn end(&self, session: &Session) -> bool {
        self.live.remove(&session.id);
        !session.over.swap(true, Ordering::AcqRel)
    }

    pub fn note_finished(&self, session: &Session, digest: Digest) {
        let mut finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        if finished.order.len() == FINISHED
            && let Some(oldest) = finished.order.pop_front()
        {
            finished.digests.remove(&oldest);
        }
        finished.order.push_back(session.id);
        finished.digests.insert(session.id, (session.image.clone(), session.owner.clone(), digest));
    }

    /// Those that nobody used since `oldest` and nobody works on now.
    fn idle_since(&self, oldest: u64) -> Vec<Arc<Session>> {
        let idle = |session: &Session| session.used.load(Ordering::Relaxed) < oldest;
        let sessions = self.live.iter().map(|entry| Arc::clone(entry.value()));
        sessions.filter(|session| idle(session) && session.state.try_lock().is_ok()).collect()
    }
}

/// A new session, noted in the metadata.
pub(super) async fn start(
    shared: &Shared,
    image: Source,
    by: &Principal,
    algorithm: Algorithm,
) -> Result<Arc<Session>, EngineError> {
    if shared.uploads.live.len() >= MOST {
        let message =
            format!("{MOST} uploads are under way, which is the most there may be; try again later");
        return Err(EngineError::new(ErrorKind::Overloaded, message).with_retry_after(Some(RETRY)));
    }
    let mut random = [0; 16];
    getrandom::fill(&mut random)
        .map_err(|error| EngineError::new(ErrorKind::Internal, format!("no randomness: {error}")))?;
    let id = UploadId::new(NODE, u128::from_be_bytes(random));
    let now = shared.clock.wall();
    let session = Session::new(id, (image, by.key()), shared.next_draft(), State::Empty(algorithm), now);
    let mut batch = Batch::new(Durability::Relaxed);
    batch.put(&id, &session.row(algorithm, now));
    shared.meta.apply(batch).await?;
    let session = Arc::new(session);
    shared.uploads.live.insert(id, Arc::clone(&session));
    Ok(session)
}

/// Somebody works on the session: it lives on from now.
pub(super) async fn used(shared: &Shared, session: &Session, algorithm: Algorithm) {
    let now = shared.clock.wall();
    session.used.store(now.0, Ordering::Relaxed);
    if now.0.saturating_sub(session.noted.load(Ordering::Relaxed)) < NOTE_EVERY_MS {
        return;
    }
    session.noted.store(now.0, Ordering::Relaxed);
    let mut batch = Batch::new(Durability::Relaxed);
    batch.require_present::<SessionRow>(&session.id).put(&session.id, &session.row(algorithm, now));
    if let Err(error) = shared.meta.apply(batch).await {
        // It may end a little early after a restart.
        tracing::debug!(%error, "the use of an upload session is not noted");
    }
}

/// Makes the sessions of earlier runs known. Answers them by the drafts that are theirs.
pub(super) fn take_stock(shared: &Shared) -> Result<HashMap<DraftId, Arc<Session>>, EngineError> {
    let mut drafts = HashMap::new();
    shared.meta.each::<SessionRow, EngineError>(&(), |id, row| {
        let image = Source { repository: row.repository, image: row.image };
        let draft = DraftId(row.draft);
        let state = State::Left(row.algorithm);
        let session = Session::new(id, (image, row.owner), draft, state, UnixMillis(row.used_ms));
        let session = Arc::new(session);
        shared.uploads.live.insert(id, Arc::clone(&session));
        drafts.insert(draft, session);
        Ok(())
    })?;
    Ok(drafts)
}

/// The sessions that nobody has used for long.
pub(super) fn expired(shared: &Shared) -> Vec<Arc<Session>> {
    let life = u64::try_from(shared.settings.upload_life.as_millis()).unwrap_or(u64::MAX);
    shared.uploads.idle_since(shared.clock.wall().0.saturating_sub(life))
}

/// Ends them.
pub(super) async fn expire(shared: &Arc<Shared>) {
    let idle = expired(shared);
    if idle.is_empty() {
        return;
    }
    tracing::info!(sessions = idle.len(), "removing uploads that nobody went on with");
    for session in idle {
        if let Err(error) = give_up(shared, &session).await {
            tracing::warn!(%error, "an abandoned upload cannot be removed now");
        }
    }
}

/// Ends all uploads to a repository that is no more.
pub(super) async fn give_up_all(shared: &Arc<Shared>, repository: RepositoryId) {
    let sessions = shared.uploads.live.iter().map(|entry| Arc::clone(entry.value()));
    let of: Vec<_> = sessions.filter(|session| session.image.repository == repository).collect();
    for session in of {
        if let Err(error) = give_up(shared, &session).await {
            tracing::warn!(%error, "an upload to a removed repository cannot be removed now");
        }
    }
}

/// Ends a session without a blob. Its file goes now, or when whoever works on it stops.
pub(super) async fn give_up(shared: &Arc<Shared>, session: &Session) -> Result<(), EngineError> {
    remove(shared, session, Durability::Relaxed).await
}

/// Ends a session whose draft has lost a write: no later start may take it up.
pub(super) async fn lost(shared: &Arc<Shared>, session: &Session) {
    if let Err(error) = remove(shared, session, Durability::Durable).await {
        // Its file is gone, so it comes to life as an empty one at the worst.
        tracing::warn!(%error, "the row of a lost upload stays until the next start");
    }
}

async fn remove(shared: &Arc<Shared>, session: &Session, durability: Durability) -> Result<(), EngineError> {
    if !shared.uploads.end(session) {
        return Ok(());
    }
    // The row first: a file without one goes at the next start, a row without its file would come to life again.
    let mut batch = Batch::new(durability);
    batch.delete::<SessionRow>(&session.id);
    let forgotten = shared.meta.apply(batch).await;
    if let Ok(mut state) = session.state.try_lock() {
        *state = State::Taken;
        let draft = session.draft;
        shared.read(move |shared| Ok(shared.store.remove_draft(draft)?)).await?;
    }
    Ok(forgotten?)
}

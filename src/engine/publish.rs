//! Owns the moment at which content becomes ours for good: its file durable under its digest, then one durable batch
//! that says so, then the pin; all under a claim, so that no eviction falls between.
//! Must not know: HTTP, how the bytes came.

use std::time::Duration;

use tokio::sync::oneshot;

use super::Engine;
use super::answers::Of;
use super::flight::{FlightKey, Source};
use super::guards::Claim;
use super::manifests::source;
use super::model::{EngineError, ErrorKind, Scope};
use super::shared::Shared;
use super::upload::not_kept_by_disk;
use super::uploads::Session;
use super::verify::verify;
use crate::cache::Event;
use crate::meta::{
    Batch, ContentRow, CopyRow, Durability as Commit, HolderRow, LinkRow, MetaError, MetaExt as _,
    RepositoryRow, SessionRow,
};
use crate::names::{Digest, RepositoryId};
use crate::planted::Bug;
use crate::store::{Draft, Durability, Trouble};

/// A row that others change at the same time is looked at again this often.
const TRIES: usize = 5;
/// Images that are asked whether a blob may be mounted from them, where the client names none.
const MOST_HOLDERS: usize = 100;
/// How long a planted bug stays in the wrong order: a window that a kill hits.
const PLANTED: Duration = Duration::from_millis(100);

impl Engine {
    /// Runs `job` to its end, also where the caller stops waiting for its answer: what was begun in the metadata is
    /// then carried on to what is known in memory.
    pub async fn to_its_end<T, E, F>(&self, job: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<EngineError> + Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        self.shared.tasks.spawn(async move {
            // Nobody listens where the caller has stopped waiting.
            let _ = answer.send(job.await);
        });
        answered.await.unwrap_or_else(|_| {
            Err(EngineError::new(ErrorKind::Internal, "a change ended without saying how").into())
        })
    }

    /// Makes an upload the blob that it was found to be. Answers its size.
    pub(super) async fn publish(
        &self,
        session: &Session,
        draft: Draft,
        digest: Digest,
    ) -> Result<u64, EngineError> {
        let published = self.publish_draft(session, draft, digest).await;
        if published.is_err() {
            // Its draft is gone with the attempt.
            let mut batch = Batch::new(Commit::Relaxed);
            batch.delete::<SessionRow>(&session.id);
            if let Err(error) = self.shared.meta.apply(batch).await {
                tracing::debug!(%error, "the row of a failed upload stays until the next start");
            }
        }
        published
    }

    async fn publish_draft(
        &self,
        session: &Session,
        draft: Draft,
        digest: Digest,
    ) -> Result<u64, EngineError> {
        let shared = &self.shared;
        let size = draft.len();
        let claim = self.coordination.claim(digest).await?;
        {
            let _turn = shared.turns.take(&digest).await;
            if Bug::RowBeforeFile.is_planted() {
                let batch = self.rows_of(session, &digest, size).await?;
                shared.meta.apply(batch).await.map_err(of_repository)?;
                tokio::time::sleep(PLANTED).await;
            }
            let published = draft.publish(&digest, Durability::Durable).await;
            published.map_err(|error| not_kept_by_disk(&error))?;
            let batch = self.rows_of(session, &digest, size).await?;
            shared.meta.apply(batch).await.map_err(of_repository)?;
        }
        self.pinned(&digest, size, session.image.repository).await;
        drop(claim);
        self.linked(&session.image, &digest);
        shared.uploads.note_finished(session, digest);
        Ok(size)
    }

    /// What says that an upload's blob lies here, and ends the upload.
    async fn rows_of(&self, session: &Session, digest: &Digest, size: u64) -> Result<Batch, EngineError> {
        let link = self.blob_link(&session.image, digest, size).await?;
        let mut batch = Batch::new(promised());
        link_to(&self.shared, &mut batch, &session.image, digest, &link);
        batch.put(digest, &ContentRow { size, pushed: true });
        batch.put(digest, &durable_copy(&self.shared, size, session.image.repository));
        batch.delete::<SessionRow>(&session.id);
        Ok(batch)
    }

    /// Links a blob that another image has. Answers whether that was possible; if not, it is to be uploaded. The
    /// caller may read the sources; an image that has the blob itself is one.
    pub async fn mount(
        &self,
        scope: &Scope,
        digest: &Digest,
        sources: &[Scope],
    ) -> Result<bool, EngineError> {
        let target = source(scope);
        let sources: Vec<_> = std::iter::once(target.clone()).chain(sources.iter().map(source)).collect();
        let (engine, digest) = (self.clone(), *digest);
        self.to_its_end(async move { engine.mount_from(&target, &digest, &sources).await }).await
    }

    async fn mount_from(
        &self,
        target: &Source,
        digest: &Digest,
        sources: &[Source],
    ) -> Result<bool, EngineError> {
        let Some(from) = self.linked_from(digest, sources).await? else { return Ok(false) };
        let Some(kept) = self.keep(digest, target.repository).await? else { return Ok(false) };
        let link = self.blob_link(target, digest, kept.size).await?;
        let mut batch = Batch::new(Commit::Durable);
        batch.require_present::<LinkRow>(&(from.repository, from.image.clone(), *digest));
        batch.require_present::<ContentRow>(digest);
        link_to(&self.shared, &mut batch, target, digest, &link);
        match self.shared.meta.apply(batch).await {
            Ok(()) => {}
            // Removed from the source since it was looked at.
            Err(MetaError::Conflict(_)) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        self.linked(target, digest);
        Ok(true)
    }

    async fn linked_from(&self, digest: &Digest, sources: &[Source]) -> Result<Option<Source>, EngineError> {
        let (digest, sources) = (*digest, sources.to_vec());
        self.shared
            .read(move |shared| {
                for source in sources {
                    let key = (source.repository, source.image.clone(), digest);
                    if shared.meta.get::<LinkRow>(&key)?.is_some() {
                        return Ok(Some(source));
                    }
                }
                Ok(None)
            })
            .await
    }

    /// Images of local repositories that hold a digest: where it may be mounted from if the client names none.
    pub async fn holders(&self, digest: &Digest) -> Result<Vec<Scope>, EngineError> {
        let digest = *digest;
        self.shared
            .read(move |shared| {
                let rows = shared.meta.scan::<HolderRow>(&digest, None, MOST_HOLDERS)?;
                let scope = |(_, id, image): (Digest, RepositoryId, _)| {
                    Some(Scope { repository: shared.repositories.by_id(id)?, image })
                };
                Ok(rows.into_iter().filter_map(|(key, _)| scope(key)).collect())
            })
            .await
    }

    /// Makes whatever copy lies here one that stays: durable, pinned, as if it had been pushed. It may go again once
    /// the answer is dropped and nobody has linked it. `None`: there is no sound copy.
    pub(super) async fn keep(
        &self,
        digest: &Digest,
        repository: RepositoryId,
    ) -> Result<Option<Kept>, EngineError> {
        let claim = self.coordination.claim(*digest).await?;
        for _ in 0..TRIES {
            let Some(copy) = self.sound_copy(digest).await? else { return Ok(None) };
            let size = copy.size;
            if copy.durable && copy.pushed {
                return Ok(Some(Kept { size, _claim: claim }));
            }
            if !copy.durable && !verify(&self.shared, digest).await? {
                return Ok(None);
            }
            if self.promote(digest, repository).await? {
                self.pinned(digest, size, repository).await;
                return Ok(Some(Kept { size, _claim: claim }));
            }
        }
        Ok(None)
    }

    async fn sound_copy(&self, digest: &Digest) -> Result<Option<Found>, EngineError> {
        let digest = *digest;
        self.shared
            .read(move |shared| {
                let Some(copy) = shared.meta.get::<CopyRow>(&digest)? else { return Ok(None) };
                let whole = shared.store.open(&digest)?.is_some_and(|blob| blob.size() == copy.size);
                let pushed = shared.meta.get::<ContentRow>(&digest)?.is_some_and(|content| content.pushed);
                Ok(whole.then_some(Found { size: copy.size, durable: copy.durable, pushed }))
            })
            .await
    }

    /// File, directory, then the rows. `false`: somebody else changed the row; look again.
    async fn promote(&self, digest: &Digest, repository: RepositoryId) -> Result<bool, EngineError> {
        let shared = &self.shared;
        let digest = *digest;
        let _turn = shared.turns.take(&digest).await;
        let promoted = shared
            .read(move |shared| {
                let Some(copy) = shared.meta.get::<CopyRow>(&digest)? else { return Ok(None) };
                Ok(Some(shared.store.promote(&digest).map(|promoted| promoted.then_some(copy))))
            })
            .await?;
        let copy = match promoted {
            Some(Ok(Some(copy))) => copy,
            None | Some(Ok(None)) => return Ok(false),
            Some(Err(error)) => {
                if Trouble::of(&error) != Trouble::Shortage {
                    self.lost(&digest).await;
                }
                return Err(not_kept_by_disk(&error));
            }
        };
        let mut batch = Batch::new(Commit::Durable);
        batch.require_equal(&digest, &copy);
        batch.put(&digest, &durable_copy(shared, copy.size, repository));
        batch.put(&digest, &ContentRow { size: copy.size, pushed: true });
        match shared.meta.apply(batch).await {
            Ok(()) => Ok(true),
            Err(MetaError::Conflict(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The copy is ours: the coordinator never evicts it from now on.
    async fn pinned(&self, digest: &Digest, size: u64, repository: RepositoryId) {
        if Bug::PushNotPinned.is_planted() {
            return;
        }
        let key = FlightKey::Content(*digest);
        self.coordination.tell(Event::Added { key, upstream: repository.0, size, pinned: true }).await;
    }

    /// The image may show the blob: what was answered before is not true any more.
    fn linked(&self, image: &Source, digest: &Digest) {
        self.shared.answers.committed(image.repository, &image.image, [Of::Blob(*digest)]);
    }

    /// A blob's link. That the image has the same bytes as a manifest, too, stays known.
    async fn blob_link(&self, image: &Source, digest: &Digest, size: u64) -> Result<LinkRow, EngineError> {
        let key = (image.repository, image.image.clone(), *digest);
        let there = self.shared.read(move |shared| Ok(shared.meta.get::<LinkRow>(&key)?)).await?;
        Ok(LinkRow { media_type: there.and_then(|link| link.media_type), size, stamp: None })
    }
}

/// What a 201 says is on the disk.
pub(super) fn promised() -> Commit {
    if Bug::PromisedTooEarly.is_planted() { Commit::Relaxed } else { Commit::Durable }
}

/// A copy that lies here whole, as far as its length tells.
struct Found {
    size: u64,
    durable: bool,
    pushed: bool,
}

/// Content that stays at least as long as this lives.
pub(super) struct Kept {
    pub size: u64,
    _claim: Claim,
}

/// The link of a pushed digest and its counterpart, unless the repository is gone meanwhile.
pub(super) fn link_to(shared: &Shared, batch: &mut Batch, image: &Source, digest: &Digest, link: &LinkRow) {
    let Source { repository, image } = image;
    batch.require_present::<RepositoryRow>(repository);
    batch.put(&(*repository, image.clone(), *digest), link);
    batch.put(&(*digest, *repository, image.clone()), &HolderRow { stamp: shared.stamp() });
}

fn durable_copy(shared: &Shared, size: u64, repository: RepositoryId) -> CopyRow {
    let last_used_ms = shared.clock.wall().0;
    CopyRow { size, durable: true, epoch: shared.epoch, last_used_ms, upstream: repository.0 }
}

/// A conflict of a batch whose only requirement is its repository.
pub(super) fn of_repository(error: MetaError) -> EngineError {
    match error {
        MetaError::Conflict(_) => {
            EngineError::new(ErrorKind::NameUnknown, "the repository was removed meanwhile")
        }
        error => error.into(),
    }
}

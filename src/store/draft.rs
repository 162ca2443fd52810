//! Owns the writing half of a growing blob: what is written and hashed, and the one end it comes to.
//! Must not know: where the bytes come from, who reads them.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::file::StoreFile;
use super::growth::{Growth, Piece, Written, hash, longest_match};
use super::layout::Layout;
use super::reader::Blob;
use super::tail::{self, End, Tail};
use super::writer::{HandedIn, Lane};
use super::{DraftId, Durability};
use crate::names::{Algorithm, Digest, Hasher};
use crate::planted::Bug;

/// A place that a draft can be taken up from after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub len: u64,
    /// The digest of the first `len` bytes, in the draft's algorithm.
    pub prefix: Digest,
}

/// What a draft is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) id: DraftId,
    pub(super) file: Arc<StoreFile>,
    pub(super) layout: Arc<Layout>,
    pub(super) lane: Lane,
}

/// A blob that grows. It has one owner and comes to one end: published, completed without, failed, or kept for
/// the next start. Dropping it without any of these is a failure.
#[derive(Debug)]
pub struct Draft {
    parts: Parts,
    growth: Arc<Growth>,
    /// What was handed in and is not known to be written, in its order.
    appending: VecDeque<HandedIn<()>>,
    /// Where the next piece begins, if all of that is written.
    handed_in: u64,
    syncing: Option<Syncing>,
    /// How much there was when it began.
    synced: u64,
    /// A sync has failed: nobody knows what the disk has of it.
    lost: bool,
    /// It has come to its end; nothing is left for the drop to do.
    ended: bool,
}

/// A sync beside the appends.
type Syncing = JoinHandle<io::Result<()>>;

/// How far a draft is, for who does not own it.
#[derive(Clone, Debug)]
pub struct Length {
    growth: Arc<Growth>,
    lane: Lane,
}

impl Length {
    pub fn now(&self) -> u64 {
        self.growth.written().len
    }

    /// When all that was handed in by now is written, or has failed.
    pub async fn settled(&self) -> u64 {
        // Without writer threads there is nothing to wait for.
        let _ = self.lane.run(|| Ok(())).await;
        self.now()
    }
}

/// A draft that nobody works on: no open file, only what is known of its bytes. It stays on disk until it is woken
/// or removed by its number.
#[derive(Debug)]
pub struct Resting {
    id: DraftId,
    growth: Arc<Growth>,
    /// Nobody waits for these any more, and they are written all the same.
    appending: VecDeque<HandedIn<()>>,
    syncing: Option<Syncing>,
    synced: u64,
    lost: bool,
}

/// A draft whose file could not be opened: it rests on.
#[derive(Debug)]
pub struct Asleep {
    pub resting: Box<Resting>,
    pub error: io::Error,
}

impl Resting {
    pub fn id(&self) -> DraftId {
        self.id
    }

    pub fn len(&self) -> u64 {
        self.growth.written().len
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Blocks until nothing is written to it any more.
    pub(super) fn wake(mut self, parts: Parts) -> Draft {
        for piece in self.appending.drain(..) {
            // How it went shows in what is written.
            let _ = piece.wait();
        }
        let written = self.growth.written().clone();
        let mut draft = Draft::from_written(parts, written);
        (draft.syncing, draft.synced, draft.lost) = (self.syncing, self.synced, self.lost);
        draft
    }
}

impl Draft {
    pub(super) fn new(parts: Parts, algorithm: Algorithm) -> Self {
        Self::from_written(parts, Written { len: 0, hasher: Hasher::new(algorithm) })
    }

    /// Cuts what an earlier run left to the longest of `checkpoints` that its bytes bear out. Where none does the
    /// file goes, and there is no draft.
    pub(super) fn resume(
        parts: Parts,
        algorithm: Algorithm,
        checkpoints: &[Checkpoint],
    ) -> io::Result<Option<Self>> {
        match longest_match(&parts.file, algorithm, checkpoints)? {
            Some(written) => {
                parts.file.cut(written.len)?;
                Ok(Some(Self::from_written(parts, written)))
            }
            None => parts.layout.remove_draft(parts.id).map(|_| None),
        }
    }

    /// Takes up all that an earlier run left.
    pub(super) fn resume_all(parts: Parts, algorithm: Algorithm) -> io::Result<Self> {
        let len = parts.file.len()?;
        let hasher = hash(&parts.file, algorithm, len)?;
        Ok(Self::from_written(parts, Written { len, hasher }))
    }

    fn from_written(parts: Parts, written: Written) -> Self {
        let (handed_in, appending) = (written.len, VecDeque::new());
        let growth = Arc::new(Growth::new(written));
        Self { parts, growth, appending, handed_in, syncing: None, synced: 0, lost: false, ended: false }
    }

    pub fn id(&self) -> DraftId {
        self.parts.id
    }

    /// Bytes written and hashed.
    pub fn len(&self) -> u64 {
        self.growth.written().len
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn length(&self) -> Length {
        Length { growth: Arc::clone(&self.growth), lane: self.parts.lane.clone() }
    }

    /// What its bytes are hashed with.
    pub fn algorithm(&self) -> Algorithm {
        self.growth.written().hasher.algorithm()
    }

    pub fn tail(&self) -> Tail {
        Tail::new(Arc::clone(&self.parts.file), self.growth.progress.subscribe())
    }

    /// Says the final size. `None`: unknown, and nothing is readable until the draft is complete. The first size
    /// stands, since readers have been told; a draft that ends up with another one is not published.
    pub fn announce(&mut self, size: Option<u64>) {
        self.growth.progress.send_if_modified(|progress| {
            let news = progress.size.is_none() && size.is_some();
            if news {
                progress.size = size;
                progress.advance(self.growth.written().len);
            }
            news
        });
    }

    /// Sets disk space aside for `size` bytes in all. A full disk is `ErrorKind::StorageFull`.
    pub async fn reserve(&mut self, size: u64) -> io::Result<()> {
        let (file, growth) = (Arc::clone(&self.parts.file), Arc::clone(&self.growth));
        self.parts.lane.run(move || file.reserve(growth.written().len, size)).await
    }

    /// Writes and hashes `chunks`, then lets readers at them. All or nothing: after an error, a full disk say,
    /// the draft is as it was, and the same chunks may be tried again.
    pub async fn append(&mut self, chunks: Vec<Bytes>) -> io::Result<()> {
        self.hand_in(chunks).await?;
        self.settle().await
    }

    /// The same, but waits only until what was appended before is written: so the writer thread finds the next piece
    /// there when it is done with one. An error may be that of the piece before; the draft ends where that begins then.
    pub async fn append_behind(&mut self, chunks: Vec<Bytes>) -> io::Result<()> {
        self.hand_in(chunks).await?;
        match self.wait_for_all_but(1).await {
            Ok(()) => Ok(()),
            Err(error) => {
                // What comes behind it fails as well.
                let _ = self.settle().await;
                Err(error)
            }
        }
    }

    /// Waits until all that was appended is written.
    pub async fn settle(&mut self) -> io::Result<()> {
        let settled = self.wait_for_all_but(0).await;
        self.handed_in = self.len();
        settled
    }

    async fn hand_in(&mut self, chunks: Vec<Bytes>) -> io::Result<()> {
        let (parts, growth) = (&self.parts, Arc::clone(&self.growth));
        let (file, lane) = (Arc::clone(&parts.file), parts.lane.clone());
        let size = chunks.iter().map(Bytes::len).sum::<usize>();
        let piece = Piece { at: self.handed_in, size, chunks };
        let append = move || growth.append(&file, piece, &lane);
        self.appending.push_back(parts.lane.hand_in(append).await?);
        self.handed_in += size as u64;
        Ok(())
    }

    /// The first error counts.
    async fn wait_for_all_but(&mut self, rest: usize) -> io::Result<()> {
        let mut all = Ok(());
        while self.appending.len() > rest
            && let Some(first) = self.appending.front_mut()
        {
            let appended = first.answer().await;
            self.appending.pop_front();
            all = all.and(appended);
        }
        all
    }

    pub fn checkpoint(&self) -> Checkpoint {
        let written = self.growth.written().clone();
        Checkpoint { len: written.len, prefix: written.hasher.finish() }
    }

    /// The hash of all bytes so far, to go on from elsewhere.
    pub fn hasher(&self) -> Hasher {
        self.growth.written().hasher.clone()
    }

    /// Of all bytes so far.
    pub fn digest(&self) -> Digest {
        self.checkpoint().prefix
    }

    /// Hashes all bytes so far with `algorithm`, and those to come too. Reads the file where it was another one.
    pub async fn rehash(&mut self, algorithm: Algorithm) -> io::Result<()> {
        let (file, written) = (Arc::clone(&self.parts.file), self.growth.written().clone());
        if written.hasher.algorithm() == algorithm {
            return Ok(());
        }
        // Not on a writer thread: the appends of others would wait behind it.
        let hashing = tokio::task::spawn_blocking(move || hash(&file, algorithm, written.len));
        let hasher = hashing.await.map_err(io::Error::other)??;
        self.growth.written().hasher = hasher;
        Ok(())
    }

    /// Has the disk begin with what was appended so far, where that is `least` bytes more than at the last time.
    /// Runs beside further appends, so that a durable publishing finds less to wait for. An error is that of the sync
    /// before: the draft is lost.
    pub async fn sync_ahead(&mut self, least: u64) -> io::Result<()> {
        let running = self.syncing.as_ref().is_some_and(|syncing| !syncing.is_finished());
        if running {
            return Ok(());
        }
        self.finish_sync().await?;
        if self.len() - self.synced < least {
            return Ok(());
        }
        self.synced = self.len();
        let (id, file, layout) = (self.id(), Arc::clone(&self.parts.file), Arc::clone(&self.parts.layout));
        self.syncing = Some(tokio::task::spawn_blocking(move || {
            file.sync_data().inspect_err(|error| {
                tracing::error!(draft = id.0, %error, "a write to a draft was lost: it is removed");
                // At once, whoever hears of it: the next start would find the file, sync it and believe that.
                remove_draft(&layout, id);
            })
        }));
        Ok(())
    }

    /// Waits for the sync that runs. The kernel tells of a lost write once: who has heard it must not sync again and
    /// believe that, so the draft is lost from then on, and its file is gone.
    async fn finish_sync(&mut self) -> io::Result<()> {
        if let Some(syncing) = &mut self.syncing {
            let synced = syncing.await.map_err(io::Error::other).flatten();
            self.syncing = None;
            self.lost |= synced.is_err();
            return synced;
        }
        if self.lost { Err(io::Error::other("a write to the draft was lost")) } else { Ok(()) }
    }

    /// Puts the draft to rest: its file stays and is closed.
    pub fn rest(mut self) -> Resting {
        self.end(End::Failed("the upload rests".into()));
        let (growth, syncing) = (Arc::clone(&self.growth), self.syncing.take());
        let appending = std::mem::take(&mut self.appending);
        Resting { id: self.parts.id, growth, appending, syncing, synced: self.synced, lost: self.lost }
    }

    /// Publishes under `digest`, then lets the last byte out. The caller has compared the digest; should it be
    /// wrong all the same, or the size not the announced one, the draft fails. Where only the publishing goes
    /// wrong the tails are complete even so, since the bytes are proven, and the error comes back.
    pub async fn publish(mut self, digest: &Digest, durability: Durability) -> io::Result<Blob> {
        if let Err(error) = self.settle().await.and(self.finish_sync().await) {
            return Err(self.refuse(error.to_string()));
        }
        let digest = *digest;
        // The job owns the draft: it comes to its end also where the caller stops waiting. It waits for the disk, or
        // compares what lies there already: on a writer thread the appends of others would wait behind it.
        let publishing = tokio::task::spawn_blocking(move || self.publish_now(&digest, durability));
        publishing.await.map_err(io::Error::other)?
    }

    fn publish_now(mut self, digest: &Digest, durability: Durability) -> io::Result<Blob> {
        let Checkpoint { len, prefix } = self.checkpoint();
        if prefix != *digest && !Bug::DigestNotCompared.is_planted() {
            return Err(self.refuse(format!("the bytes are {prefix}, not {digest}")));
        }
        self.check_size(len)?;
        let named = self.name(digest, len, durability);
        if Bug::UnkeptTailBroken.is_planted() && named.is_err() {
            self.end(End::Failed("it cannot be kept".into()));
        }
        self.end(End::Complete);
        if let Err(error) = named {
            // After a failed sync nobody knows what the disk has of it: it must not be tried again.
            self.remove();
            return Err(error);
        }
        Ok(Blob::new(Arc::clone(&self.parts.file), len))
    }

    fn name(&self, digest: &Digest, len: u64, durability: Durability) -> io::Result<()> {
        let Parts { id, file, layout, .. } = &self.parts;
        if file.len()? != len {
            // An append that failed half-way left bytes that do not count.
            file.cut(len)?;
        }
        match durability {
            Durability::Relaxed if layout.publish_new(*id, digest)? => Ok(()),
            // Who was first stays, if it is right: it may be a pushed one, which is synced.
            Durability::Relaxed if self.is_right(digest, len) => layout.remove_draft(*id).map(drop),
            Durability::Relaxed => layout.replace(*id, digest),
            Durability::Durable => {
                file.sync_data()?;
                layout.publish_durable(*id, digest)
            }
        }
    }

    /// Whether the bytes that lie under `digest` already are those. Their length alone would not tell: not every
    /// file system keeps length and bytes together when the power fails.
    fn is_right(&self, digest: &Digest, len: u64) -> bool {
        let there = self.parts.layout.open_blob(digest).ok().flatten();
        there.is_some_and(|file| {
            let file = self.parts.file.sibling(file);
            let blob = file.len().is_ok_and(|there| there == len).then(|| Blob::new(Arc::new(file), len));
            blob.is_some_and(|blob| blob.hash(digest.algorithm()).is_ok_and(|found| found == *digest))
        })
    }

    /// Completes the tails without publishing: the bytes are verified but cannot be kept. As with `publish`, a
    /// size other than the announced one is a failure.
    pub fn complete_unpublished(mut self) {
        if self.check_size(self.len()).is_ok() {
            self.end(End::Complete);
            self.remove();
        }
    }

    /// Ends every tail with `why` and deletes the file.
    pub fn fail(mut self, why: Arc<str>) {
        self.end(End::Failed(why));
        self.remove();
    }

    /// Ends every tail with `why` and leaves the file, synced, for the next start to go on from. One that cannot be
    /// synced goes.
    pub async fn keep(mut self, why: Arc<str>) -> io::Result<Checkpoint> {
        self.end(End::Failed(why));
        let lane = self.parts.lane.clone();
        lane.run(move || {
            let checkpoint = self.checkpoint();
            let kept = self.parts.file.cut(checkpoint.len).and_then(|()| self.parts.file.sync_data());
            if kept.is_err() {
                // The next start would find it, and a later sync of the same bytes would be believed.
                self.remove();
            }
            kept.map(|()| checkpoint)
        })
        .await
    }

    fn check_size(&mut self, len: u64) -> io::Result<()> {
        let announced = self.growth.progress.borrow().size;
        match announced {
            Some(size) if size != len => Err(self.refuse(format!("{len} bytes came, {size} were announced"))),
            _ => Ok(()),
        }
    }

    fn refuse(&mut self, why: String) -> io::Error {
        self.end(End::Failed(why.as_str().into()));
        self.remove();
        io::Error::new(io::ErrorKind::InvalidData, why)
    }

    /// The first end stands.
    fn end(&mut self, end: End) {
        self.ended = true;
        let len = self.len();
        self.growth.progress.send_if_modified(|progress| {
            let first = progress.end.is_none();
            if first {
                if end == End::Complete {
                    progress.size = Some(len);
                    progress.readable = len;
                }
                progress.end = Some(end);
            }
            first
        });
    }

    /// Removes the file on the writer thread, behind whatever still runs there. A file that will not go is swept
    /// at the next start.
    fn remove(&self) {
        if Bug::DraftLeftBehind.is_planted() {
            return;
        }
        let (id, layout) = (self.parts.id, Arc::clone(&self.parts.layout));
        self.parts.lane.post(move || remove_draft(&layout, id));
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.ended {
            self.end(End::Failed(tail::DIED.into()));
            self.remove();
        }
    }
}

fn remove_draft(layout: &Layout, id: DraftId) {
    if let Err(error) = layout.remove_draft(id) {
        tracing::warn!(draft = id.0, %error, "a draft was not removed");
    }
}

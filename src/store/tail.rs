//! Owns what others see of a draft: how far it may be read, and how it ended.
//! Must not know: who writes, and how.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::watch;
use tokio_util::sync::ReusableBoxFuture;

use super::file::StoreFile;
use super::reader::Reader;
use crate::planted::Bug;

/// Up to this size nothing is readable until the digest is verified: so small an answer is whole in one buffer,
/// and some clients keep whatever they got.
const WHOLE_HELD_BACK: u64 = 64 << 10;

/// What a tail says when the draft's owner vanished without a word.
pub(super) const DIED: &str = "the fill died";

/// How a draft ended. State, not a message: who looks later sees it too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// All bytes are there and verified.
    Complete,
    /// There will be no more bytes, for this reason.
    Failed(Arc<str>),
}

/// How far a draft is, for its readers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes before this offset may be read; they never change.
    pub readable: u64,
    /// The final size, where it is known.
    pub size: Option<u64>,
    pub end: Option<End>,
}

impl Progress {
    /// `written` bytes lie in the draft, unverified as a whole. The last byte is held back, so that no answer is
    /// ever complete and wrong.
    pub(super) fn advance(&mut self, written: u64) {
        let readable = match self.size {
            Some(size) if size > WHOLE_HELD_BACK && !Bug::LastByteNotHeld.is_planted() => {
                written.min(size - 1)
            }
            Some(_) if Bug::LastByteNotHeld.is_planted() => written,
            _ => 0,
        };
        self.readable = self.readable.max(readable);
    }

    /// Up to where a reader at `at` that wants to reach `end` can go: beyond `at` there are bytes, `at` itself is
    /// the clean end, an error breaks it off, `None` means wait.
    fn limit(&self, at: u64, end: Option<u64>) -> Option<io::Result<u64>> {
        let limit = end.map_or(self.readable, |end| end.min(self.readable));
        if at < limit {
            return Some(Ok(limit));
        }
        let arrived = end.or(self.size).is_some_and(|end| at >= end);
        match &self.end {
            // A part that leaves out the last byte says nothing about the whole, and needs no proof of it.
            _ if arrived && self.leaves_out_the_last(end) => Some(Ok(at)),
            Some(End::Complete) if arrived => Some(Ok(at)),
            Some(End::Complete) => Some(Err(too_short())),
            Some(End::Failed(why)) => Some(Err(broken_off(why))),
            None => None,
        }
    }

    fn leaves_out_the_last(&self, end: Option<u64>) -> bool {
        end.zip(self.size).is_some_and(|(end, size)| end < size)
    }
}

fn too_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the blob is shorter than what was to be read")
}

fn broken_off(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, why)
}

/// The reading half of a draft: many tails, each with readers of its own, none of which slows the writer.
#[derive(Clone, Debug)]
pub struct Tail {
    file: Arc<StoreFile>,
    progress: watch::Receiver<Progress>,
}

impl Tail {
    pub(super) fn new(file: Arc<StoreFile>, progress: watch::Receiver<Progress>) -> Self {
        Self { file, progress }
    }

    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Waits until the size is known or the end came.
    pub async fn size(&mut self) -> Result<u64, Arc<str>> {
        let known =
            self.progress.wait_for(|progress| progress.size.is_some() || progress.end.is_some()).await;
        let progress = known.map_err(|_| DIED)?;
        match (&progress.end, progress.size) {
            (Some(End::Failed(why)), _) => Err(Arc::clone(why)),
            (_, Some(size)) => Ok(size),
            (_, None) => Err(DIED.into()),
        }
    }

    /// Waits for the end: the size if it is complete, else why it is not.
    pub async fn finished(&mut self) -> Result<u64, Arc<str>> {
        let ended = self.progress.wait_for(|progress| progress.end.is_some()).await;
        let progress = ended.map_err(|_| DIED)?;
        match (&progress.end, progress.size) {
            (Some(End::Complete), Some(size)) => Ok(size),
            (Some(End::Failed(why)), _) => Err(Arc::clone(why)),
            _ => Err(DIED.into()),
        }
    }

    /// A reader from `start` to `end`, in offsets of the blob. `None`: to its end, wherever that will be.
    pub fn reader(&self, start: u64, end: Option<u64>) -> Reader {
        Reader::growing(Arc::clone(&self.file), Wait::new(self.progress.clone()), start, end)
    }
}

/// One reader's wait for a draft to grow.
#[derive(Debug)]
pub(super) struct Wait {
    progress: watch::Receiver<Progress>,
    /// The next change, `false` where there will be none. Holds anything of use only while `waiting`.
    change: ReusableBoxFuture<'static, bool>,
    waiting: bool,
}

impl Wait {
    fn new(progress: watch::Receiver<Progress>) -> Self {
        Self { progress, change: ReusableBoxFuture::new(std::future::pending()), waiting: false }
    }

    /// See `Progress::limit`.
    pub(super) fn poll_limit(
        &mut self,
        cx: &mut Context<'_>,
        at: u64,
        end: Option<u64>,
    ) -> Poll<io::Result<u64>> {
        loop {
            let alive = if self.waiting { ready!(self.change.poll(cx)) } else { true };
            self.waiting = false;
            // Marked as seen before it is judged: what changes after this line ends the wait below.
            if let Some(limit) = self.progress.borrow_and_update().limit(at, end) {
                return Poll::Ready(limit);
            }
            if !alive {
                return Poll::Ready(Err(broken_off(DIED)));
            }
            let mut progress = self.progress.clone();
            self.change.set(async move { progress.changed().await.is_ok() });
            self.waiting = true;
        }
    }

    /// Whether there is nothing for a reader at `at` right now.
    pub(super) fn is_dry(&self, at: u64, end: Option<u64>) -> bool {
        self.progress.borrow().limit(at, end).is_none()
    }

    pub(super) fn size(&self) -> Option<u64> {
        self.progress.borrow().size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advanced(size: Option<u64>, written: u64) -> u64 {
        let mut progress = Progress { size, ..Progress::default() };
        progress.advance(written);
        progress.readable
    }

    #[test]
    fn the_last_byte_of_a_large_and_all_of_a_small_blob_are_held_back() {
        const LARGE: u64 = WHOLE_HELD_BACK + 1;
        assert_eq!(advanced(Some(LARGE), 1), 1);
        assert_eq!(advanced(Some(LARGE), LARGE - 1), LARGE - 1);
        assert_eq!(advanced(Some(LARGE), LARGE), LARGE - 1);
        assert_eq!(advanced(Some(WHOLE_HELD_BACK), WHOLE_HELD_BACK), 0);
        assert_eq!(advanced(None, 1 << 30), 0);
    }

    #[test]
    fn only_proof_ends_a_reader_that_wants_the_last_byte() {
        let mut progress = Progress { readable: 99, size: Some(100), end: None };
        assert!(progress.limit(99, None).is_none());
        assert!(progress.limit(99, Some(100)).is_none());
        assert_eq!(progress.limit(50, Some(50)).unwrap().unwrap(), 50);
        assert!(Progress { size: Some(0), ..Progress::default() }.limit(0, None).is_none());
        progress.end = Some(End::Failed("wrong digest".into()));
        assert!(progress.limit(99, None).unwrap().is_err());
        assert_eq!(progress.limit(99, Some(99)).unwrap().unwrap(), 99);
        progress = Progress { readable: 100, size: Some(100), end: Some(End::Complete) };
        assert_eq!(progress.limit(99, None).unwrap().unwrap(), 100);
        assert_eq!(progress.limit(100, None).unwrap().unwrap(), 100);
        assert!(progress.limit(100, Some(101)).unwrap().is_err());
    }
}

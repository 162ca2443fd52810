//! Owns reading: a published blob, and the reader that turns a blob or a tail into chunks.
//! Must not know: digests' meaning, HTTP, who is slow.

use std::io;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use rustix::net::SendFlags;
use tokio::task::JoinHandle;

use super::buffer;
use super::file::{Identity, SendError, StoreFile};
use super::tail::Wait;
use crate::names::{Algorithm, Digest, Hasher};

/// An open published blob. It stays whole for who holds it, also after it was unlinked.
#[derive(Clone, Debug)]
pub struct Blob {
    file: Arc<StoreFile>,
    size: u64,
}

impl Blob {
    pub(super) fn new(file: Arc<StoreFile>, size: u64) -> Self {
        Self { file, size }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn identity(&self) -> io::Result<Identity> {
        self.file.identity()
    }

    /// A reader over `start..end`.
    pub fn reader(&self, start: u64, end: u64) -> Reader {
        Reader::new(Arc::clone(&self.file), Source::Whole, start, Some(end))
    }

    /// All of it, for what is known to be small. Waits for the disk.
    pub fn read_all(&self) -> io::Result<Bytes> {
        let mut all = Vec::with_capacity(usize::try_from(self.size).map_err(io::Error::other)?);
        self.file.read_each(0, self.size, |bytes| all.extend_from_slice(bytes))?;
        Ok(all.into())
    }

    /// The digest of what really lies there. Waits for the disk.
    pub fn hash(&self, algorithm: Algorithm) -> io::Result<Digest> {
        let mut hasher = Hasher::new(algorithm);
        self.file.read_each(0, self.size, |bytes| hasher.update(bytes))?;
        Ok(hasher.finish())
    }
}

/// The least that is worth a window; fewer bytes are as well copied.
const LEAST: usize = 64 << 10;
/// What is looked at, and sent, in one go.
const STRETCH: usize = 256 << 10;

/// A part of a blob that goes to a socket as far as possible from memory, past our own. It may wait for its client longer
/// than its bytes stay in memory, so they are looked at each time.
#[derive(Debug)]
pub struct Window {
    file: Arc<StoreFile>,
    at: u64,
    left: usize,
    next: Next,
    /// The system sends no files: all is read.
    refused: bool,
}

/// What is to be sent next.
#[derive(Debug)]
enum Next {
    Unknown,
    InMemory(usize),
    /// On the blocking pool.
    Reading(JoinHandle<io::Result<Bytes>>),
    Read(Bytes),
}

impl Window {
    /// How many bytes are still to be sent.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Waits until there is something to be sent that needs no waiting for the disk.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match &mut self.next {
                Next::InMemory(_) | Next::Read(_) => return Poll::Ready(Ok(())),
                Next::Reading(reading) => {
                    let read = ready!(Pin::new(reading).poll(cx));
                    self.next = Next::Unknown;
                    self.next = Next::Read(read.unwrap_or_else(|dead| Err(io::Error::other(dead)))?);
                }
                Next::Unknown => {
                    let most = self.left.min(STRETCH);
                    let here = if self.refused { 0 } else { self.file.in_memory(self.at, most) };
                    self.next = if here > 0 {
                        Next::InMemory(here)
                    } else {
                        // Little: many a client may be slow to take it.
                        let (file, at, want) = (Arc::clone(&self.file), self.at, most.min(LEAST));
                        Next::Reading(tokio::task::spawn_blocking(move || file.read_wait(at, want)))
                    };
                }
            }
        }
    }

    /// Sends as much as the socket takes now. 0: ask [`poll_ready`](Self::poll_ready) again.
    pub fn send(&mut self, socket: BorrowedFd<'_>) -> Result<usize, SendError> {
        let sent = match std::mem::replace(&mut self.next, Next::Unknown) {
            Next::InMemory(here) => {
                let sent = self.file.send(socket, self.at, here)?;
                self.refused = sent.is_none();
                sent.unwrap_or(0)
            }
            Next::Read(mut bytes) => {
                let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                let sent = rustix::net::send(socket, &bytes, flags);
                bytes.advance(*sent.as_ref().unwrap_or(&0));
                if !bytes.is_empty() {
                    self.next = Next::Read(bytes);
                }
                sent.map_err(|error| SendError::Socket(error.into()))?
            }
            unready => {
                self.next = unready;
                0
            }
        };
        self.at += sent as u64;
        self.left -= sent;
        Ok(sent)
    }
}

/// Reads a blob or a tail, in order, from start to end. Between two chunks it holds no buffer.
#[derive(Debug)]
pub struct Reader {
    file: Arc<StoreFile>,
    source: Source,
    start: u64,
    at: u64,
    end: Option<u64>,
    /// A read that has to wait for the disk, on the blocking pool.
    reading: Option<JoinHandle<io::Result<Bytes>>>,
    broken: bool,
}

#[derive(Debug)]
enum Source {
    Whole,
    Growing(Wait),
}

impl Reader {
    fn new(file: Arc<StoreFile>, source: Source, start: u64, end: Option<u64>) -> Self {
        Self { file, source, start, at: start, end, reading: None, broken: false }
    }

    pub(super) fn growing(file: Arc<StoreFile>, wait: Wait, start: u64, end: Option<u64>) -> Self {
        Self::new(file, Source::Growing(wait), start, end)
    }

    /// How many bytes are still to come; `None` while nobody knows.
    pub fn remaining(&self) -> Option<u64> {
        let end = match &self.source {
            Source::Whole => self.end,
            Source::Growing(wait) => self.end.or_else(|| wait.size()),
        };
        end.map(|end| end.saturating_sub(self.at))
    }

    /// How many bytes it has given out.
    pub fn sent(&self) -> u64 {
        self.at - self.start
    }

    /// Whether it waits for the fill: no bytes are ready, and that is not the client's fault. This is asked
    /// afresh each time: bytes may have come since the last poll.
    pub fn is_waiting(&self) -> bool {
        match &self.source {
            Source::Whole => false,
            Source::Growing(wait) => self.reading.is_none() && wait.is_dry(self.at, self.end),
        }
    }

    /// The next bytes, at most `max`. `None` is the proven end; after an error the body must be broken off,
    /// never ended.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<Option<io::Result<Bytes>>> {
        if self.broken {
            return Poll::Ready(Some(Err(io::Error::other("this reader has failed before"))));
        }
        match ready!(self.poll_read(cx, max)) {
            Ok(Some(bytes)) => {
                self.at += bytes.len() as u64;
                Poll::Ready(Some(Ok(bytes)))
            }
            Ok(None) => Poll::Ready(None),
            Err(error) => {
                self.broken = true;
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    /// What comes next, at most `most` bytes, to be sent past our memory; as if it had been read. `None` where it is
    /// little, where its beginning has to be waited for, or where it may still change places.
    pub fn window(&mut self, most: usize) -> Option<Window> {
        let (Source::Whole, None, false) = (&self.source, &self.reading, self.broken) else { return None };
        let left = self.end?.saturating_sub(self.at);
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(most);
        if most < LEAST {
            return None;
        }
        if self.file.in_memory(self.at, LEAST) < LEAST {
            return None;
        }
        let window = Window {
            file: Arc::clone(&self.file),
            at: self.at,
            left: most,
            next: Next::Unknown,
            refused: false,
        };
        self.at += most as u64;
        Some(window)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<io::Result<Option<Bytes>>> {
        let mut reading = match self.reading.take() {
            Some(reading) => reading,
            None => {
                let limit = ready!(self.poll_limit(cx))?;
                if limit <= self.at {
                    return Poll::Ready(Ok(None));
                }
                let ready = usize::try_from(limit - self.at).unwrap_or(usize::MAX);
                let want = buffer::chunk(max).min(ready);
                // Bytes in the page cache are had for less than a change of threads costs.
                if let Some(bytes) = self.file.read_now(self.at, want)? {
                    return Poll::Ready(Ok(Some(bytes)));
                }
                let (file, at) = (Arc::clone(&self.file), self.at);
                tokio::task::spawn_blocking(move || file.read_wait(at, want))
            }
        };
        match Pin::new(&mut reading).poll(cx) {
            Poll::Ready(read) => {
                Poll::Ready(read.unwrap_or_else(|dead| Err(io::Error::other(dead))).map(Some))
            }
            Poll::Pending => {
                self.reading = Some(reading);
                Poll::Pending
            }
        }
    }

    fn poll_limit(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        match &mut self.source {
            Source::Whole => Poll::Ready(Ok(self.end.unwrap_or(self.at))),
            Source::Growing(wait) => wait.poll_limit(cx, self.at, self.end),
        }
    }
}

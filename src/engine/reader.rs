//! Owns what a body reads from: memory, a stored blob, a fill under way, or a fetch past the cache; and how it
//! moves from one to the next without the client noticing.
//! Must not know: HTTP, who reads.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::Engine;
use super::actor::Joined;
use super::blobs;
use super::bypass::Bypass;
use super::flight::{FlightTail, Parting, Salvage};
use super::manifests::source;
use super::model::Scope;
use crate::cache::Refusal;
use crate::names::{ByteRange, Digest, Hasher};
use crate::store::{self, Blob, SendError};

/// How often a reader that was sent nothing yet follows a fill to its next draft.
const MOVES: usize = 3;

/// What a reader of a fill was promised, to go on with after a change.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub scope: Scope,
    pub digest: Digest,
    pub size: u64,
    pub start: u64,
    pub end: u64,
    /// Whether this image was shown to have the digest, or only its own fetch will show it.
    pub proven: bool,
}

/// Reads a blob, or a part of one, in order.
pub struct Reader {
    inner: Inner,
    sent: u64,
    total: u64,
}

type Moving = Pin<Box<dyn Future<Output = io::Result<Inner>> + Send>>;
type Streaming = Pin<Box<dyn Future<Output = (Bypass, Option<io::Result<Bytes>>)> + Send>>;

enum Inner {
    Memory(Bytes),
    Stored(Box<Stored>),
    Along(Box<Along>),
    Moving(Moving),
    Past(Box<Past>),
    /// Ended, well or badly.
    Over,
}

/// Reading a copy that lies here.
struct Stored {
    engine: Engine,
    reader: store::Reader,
    digest: Digest,
    blob: Blob,
}

/// Reading a fill's draft.
struct Along {
    engine: Engine,
    reader: store::Reader,
    parting: Arc<OnceLock<Parting>>,
    wanted: Wanted,
    moves: usize,
}

/// Reading past the cache.
struct Past {
    streaming: Streaming,
    /// Blob offsets still to be delivered.
    start: u64,
    end: u64,
    left: Bytes,
}

impl Reader {
    pub(super) fn memory(bytes: Bytes) -> Self {
        let total = bytes.len() as u64;
        Self { inner: Inner::Memory(bytes), sent: 0, total }
    }

    pub(super) fn stored(engine: Engine, digest: Digest, blob: Blob, part: ByteRange) -> Self {
        let total = part.end - part.start;
        Self { inner: stored(engine, digest, blob, part), sent: 0, total }
    }

    pub(super) fn along(engine: Engine, flight: FlightTail, wanted: Wanted) -> Self {
        let total = wanted.end - wanted.start;
        Self { inner: along(engine, flight, wanted, MOVES), sent: 0, total }
    }

    pub(super) fn past(bypass: Bypass, start: u64, end: u64) -> Self {
        Self { inner: past(bypass, start, end), sent: 0, total: end - start }
    }

    /// The next piece, at most `max` bytes. `None` is the clean end; an error means that the body must break.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<Option<io::Result<Bytes>>> {
        let chunk = ready!(self.poll_inner(cx, max));
        match &chunk {
            Some(Ok(bytes)) => self.sent += bytes.len() as u64,
            Some(Err(_)) => self.inner = Inner::Over,
            None if self.sent < self.total => {
                self.inner = Inner::Over;
                let short = io::Error::new(io::ErrorKind::UnexpectedEof, "the blob is shorter than promised");
                return Poll::Ready(Some(Err(short)));
            }
            None => {}
        }
        Poll::Ready(chunk)
    }

    /// The next piece, at most `most` bytes, where it can go from a copy in memory to a socket without being read here.
    pub fn window(&mut self, most: usize) -> Option<Window> {
        let Inner::Stored(stored) = &mut self.inner else { return None };
        let window = stored.reader.window(most)?;
        self.sent += window.left() as u64;
        Some(Window {
            window,
            engine: stored.engine.clone(),
            digest: stored.digest,
            blob: stored.blob.clone(),
        })
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            match &mut self.inner {
                Inner::Memory(bytes) if bytes.is_empty() => return Poll::Ready(None),
                Inner::Memory(bytes) => {
                    return Poll::Ready(Some(Ok(bytes.split_to(max.max(1).min(bytes.len())))));
                }
                Inner::Stored(stored) => return stored.poll_chunk(cx, max),
                Inner::Along(along) => match ready!(along.reader.poll_chunk(cx, max)) {
                    Some(Err(error)) => match along.next_place(self.sent) {
                        Some(moving) => self.inner = Inner::Moving(moving),
                        None => return Poll::Ready(Some(Err(error))),
                    },
                    chunk => return Poll::Ready(chunk),
                },
                Inner::Moving(moving) => match ready!(moving.as_mut().poll(cx)) {
                    Ok(inner) => self.inner = inner,
                    Err(error) => return Poll::Ready(Some(Err(error))),
                },
                Inner::Past(past) => return past.poll_chunk(cx, max),
                Inner::Over => return Poll::Ready(None),
            }
        }
    }
}

fn stored(engine: Engine, digest: Digest, blob: Blob, part: ByteRange) -> Inner {
    let reader = blob.reader(part.start, part.end);
    Inner::Stored(Box::new(Stored { engine, reader, digest, blob }))
}

fn along(engine: Engine, flight: FlightTail, wanted: Wanted, moves: usize) -> Inner {
    let FlightTail { tail, parting } = flight;
    let reader = tail.reader(wanted.start, Some(wanted.end));
    Inner::Along(Box::new(Along { engine, reader, parting, wanted, moves }))
}

fn past(bypass: Bypass, start: u64, end: u64) -> Inner {
    Inner::Past(Box::new(Past { streaming: stream(bypass), start, end, left: Bytes::new() }))
}

fn stream(mut bypass: Bypass) -> Streaming {
    Box::pin(async move {
        let piece = bypass.next().await;
        (bypass, piece)
    })
}

impl Stored {
    fn poll_chunk(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<Option<io::Result<Bytes>>> {
        match ready!(self.reader.poll_chunk(cx, max)) {
            Some(Err(error)) => {
                Poll::Ready(Some(Err(unreadable(&self.engine, self.digest, &self.blob, error))))
            }
            chunk => Poll::Ready(chunk),
        }
    }
}

/// A stretch of a stored copy that goes from memory to a socket.
pub struct Window {
    window: store::Window,
    engine: Engine,
    digest: Digest,
    blob: Blob,
}

impl Window {
    /// How many bytes are still to be sent.
    pub fn left(&self) -> usize {
        self.window.left()
    }

    /// Waits until there is something to be sent that needs no waiting for the disk.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ready = ready!(self.window.poll_ready(cx));
        Poll::Ready(ready.map_err(|error| unreadable(&self.engine, self.digest, &self.blob, error)))
    }

    /// Sends as much as the socket takes now. 0: ask [`poll_ready`](Self::poll_ready) again.
    pub fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.window.send(socket).map_err(|error| match error {
            SendError::Socket(error) => error,
            SendError::File(error) => unreadable(&self.engine, self.digest, &self.blob, error),
        })
    }
}

/// Where the disk does not give the bytes back the body breaks off; what was sent cannot be trusted either. The next
/// request fetches the blob again.
fn unreadable(engine: &Engine, digest: Digest, blob: &Blob, error: io::Error) -> io::Error {
    let told = io::Error::new(error.kind(), "the file storage could not be read");
    engine.report_unreadable(digest, blob.clone(), error);
    told
}

impl Along {
    /// Where to go on after the fill failed: past the cache if it ran out of space, to the fill's next draft, or that of
    /// another fill where only another source failed, if nothing was sent yet, else nowhere.
    fn next_place(&self, sent: u64) -> Option<Moving> {
        let engine = self.engine.clone();
        let wanted = Wanted { start: self.wanted.start + sent, ..self.wanted.clone() };
        match self.parting.get() {
            Some(Parting::Salvage(salvage)) => {
                return Some(Box::pin(go_past(engine, wanted, salvage.clone())));
            }
            Some(Parting::Failed { source: lead, .. }) if *lead == source(&wanted.scope) => return None,
            Some(Parting::Failed { .. }) | None => {}
        }
        let moves = self.moves.checked_sub(1)?;
        (sent == 0).then(|| -> Moving { Box::pin(follow(engine, wanted, moves)) })
    }
}

async fn go_past(engine: Engine, wanted: Wanted, mut salvage: Salvage) -> io::Result<Inner> {
    if wanted.start < salvage.at {
        // What was held back of the draft is out of reach: from the beginning, then.
        salvage = Salvage { at: 0, hasher: Hasher::new(wanted.digest.algorithm()) };
    }
    let Wanted { scope, digest, size, start, end, .. } = wanted;
    let bypass = Bypass::go_on(&engine.shared, &scope, &digest, Some(size), &salvage).await;
    Ok(past(bypass.map_err(io::Error::other)?, start, end))
}

async fn follow(engine: Engine, wanted: Wanted, moves: usize) -> io::Result<Inner> {
    let joined =
        engine.join_content(&wanted.scope, &wanted.digest, wanted.proven).await.map_err(io::Error::other)?;
    match joined {
        Joined::Tail { tail, .. } => Ok(along(engine, tail, wanted, moves)),
        Joined::Present => {
            let digest = wanted.digest;
            let seen = engine.shared.read(move |shared| blobs::look(shared, &digest)).await;
            // One that must be hashed first is not for who is in the middle of an answer.
            let blobs::Copy::Here(blob) = seen.map_err(io::Error::other)? else { return Err(gone()) };
            if blob.size() != wanted.size {
                return Err(gone());
            }
            let part = ByteRange { start: wanted.start, end: wanted.end };
            Ok(stored(engine, digest, blob, part))
        }
        Joined::Refused { why: Refusal::Bypass, .. } => {
            let Wanted { scope, digest, size, start, end, .. } = wanted;
            let bypass = Bypass::start(&engine.shared, &scope, &digest, Some(size)).await;
            Ok(past(bypass.map_err(io::Error::other)?, start, end))
        }
        Joined::Document { .. } | Joined::NeedProof | Joined::Refused { .. } => Err(gone()),
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the fetch failed")
}

impl Past {
    fn poll_chunk(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<Option<io::Result<Bytes>>> {
        while self.left.is_empty() {
            if self.start == self.end {
                return Poll::Ready(None);
            }
            let (bypass, piece) = ready!(self.streaming.as_mut().poll(cx));
            let after = bypass.at();
            self.streaming = stream(bypass);
            match piece {
                Some(Ok(piece)) => self.left = self.cut(piece, after),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(Some(Err(gone()))),
            }
        }
        let piece = self.left.split_to(max.max(1).min(self.left.len()));
        self.start += piece.len() as u64;
        Poll::Ready(Some(Ok(piece)))
    }

    /// The part of a piece that ends at blob offset `after` which is wanted.
    fn cut(&self, piece: Bytes, after: u64) -> Bytes {
        let before = after - piece.len() as u64;
        let from = self.start.clamp(before, after) - before;
        let to = self.end.clamp(before, after) - before;
        let index = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
        piece.slice(index(from)..index(to.max(from)))
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match &self.inner {
            Inner::Memory(_) => "memory",
            Inner::Stored(_) => "stored",
            Inner::Along(_) => "along",
            Inner::Moving(_) => "moving",
            Inner::Past(_) => "past",
            Inner::Over => "over",
        };
        f.debug_struct("Reader").field("place", &place).field("sent", &self.sent).finish_non_exhaustive()
    }
}

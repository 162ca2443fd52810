//! Owns bodies: how an answer's bytes go out, piece by piece, and how a request's come in, at a pace.
//! Must not know: what the bytes are, and how they get to the socket.

use std::io;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::Sleep;

use super::outlet::{self, Outlet, Piece, Through};
use crate::clock::{Clock, Millis};
use crate::docker;
use crate::engine::{self, Reader};
use crate::telemetry::{Held, Metrics};

/// What all open bodies together may hold.
const POOL: usize = 32 << 20;
const SMALLEST_CHUNK: usize = 16 << 10;
const LARGEST_CHUNK: usize = 256 << 10;

/// At a blob's end so much is never part of a window. A body is known to be sent when its last bytes are handed over, and
/// these are asked for only when a window before them has nearly gone.
const LAST: usize = SMALLEST_CHUNK;

/// The more bodies, the smaller the pieces.
fn chunk(open_bodies: u64) -> usize {
    let share = (POOL as u64) / open_bodies.max(1);
    usize::try_from(share).unwrap_or(LARGEST_CHUNK).clamp(SMALLEST_CHUNK, LARGEST_CHUNK)
}

/// Reads a blob in order. The engine's reader is one; tests have theirs.
pub trait Source: Send + Unpin + 'static {
    /// `None` is the complete end; an error breaks the body.
    fn poll_chunk(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<Option<io::Result<Bytes>>>;

    /// The next bytes, where they can go to a socket without being read.
    fn window(&mut self, most: usize) -> Option<Box<dyn outlet::Window>>;
}

impl Source for Reader {
    fn poll_chunk(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<Option<io::Result<Bytes>>> {
        self.poll_chunk(cx, max)
    }

    fn window(&mut self, most: usize) -> Option<Box<dyn outlet::Window>> {
        Some(Box::new(self.window(most)?))
    }
}

impl outlet::Window for engine::Window {
    fn left(&self) -> usize {
        self.left()
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_ready(cx)
    }

    fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.send(socket)
    }
}

/// How a blob gets to its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Read here, and written again.
    Copied,
    /// By windows, where its connection and its source have them.
    Windows,
}

/// Told how a body fares. Dropped with the body, and so the one to say how it ended.
pub trait Witness: Send + Unpin + 'static {
    /// So many bytes were handed over; `all` once those are the last that were announced.
    fn sent(&mut self, bytes: usize, all: bool);
    /// The head was all.
    fn nothing_to_send(&mut self);
}

impl<W: Witness> Witness for Box<W> {
    fn sent(&mut self, bytes: usize, all: bool) {
        (**self).sent(bytes, all);
    }

    fn nothing_to_send(&mut self) {
        (**self).nothing_to_send();
    }
}

/// The body of every answer.
#[derive(Debug)]
pub struct ResponseBody<W, S = Reader> {
    content: Outgoing<S>,
    witness: W,
}

#[derive(Debug)]
enum Outgoing<S> {
    Nothing,
    Bytes(Bytes),
    Blob(Open<S>),
}

/// One blob on its way; counted as long as it lives.
#[derive(Debug)]
struct Open<S> {
    source: S,
    left: u64,
    way: Way,
    /// Of the connection that it goes to.
    outlet: Option<Arc<Outlet>>,
    metrics: Arc<Metrics>,
    _held: Held,
}

impl<S: Source> Open<S> {
    /// Says also whether that was all.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Piece, bool)>> {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let piece = match self.window(left.saturating_sub(LAST).min(outlet::LONGEST)) {
            Some(piece) => piece,
            None => {
                let max = left.min(chunk(self.metrics.open_bodies()));
                let bytes = ready!(self.source.poll_chunk(cx, max)).ok_or_else(|| short(self.left))??;
                Piece::Bytes(bytes)
            }
        };
        let Some(rest) = self.left.checked_sub(piece.remaining() as u64) else {
            return Poll::Ready(Err(io::Error::other("the blob goes on after its end")));
        };
        self.left = rest;
        Poll::Ready(Ok((piece, rest == 0)))
    }

    fn window(&mut self, most: usize) -> Option<Piece> {
        let outlet = self.outlet.as_ref().filter(|_| most > 0 && self.way == Way::Windows)?;
        Some(outlet.put(self.source.window(most)?))
    }
}

impl<W: Witness, S: Source> ResponseBody<W, S> {
    pub fn empty(mut witness: W) -> Self {
        witness.nothing_to_send();
        Self { content: Outgoing::Nothing, witness }
    }

    pub fn bytes(bytes: Bytes, witness: W) -> Self {
        if bytes.is_empty() {
            Self::empty(witness)
        } else {
            Self { content: Outgoing::Bytes(bytes), witness }
        }
    }

    /// Exactly `length` bytes of `source`. Fewer are an error, which breaks the connection: an answer that
    /// looks whole and is not would be kept by clients for ever.
    pub fn blob(source: S, length: u64, way: Way, metrics: &Arc<Metrics>, witness: W) -> Self {
        if length == 0 {
            return Self::empty(witness);
        }
        let (metrics, held) = (metrics.clone(), metrics.body());
        let open = Open { source, left: length, way, outlet: None, metrics, _held: held };
        Self { content: Outgoing::Blob(open), witness }
    }

    fn hand_over(&mut self, piece: Piece, is_last: bool) -> Poll<Option<io::Result<Frame<Piece>>>> {
        self.witness.sent(piece.remaining(), is_last);
        if is_last {
            self.content = Outgoing::Nothing;
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl<W, S> Through for ResponseBody<W, S> {
    fn through(&mut self, outlet: &Arc<Outlet>) {
        if let Outgoing::Blob(open) = &mut self.content {
            open.outlet = Some(outlet.clone());
        }
    }
}

impl<W: Witness, S: Source> Body for ResponseBody<W, S> {
    type Data = Piece;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, io::Error>>> {
        let this = &mut *self;
        match &mut this.content {
            Outgoing::Nothing => Poll::Ready(None),
            Outgoing::Bytes(bytes) => {
                let bytes = std::mem::take(bytes);
                this.hand_over(Piece::Bytes(bytes), true)
            }
            Outgoing::Blob(open) => match ready!(open.poll_piece(cx)) {
                Ok((piece, is_last)) => this.hand_over(piece, is_last),
                Err(error) => Poll::Ready(Some(Err(error))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.content, Outgoing::Nothing)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match &self.content {
            Outgoing::Nothing => 0,
            Outgoing::Bytes(bytes) => bytes.len() as u64,
            Outgoing::Blob(open) => open.left,
        })
    }
}

fn short(left: u64) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("the blob ended {left} bytes early"))
}

/// The slowest pace at which a request's body may come.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub bytes: u64,
    /// In this much time spent waiting for the client.
    pub window: Duration,
}

impl Pace {
    /// 1 KiB/s, judged over this span.
    pub fn over(window: Duration) -> Self {
        let bytes = u64::try_from(window.as_millis()).unwrap_or(u64::MAX).saturating_mul(1024) / 1000;
        Self { bytes: bytes.max(1), window }
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self::over(Duration::from_secs(30))
    }
}

/// Why a request's body was not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyFault {
    #[error("the body is longer than {0} bytes")]
    TooLong(usize),
    #[error("the body comes too slowly")]
    TooSlow,
    #[error("the body broke off")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<BodyFault> for docker::BodyFault {
    fn from(fault: BodyFault) -> Self {
        match fault {
            BodyFault::TooSlow => Self::TooSlow,
            BodyFault::Broken(_) | BodyFault::TooLong(_) => Self::Broken,
        }
    }
}

/// A request's body that must not come too slowly. Only the time counts in which we wait for the client.
#[derive(Debug)]
pub struct Paced<B> {
    body: B,
    pace: Pace,
    clock: Clock,
    /// Came since the count was last cleared.
    bytes: u64,
    waited: Duration,
    waiting: Option<(Millis, Pin<Box<Sleep>>)>,
}

impl<B> Paced<B> {
    pub fn new(body: B, pace: Pace, clock: Clock) -> Self {
        Self { body, pace, clock, bytes: 0, waited: Duration::ZERO, waiting: None }
    }

    /// Something came after a wait. A window that held enough begins anew.
    fn came(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if let Some((since, _)) = self.waiting.take() {
            self.waited += self.clock.now().since(since);
        }
        if self.bytes >= self.pace.bytes {
            self.bytes = 0;
            self.waited = Duration::ZERO;
        }
    }

    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.pace.window.saturating_sub(self.waited);
        let (_, sleep) =
            self.waiting.get_or_insert_with(|| (self.clock.now(), Box::pin(tokio::time::sleep(left))));
        sleep.as_mut().poll(cx)
    }
}

impl<B> Body for Paced<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.came(frame.data_ref().map_or(0, Bytes::len));
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(BodyFault::Broken(error.into())))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                ready!(self.poll_patience(cx));
                Poll::Ready(Some(Err(BodyFault::TooSlow)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Reads a small body whole. One that says beforehand that it is too long is not read at all.
pub async fn collect<B>(mut body: B, most: usize) -> Result<Bytes, BodyFault>
where
    B: Body<Data = Bytes, Error = BodyFault> + Unpin,
{
    if body.size_hint().lower() > most as u64 {
        return Err(BodyFault::TooLong(most));
    }
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame?.into_data() {
            if bytes.len() > most - whole.len() {
                return Err(BodyFault::TooLong(most));
            }
            whole.extend_from_slice(&bytes);
        }
    }
    Ok(whole.freeze())
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::Full;

    use super::*;

    /// Gives its pieces, then its end.
    struct Script(VecDeque<Option<io::Result<Bytes>>>);

    impl Source for Script {
        fn poll_chunk(&mut self, _: &mut Context<'_>, max: usize) -> Poll<Option<io::Result<Bytes>>> {
            match self.0.pop_front() {
                Some(Some(Ok(bytes))) if bytes.len() > max => panic!("more was given than asked for"),
                Some(step) => Poll::Ready(step),
                None => Poll::Pending,
            }
        }

        fn window(&mut self, _: usize) -> Option<Box<dyn outlet::Window>> {
            None
        }
    }

    #[derive(Default)]
    struct Tally {
        bytes: Arc<AtomicUsize>,
        complete: Arc<AtomicUsize>,
    }

    impl Witness for Tally {
        fn sent(&mut self, bytes: usize, all: bool) {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
            self.complete.fetch_add(usize::from(all), Ordering::Relaxed);
        }
        fn nothing_to_send(&mut self) {
            self.complete.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn piece(bytes: &'static [u8]) -> Option<io::Result<Bytes>> {
        Some(Ok(Bytes::from_static(bytes)))
    }

    async fn drain(
        steps: Vec<Option<io::Result<Bytes>>>,
        length: u64,
    ) -> (Vec<u8>, Option<io::ErrorKind>, usize, usize) {
        let tally = Tally::default();
        let (bytes, complete) = (tally.bytes.clone(), tally.complete.clone());
        let mut body = ResponseBody::blob(Script(steps.into()), length, Way::Copied, &Metrics::new(), tally);
        let mut got = Vec::new();
        let mut error = None;
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => got.extend_from_slice(frame.data_ref().expect("data").chunk()),
                Err(fault) => {
                    error = Some(fault.kind());
                    break;
                }
            }
        }
        (got, error, bytes.load(Ordering::Relaxed), complete.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn a_blob_goes_out_whole_and_is_reported_once() {
        let outcome = drain(vec![piece(b"ab"), piece(b"c")], 3).await;
        assert_eq!(outcome, (b"abc".to_vec(), None, 3, 1));
        let outcome = drain(vec![], 0).await;
        assert_eq!(outcome, (Vec::new(), None, 0, 1));
    }

    #[tokio::test]
    async fn a_blob_that_ends_early_or_breaks_is_an_error_and_never_complete() {
        let outcome = drain(vec![piece(b"ab"), None], 3).await;
        assert_eq!(outcome, (b"ab".to_vec(), Some(io::ErrorKind::UnexpectedEof), 2, 0));
        let broken = Some(Err(io::Error::from(io::ErrorKind::ConnectionReset)));
        let outcome = drain(vec![piece(b"ab"), broken], 3).await;
        assert_eq!(outcome, (b"ab".to_vec(), Some(io::ErrorKind::ConnectionReset), 2, 0));
    }

    #[test]
    fn pieces_shrink_as_bodies_grow_in_number() {
        let sizes = [0, 1, 128, 500, 2048, 100_000].map(chunk);
        assert_eq!(
            sizes,
            [LARGEST_CHUNK, LARGEST_CHUNK, LARGEST_CHUNK, POOL / 500, SMALLEST_CHUNK, SMALLEST_CHUNK]
        );
    }

    /// A body that gives one byte after each pause, without end.
    struct Drip(Duration, Pin<Box<Sleep>>);

    impl Body for Drip {
        type Data = Bytes;
        type Error = io::Error;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
            ready!(self.1.as_mut().poll(cx));
            self.1 = Box::pin(tokio::time::sleep(self.0));
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[0; 64])))))
        }
    }

    fn drip(pause: Duration) -> Paced<Drip> {
        Paced::new(Drip(pause, Box::pin(tokio::time::sleep(pause))), Pace::default(), Clock::new())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_below_the_pace_is_given_up_after_the_window() {
        let clock = Clock::new();
        let outcome = collect(drip(Duration::from_secs(1)), 1 << 20).await;
        assert!(matches!(outcome, Err(BodyFault::TooSlow)));
        let passed = clock.now().since(Millis::default());
        assert!((30..32).contains(&passed.as_secs()), "{passed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_but_steady_body_is_taken() {
        // 64 bytes each 40 ms are 1.6 KiB/s: a MiB takes eleven minutes.
        let outcome = collect(drip(Duration::from_millis(40)), 1 << 20).await;
        assert!(matches!(outcome, Err(BodyFault::TooLong(_))));
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused() {
        let paced = |bytes: &'static [u8]| {
            Paced::new(Full::new(Bytes::from_static(bytes)), Pace::default(), Clock::new())
        };
        assert_eq!(collect(paced(b"abc"), 3).await.expect("fits"), "abc");
        assert!(matches!(collect(paced(b"abcd"), 3).await, Err(BodyFault::TooLong(3))));
    }
}

//! Owns bodies on a bad line: shared and slow, or breaking off. Must not know: what they carry.

use crate::trouble::Trouble;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

pub type Content = UnsyncBoxBody<Bytes, Trouble>;

/// One line to the world.
pub struct Line {
    free: Mutex<Instant>,
}

impl Line {
    pub fn new() -> Line {
        Line { free: Mutex::new(Instant::now()) }
    }

    /// When the last of these bytes has passed, after all that were sent before.
    fn occupy(&self, bytes: usize, rate: u64) -> Instant {
        #[expect(clippy::cast_precision_loss, reason = "a frame has far fewer than 2^52 bytes")]
        let busy = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let mut free = self.free.lock().expect("nobody panics while holding the line");
        *free = Instant::now().max(*free) + busy;
        *free
    }
}

/// A body that shares one line with all the others.
pub struct Throttled {
    body: Content,
    rate: u64,
    line: Arc<Line>,
    /// A frame on its way, and when it arrives.
    waiting: Option<(Pin<Box<Sleep>>, Frame<Bytes>)>,
}

impl Throttled {
    pub fn new(body: Content, rate: u64, line: Arc<Line>) -> Throttled {
        Throttled { body, rate, line, waiting: None }
    }

    fn send(&mut self, frame: Frame<Bytes>) {
        let arrival = self.line.occupy(frame.data_ref().map_or(0, Bytes::len), self.rate);
        self.waiting = Some((Box::pin(sleep_until(arrival)), frame));
    }
}

impl Body for Throttled {
    type Data = Bytes;
    type Error = Trouble;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Trouble>>> {
        loop {
            if let Some((arrival, _)) = &mut self.waiting {
                std::task::ready!(arrival.as_mut().poll(task));
                return Poll::Ready(self.waiting.take().map(|(_, frame)| Ok(frame)));
            }
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(task)) {
                Some(Ok(frame)) => self.send(frame),
                end => return Poll::Ready(end),
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body that ends in the middle, as a broken connection.
pub struct Broken {
    pub body: Content,
    /// What still arrives.
    pub left: u64,
}

impl Body for Broken {
    type Data = Bytes;
    type Error = Trouble;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Trouble>>> {
        if self.left == 0 {
            return Poll::Ready(Some(Err("the connection breaks".into())));
        }
        let mut frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(task));
        if let Some(Ok(frame)) = &mut frame
            && let Some(data) = frame.data_mut()
        {
            data.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= data.len() as u64;
        }
        Poll::Ready(frame)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

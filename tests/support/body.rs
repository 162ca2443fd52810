//! Bodies that come at a pace and may end badly.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

use super::fault::Gate;

/// How much lost time a line makes good.
const CATCH_UP: Duration = Duration::from_millis(20);

/// A line of so many bytes a second, first come first served.
#[derive(Debug)]
pub struct Line {
    bytes_per_second: u64,
    free_at: Mutex<Instant>,
}

impl Line {
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), free_at: Mutex::new(Instant::now()) }
    }

    /// Small enough for some fifty pieces in a second.
    fn piece(&self) -> usize {
        usize::try_from(self.bytes_per_second / 50).unwrap_or(usize::MAX).clamp(1, 64 * 1024)
    }

    /// Returns when these bytes are through.
    async fn carry(&self, bytes: usize) {
        let mut free_at = self.free_at.lock().await;
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        // A timer that rings late must not make the line slower than it says.
        let idle_since = Instant::now().checked_sub(CATCH_UP).unwrap_or(*free_at);
        *free_at = idle_since.max(*free_at) + takes;
        let through = *free_at;
        drop(free_at);
        tokio::time::sleep_until(through).await;
    }
}

/// What happens where the script says that the body stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Complete,
    Stall,
    /// Close, or reset where the connection was told so by `on_break`.
    Break,
}

/// What is sent, how fast, and how it ends.
pub struct Plan {
    pub bytes: Bytes,
    pub lines: Vec<Arc<Line>>,
    /// Waits there until the gate is opened.
    pub hold_at: Option<(u64, Gate)>,
    /// The line that carries what comes from there on.
    pub drip_from: Option<(u64, Arc<Line>)>,
    pub ending: Ending,
    /// Called before a `Break`.
    pub on_break: Box<dyn FnOnce() + Send>,
    pub counter: Arc<AtomicU64>,
}

/// A body fed by a task of its own, one piece ahead.
pub struct Feed(mpsc::Receiver<Result<Bytes, Broken>>);

#[derive(Debug, thiserror::Error)]
#[error("broken as scripted")]
pub struct Broken;

impl Feed {
    pub fn start(plan: Plan) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(run(plan, sender));
        Self(receiver)
    }
}

async fn run(mut plan: Plan, sender: mpsc::Sender<Result<Bytes, Broken>>) {
    let mut most = plan.lines.iter().map(|line| line.piece()).min().unwrap_or(64 * 1024);
    let mut at = 0;
    loop {
        if let Some((_, gate)) = plan.hold_at.take_if(|(stop, _)| *stop <= at) {
            gate.passed().await;
        }
        if let Some((_, line)) = plan.drip_from.take_if(|(stop, _)| *stop <= at) {
            most = most.min(line.piece());
            plan.lines.push(line);
        }
        if plan.bytes.is_empty() {
            break;
        }
        // Up to the next place where something happens.
        let stops = [plan.hold_at.as_ref().map(|(at, _)| *at), plan.drip_from.as_ref().map(|(at, _)| *at)];
        let until = stops.into_iter().flatten().map(|stop| usize::try_from(stop - at).unwrap()).min();
        let piece = plan.bytes.split_to(most.min(plan.bytes.len()).min(until.unwrap_or(usize::MAX)));
        for line in &plan.lines {
            line.carry(piece.len()).await;
        }
        at += piece.len() as u64;
        plan.counter.fetch_add(piece.len() as u64, Ordering::Relaxed);
        if sender.send(Ok(piece)).await.is_err() {
            return;
        }
    }
    match plan.ending {
        Ending::Complete => {}
        // Until the reader goes away.
        Ending::Stall => sender.closed().await,
        Ending::Break => {
            // What was sent must be on its way before the connection goes: it has been taken, and in a moment it is
            // written as well.
            let Ok(place) = sender.reserve().await else { return };
            tokio::time::sleep(Duration::from_millis(20)).await;
            (plan.on_break)();
            place.send(Err(Broken));
        }
    }
}

impl Body for Feed {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|result| result.map(Frame::data)))
    }
}

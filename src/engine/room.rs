//! Owns what is known of a full disk: whether it was full a moment ago, and asking for room out of turn.
//! Must not know: how room is made.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::clock::{Clock, Millis};

/// After the disk was found full it is taken to be so for this long.
const SHORT: Duration = Duration::from_secs(5);
/// For the account to be taken anew and for what must go to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Room {
    short_until: AtomicU64,
    clock: Clock,
    wanted: Notify,
    rounds: watch::Sender<u64>,
}

impl Room {
    pub fn new(clock: Clock) -> Self {
        Self { short_until: AtomicU64::new(0), clock, wanted: Notify::new(), rounds: watch::Sender::new(0) }
    }

    /// The disk was full, a moment ago.
    pub fn is_short(&self) -> bool {
        self.clock.now() < Millis(self.short_until.load(Ordering::Relaxed))
    }

    pub fn note_shortage(&self, now: Millis) {
        self.short_until.store(now.after(SHORT).0, Ordering::Relaxed);
        self.wanted.notify_one();
    }

    /// Asks for room now rather than at the next regular look, and waits for it. `false`: that was tried a moment
    /// ago, or takes too long.
    pub async fn make(&self) -> bool {
        if self.is_short() {
            return false;
        }
        let mut rounds = self.rounds.subscribe();
        self.wanted.notify_one();
        tokio::time::timeout(PATIENCE, rounds.changed()).await.is_ok_and(|round| round.is_ok())
    }

    /// For whoever makes room: somebody needs it.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// For whoever makes room: what could go has gone.
    pub fn made(&self) {
        self.rounds.send_modify(|rounds| *rounds += 1);
    }
}

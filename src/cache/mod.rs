//! Owns the cache's state machine: one flight per key, waiters, lanes, space, eviction order.
//! Must not know: I/O of any kind, async, channels, clocks, randomness, digests. Time is an argument.

mod coordinator;
mod freshness;
mod ledger;
mod planted;

pub use coordinator::{Coordinator, Violation};
pub use freshness::{Freshness, judge};
pub use ledger::LastUse;
#[cfg(feature = "planted-bugs")]
pub use planted::Bug;

use std::fmt::Debug;
use std::hash::Hash;

use crate::clock::Millis;

/// Which queue a key's flights stand in. Content and pointers never wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Bytes that are kept under their digest and accounted.
    Content,
    /// A document: tag revalidation, cold manifest, tag page. Nothing stays in the coordinator.
    Pointer,
}

/// What is fetched once. Opaque but for its lane.
pub trait Key: Clone + Ord + Hash + Debug {
    fn lane(&self) -> Lane;
}

/// Through whom a waiter may have the key: repository and image. Opaque but for its upstream.
pub trait Source: Clone + Ord + Hash + Debug {
    /// Fills are limited per upstream, and cached bytes are accounted to the upstream that filled them.
    fn upstream(&self) -> u64;
}

/// Numbers that the shell gives out, never again in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaiterId(pub u64);
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimId(pub u64);
/// Given out by the coordinator; a report with the number of an ended flight changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlightId(pub u64);

/// How a fill ended badly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// Refused, reset, timed out, 5xx, after all attempts. Remembered 2 s.
    Transport,
    /// 404, or 401/403 with a token just granted. Ends this source only. Remembered `negative_ttl`.
    NotFound,
    /// 403 that may be about something else than the content: to who has nothing as if it were absent. As above.
    Forbidden,
    /// 429; remembered until the upstream's word, at most 300 s.
    RateLimited { retry_after_ms: u64 },
    /// The bytes did not match. Remembered 60 s.
    Mismatch,
    /// No room on the disk even after evicting: waiters go on without the cache.
    NoSpace,
    /// The fill died (panic, or ended early: at the stop, or because nobody needs it). Not remembered.
    Died,
}

/// Why a waiter is sent away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// The flight of this waiter's source failed just now.
    Failed(Failure),
    /// It failed a moment ago and is not tried again yet.
    Remembered(Failure),
    /// The waiter's deadline passed; the flight goes on.
    Late,
    /// Nothing can be cached: fetch for yourself.
    Bypass,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event<K, S> {
    /// From the boot scan: this content lies on disk. Oldest first; order of eviction follows `used`.
    Load {
        key: K,
        upstream: u64,
        size: u64,
        used: u64,
        pinned: bool,
    },
    /// The boot scan is over: from now on eviction may happen.
    Loaded,
    /// How many bytes of cached (unpinned) content may lie here in all.
    Space {
        limit: u64,
    },
    /// The limit of one upstream's share; `None` lifts it.
    Share {
        upstream: u64,
        limit: Option<u64>,
    },
    Join {
        waiter: WaiterId,
        key: K,
        source: S,
        negative_ms: u64,
        deadline: Option<Millis>,
    },
    Leave {
        waiter: WaiterId,
    },
    /// The head came. With a size, room is made first; `Admit` and `Attach` follow when it is.
    FillHead {
        flight: FlightId,
        size: Option<u64>,
    },
    /// Verified and published (content), or the document is there (pointer).
    FillDone {
        flight: FlightId,
        size: u64,
    },
    FillFailed {
        flight: FlightId,
        failure: Failure,
    },
    /// A push (or whoever must not lose the key) asks to hold it. Waits while it is being evicted.
    Claim {
        claim: ClaimId,
        key: K,
    },
    Unclaim {
        claim: ClaimId,
    },
    /// Under a claim: the content was published from elsewhere than a flight.
    Added {
        key: K,
        upstream: u64,
        size: u64,
        pinned: bool,
    },
    /// Pushed content lost its last link; it may be collected.
    Unpin {
        key: K,
    },
    /// Cleanup asks to remove an unpinned, unclaimed key.
    Collect {
        key: K,
    },
    Touch {
        key: K,
    },
    /// Somebody could not open a file that should be here.
    Lost {
        key: K,
    },
    EvictDone {
        key: K,
    },
    EvictFailed {
        key: K,
    },
    /// Not removed, because its row says that somebody pushed it: it is pinned from now on.
    EvictRefused {
        key: K,
    },
    /// Time passed: deadlines, memory, back-off.
    Tick,
}

/// What the shell must do. It decides nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action<K, S> {
    StartFill {
        flight: FlightId,
        key: K,
        source: S,
    },
    /// The content came from elsewhere before anybody reads this fill: stop it early. It still reports its end, and
    /// until then keeps its place. Nobody is attached to it from now on.
    CancelFill {
        flight: FlightId,
    },
    /// Room was made (or was there): the fill may write.
    Admit {
        flight: FlightId,
    },
    /// Hand the waiter the flight's tail.
    Attach {
        waiter: WaiterId,
        flight: FlightId,
    },
    /// Content: it lies under its digest. Pointer: hand over the flight's document.
    Ready {
        waiter: WaiterId,
        flight: Option<FlightId>,
    },
    Claimed {
        claim: ClaimId,
    },
    Refuse {
        waiter: WaiterId,
        why: Refusal,
    },
    /// Remove the file of this key (after checking its row) and report.
    Evict {
        key: K,
    },
    /// A pinned key's file is gone: raise the alarm.
    PinnedLost {
        key: K,
    },
}

/// Limits that do not change while running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    pub content_fills: usize,
    pub content_fills_per_upstream: usize,
    pub pointer_fills: usize,
    /// One upstream that hangs must leave places to the others.
    pub pointer_fills_per_upstream: usize,
    /// Eviction starts above `limit` and goes on to `limit * low_mark_percent / 100`.
    pub low_mark_percent: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            content_fills: 64,
            content_fills_per_upstream: 16,
            pointer_fills: 32,
            pointer_fills_per_upstream: 16,
            low_mark_percent: 90,
        }
    }
}

/// What the gauges show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub flights: usize,
    pub queued: usize,
    pub waiters: usize,
    /// Keys that lie on the disk, pinned ones among them.
    pub present: usize,
    /// Cached content only: what `limit_bytes` bounds, with what is reserved.
    pub present_bytes: u64,
    /// Pushed content, which no limit here bounds.
    pub pinned_bytes: u64,
    pub reserved_bytes: u64,
    pub evicting_bytes: u64,
    /// Keys whose files are being removed.
    pub evicting: usize,
    pub limit_bytes: u64,
    /// What lay here before the start is known, so that something may go.
    pub loaded: bool,
}

impl Counts {
    /// What counts against the limit. A size that an upstream claims may be any number.
    pub fn bytes(&self) -> u64 {
        self.present_bytes.saturating_add(self.reserved_bytes).saturating_add(self.evicting_bytes)
    }
}

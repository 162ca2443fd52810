//! Owns the decisions: who waits, what is fetched, what is removed. One step takes one event and says what to do.
//! Must not know: how anything is done. The files below are chapters of one machine, each with its part of the events.
//!
//! A content key goes Absent, Queued, Filling, Present, Evicting, Absent. Claims lie across: they hold a key wherever
//! it is, and wait only while it is being evicted. What lies on the disk is in the ledger; what happens to a key right
//! now is in its slot. A present key without a slot, and not pinned, is what may be evicted.

mod check;
mod copies;
mod flights;
mod lanes;
mod memory;
mod room;
mod slot;
#[cfg(test)]
mod tests;
mod waiters;

use std::collections::{BTreeMap, BTreeSet};

pub use self::check::Violation;
use self::copies::Since;
use self::lanes::Lanes;
use self::memory::Memory;
use self::slot::{Slot, Waiter};
use super::ledger::{Hold, LastUse, Ledger};
use super::planted::Planted;
use super::{Action, ClaimId, Counts, Event, FlightId, Key, Lane, Limits, Source, WaiterId};
use crate::clock::Millis;

/// One per cache, owned by one task. Its equality and hash are those of its whole state, so that it can be searched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Coordinator<K, S> {
    limits: Limits,
    /// Until the boot scan is over nothing is chosen for eviction: it may be pinned, or used more than it seems.
    loaded: bool,
    /// Empty once it is over.
    since_scan: BTreeMap<K, Since>,
    slots: BTreeMap<K, Slot<S>>,
    waiters: BTreeMap<WaiterId, Waiter<K, S>>,
    deadlines: BTreeSet<(Millis, WaiterId)>,
    claims: BTreeMap<ClaimId, K>,
    /// The live ones. A report with any other number is news of the past.
    flights: BTreeMap<FlightId, K>,
    next_flight: u64,
    lanes: Lanes<K>,
    ledger: Ledger<K>,
    memory: Memory<K, S>,
    /// A file could not be removed: try again to make room then, not at once and for ever.
    room_retry: Option<Millis>,
    planted: Planted,
}

impl<K: Key, S: Source> Coordinator<K, S> {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            loaded: false,
            since_scan: BTreeMap::new(),
            slots: BTreeMap::new(),
            waiters: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            claims: BTreeMap::new(),
            flights: BTreeMap::new(),
            next_flight: 1,
            lanes: Lanes::new(&limits),
            ledger: Ledger::new(),
            memory: Memory::new(),
            room_retry: None,
            planted: Planted::default(),
        }
    }

    /// The same machine with one known bug in it.
    #[cfg(feature = "planted-bugs")]
    pub fn with_bug(limits: Limits, bug: super::Bug) -> Self {
        let planted = Planted::bug(bug);
        let mut coordinator = Self::new(limits);
        coordinator.planted = planted;
        coordinator.lanes.plant(planted);
        coordinator.ledger.plant(planted);
        coordinator.memory.plant(planted);
        coordinator
    }

    /// Takes in what happened and appends what must be done, in this order. `now` never goes back.
    pub fn step(&mut self, now: Millis, event: Event<K, S>, out: &mut Vec<Action<K, S>>) {
        match event {
            Event::Load { key, upstream, size, used, pinned } => {
                self.load(&key, upstream, size, LastUse::Before(used), pinned, out);
            }
            Event::Loaded => self.loaded(out),
            Event::Space { limit } => self.space(limit, out),
            Event::Share { upstream, limit } => self.share(upstream, limit, out),
            Event::Join { waiter, key, source, negative_ms, deadline } => {
                self.join(now, waiter, Waiter { key, source, negative_ms, deadline, retried: false }, out);
            }
            Event::Leave { waiter } => self.leave(waiter, out),
            Event::FillHead { flight, size } => self.fill_head(flight, size, out),
            Event::FillDone { flight, size } => self.fill_done(now, flight, size, out),
            Event::FillFailed { flight, failure } => self.fill_failed(now, flight, failure, out),
            Event::Claim { claim, key } => self.claim(claim, key, out),
            Event::Unclaim { claim } => self.unclaim(claim, out),
            Event::Added { key, upstream, size, pinned } => {
                self.arrived(&key, upstream, size, LastUse::Now(now), pinned, out);
            }
            Event::Unpin { key } => self.unpin(&key, out),
            Event::Collect { key } => self.collect(&key, out),
            Event::Touch { key } => self.ledger.touch(&key, now),
            Event::Lost { key } => self.lost(key, out),
            Event::EvictDone { key } => self.evict_done(&key, out),
            Event::EvictFailed { key } => self.evict_failed(now, &key, out),
            Event::EvictRefused { key } => self.evict_refused(&key, out),
            Event::Tick => self.tick(now, out),
        }
        self.start_fills(out);
    }

    /// When a `Tick` is due at the latest.
    pub fn next_wakeup(&self) -> Option<Millis> {
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        [deadline, self.room_retry].into_iter().flatten().min()
    }

    pub fn counts(&self) -> Counts {
        let totals = self.ledger.totals();
        Counts {
            flights: self.flights.len(),
            queued: self.lanes.queued(Lane::Content) + self.lanes.queued(Lane::Pointer),
            waiters: self.waiters.len(),
            present: totals.keys - totals.evicting_keys,
            present_bytes: totals.present,
            pinned_bytes: totals.pinned,
            reserved_bytes: self.ledger.reserved(),
            evicting_bytes: totals.evicting,
            evicting: totals.evicting_keys,
            limit_bytes: self.ledger.limit(),
            loaded: self.loaded,
        }
    }

    /// Whether this content lies here and is not about to go. The next step may change that.
    pub fn is_present(&self, key: &K) -> bool {
        self.ledger.is_present(key)
    }

    /// Whether it is known that what this flight brings is too large to stay.
    pub fn is_too_large(&self, flight: FlightId) -> bool {
        self.ledger.is_promise_oversized(flight)
    }

    /// What may be evicted, the next to go first. Leaves out what is pinned, claimed or being filled.
    pub fn eviction_order(&self) -> impl Iterator<Item = (&K, LastUse)> {
        self.ledger.eviction_order()
    }

    /// What of that was used in this run at or after `since`, in no particular order: what is worth writing down.
    pub fn used_since(&self, since: Millis) -> impl Iterator<Item = (&K, Millis)> {
        self.ledger.used_since(since)
    }

    /// Forgets a slot in which nothing happens any more; if its key is present it may be evicted from now on.
    fn settle(&mut self, key: &K) {
        if self.slots.get(key).is_some_and(Slot::is_idle) {
            self.slots.remove(key);
            self.ledger.change(key, |entry| {
                if entry.hold == Hold::Held {
                    entry.hold = Hold::Free;
                }
            });
        }
    }
}

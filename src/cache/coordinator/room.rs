//! Owns making room: when something must go, what goes, and what waits until it has gone.
//! Must not know: who reads what; an open file outlives its name.

use std::time::Duration;

use super::super::ledger::{Hold, LastUse};
use super::super::planted::Bug;
use super::super::{Action, FlightId, Key, Source};
use super::Coordinator;
use super::copies::Since;
use super::slot::{Slot, Stage};
use crate::clock::Millis;

/// After a file could not be removed. On a disk that removes nothing we would else be busy with nothing else.
const ROOM_RETRY: Duration = Duration::from_secs(10);

/// An eviction that has reported.
struct Ended {
    /// The flight that waited for it.
    room_for: Option<FlightId>,
    unpinned: bool,
}

impl<K: Key, S: Source> Coordinator<K, S> {
    pub(super) fn loaded(&mut self, out: &mut Vec<Action<K, S>>) {
        self.loaded = true;
        self.since_scan.clear();
        self.make_room(None, out);
    }

    pub(super) fn space(&mut self, limit: u64, out: &mut Vec<Action<K, S>>) {
        self.ledger.set_limit(limit);
        self.make_room(None, out);
    }

    pub(super) fn share(&mut self, upstream: u64, limit: Option<u64>, out: &mut Vec<Action<K, S>>) {
        self.ledger.set_share(upstream, limit);
        self.make_room(None, out);
    }

    /// Evicts until every limit is kept. Says how many evictions `room_for` has to wait for.
    pub(super) fn make_room(&mut self, room_for: Option<FlightId>, out: &mut Vec<Action<K, S>>) -> usize {
        if !self.loaded && !self.planted.is(Bug::EvictBeforeLoaded) {
            return 0;
        }
        let victims = self.ledger.choose_victims(self.limits.low_mark_percent);
        let count = victims.len();
        for victim in victims {
            self.evict(victim, room_for, out);
        }
        count
    }

    /// This key has come, or may be evicted from now on: if it is too large to stay it goes alone, and otherwise
    /// whatever the limits ask for.
    pub(super) fn trim(&mut self, key: &K, out: &mut Vec<Action<K, S>>) {
        if self.loaded && self.ledger.is_oversized(key) {
            self.evict(key.clone(), None, out);
        }
        self.make_room(None, out);
    }

    pub(super) fn retry_room(&mut self, now: Millis, out: &mut Vec<Action<K, S>>) {
        if self.room_retry.is_some_and(|at| at <= now) {
            self.room_retry = None;
            self.make_room(None, out);
        }
    }

    /// Refused while the key is pinned, claimed or being filled, and until the boot scan is over; cleanup asks again.
    pub(super) fn collect(&mut self, key: &K, out: &mut Vec<Action<K, S>>) {
        if self.loaded && self.may_evict(key) {
            self.evict(key.clone(), None, out);
        }
    }

    /// Perhaps stale news, so the sweep looks and what is then true comes back as its report. What is claimed or being
    /// filled is left alone; whoever still cannot open it will say so again.
    pub(super) fn lost(&mut self, key: K, out: &mut Vec<Action<K, S>>) {
        let pinned = self.ledger.get(&key).is_some_and(|entry| entry.pinned);
        if self.may_evict(&key) || pinned && self.planted.is(Bug::PinnedLostEvicted) {
            self.evict(key, None, out);
        } else if pinned {
            out.push(Action::PinnedLost { key });
        }
    }

    pub(super) fn evict_done(&mut self, key: &K, out: &mut Vec<Action<K, S>>) {
        let Some(ended) = self.end_eviction(key) else { return };
        if !self.loaded && !self.planted.is(Bug::ScanBringsBackRemoved) {
            self.since_scan.insert(key.clone(), Since::Removed);
        }
        if self.ledger.remove(key).is_some_and(|entry| entry.pinned) {
            // The pin was told while the file was already being removed.
            out.push(Action::PinnedLost { key: key.clone() });
        }
        self.grant_claims(key, out);
        self.enqueue(key, None);
        self.settle(key);
        self.room_reported(ended.room_for, out);
    }

    pub(super) fn evict_failed(&mut self, now: Millis, key: &K, out: &mut Vec<Action<K, S>>) {
        let Some(ended) = self.end_eviction(key) else { return };
        if self.planted.is(Bug::EvictFailedDropsEntry) {
            self.ledger.remove(key);
        }
        // It counts as just used, so that the next choice falls on another.
        self.ledger.change(key, |entry| entry.used = LastUse::Now(now));
        self.room_retry.get_or_insert(now.after(ROOM_RETRY));
        self.stays(key, &ended, out);
    }

    /// The row knows better than we do whether somebody pushed this. Tried again and again it would only be refused
    /// again, while its bytes counted as some that can go.
    pub(super) fn evict_refused(&mut self, key: &K, out: &mut Vec<Action<K, S>>) {
        let Some(ended) = self.end_eviction(key) else { return };
        let pinned = !ended.unpinned && !self.planted.is(Bug::RefusedEvictionRepeated);
        self.ledger.change(key, |entry| entry.pinned |= pinned);
        self.stays(key, &ended, out);
        self.trim(key, out);
    }

    /// The file is still there, for everybody who waited for it to be gone.
    fn stays(&mut self, key: &K, ended: &Ended, out: &mut Vec<Action<K, S>>) {
        self.ledger.change(key, |entry| entry.hold = Hold::Held);
        if !self.planted.is(Bug::ClaimForgottenWhenEvictionFails) {
            self.grant_claims(key, out);
        }
        self.answer_all(key, out, |waiter| Action::Ready { waiter, flight: None });
        self.settle(key);
        self.room_reported(ended.room_for, out);
    }

    fn may_evict(&self, key: &K) -> bool {
        self.ledger.get(key).is_some_and(|entry| !entry.pinned && entry.hold == Hold::Free)
    }

    fn evict(&mut self, key: K, room_for: Option<FlightId>, out: &mut Vec<Action<K, S>>) {
        self.ledger.change(&key, |entry| entry.hold = Hold::Evicting);
        let slot = self.slots.entry(key.clone()).or_insert_with(Slot::new);
        slot.stage = Stage::Evicting { room_for, unpinned: false };
        out.push(Action::Evict { key });
    }

    /// `None`: the key is not being evicted.
    fn end_eviction(&mut self, key: &K) -> Option<Ended> {
        let slot = self.slots.get_mut(key)?;
        let Stage::Evicting { room_for, unpinned } = slot.stage else { return None };
        slot.stage = Stage::Idle;
        Some(Ended { room_for, unpinned })
    }

    fn grant_claims(&self, key: &K, out: &mut Vec<Action<K, S>>) {
        let Some(slot) = self.slots.get(key) else { return };
        out.extend(slot.claims.iter().map(|claim| Action::Claimed { claim: *claim }));
    }
}

//! Owns copies that come and stay without a flight: the boot scan, pushes, claims and pins.
//! Must not know: who waits, what is fetched.

use super::super::ledger::{Entry, Hold, LastUse};
use super::super::planted::Bug;
use super::super::{Action, ClaimId, Key, Lane, Source};
use super::Coordinator;
use super::slot::{Scanned, Slot, Stage};

/// What happened to a key while the boot scan was still to tell of it. The scan may have looked before that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Since {
    Unpinned,
    Removed,
}

impl<K: Key, S: Source> Coordinator<K, S> {
    /// What the boot scan saw, unless newer news came first. Who brings back what was removed says so.
    pub(super) fn load(
        &mut self,
        key: &K,
        upstream: u64,
        size: u64,
        used: LastUse,
        pinned: bool,
        out: &mut Vec<Action<K, S>>,
    ) {
        let pinned = match self.since_scan.get(key) {
            None => pinned,
            Some(Since::Unpinned) => false,
            Some(Since::Removed) => return,
        };
        let known = pinned || self.ledger.get(key).is_some() || self.planted.is(Bug::ScanBelievedOverFlight);
        match self.slots.get_mut(key).and_then(Slot::flight_mut).filter(|_| !known) {
            // It is fetched because somebody looked and it was not there: the scan's look may be the older one. Sent
            // to look again, whoever waits would not find it, and nobody could say so while it is being fetched.
            Some(flight) => flight.scanned = Some(Scanned { upstream, size, used }),
            None => self.arrived(key, upstream, size, used, pinned, out),
        }
    }

    /// The content lies here, whatever a flight of its key still does. Whoever waited for that flight is served now.
    pub(super) fn arrived(
        &mut self,
        key: &K,
        upstream: u64,
        size: u64,
        used: LastUse,
        pinned: bool,
        out: &mut Vec<Action<K, S>>,
    ) {
        if key.lane() == Lane::Pointer {
            return;
        }
        let pinned = pinned && !self.planted.is(Bug::PinIgnored);
        if self.ledger.get(key).is_some() {
            self.ledger.change(key, |entry| {
                entry.pinned |= pinned;
                entry.used = entry.used.max(used);
            });
        } else {
            let hold = if self.slots.contains_key(key) { Hold::Held } else { Hold::Free };
            self.ledger.insert(key.clone(), Entry { size, upstream, used, pinned, hold });
        }
        if !self.ledger.is_present(key) {
            // It is being removed. Under a claim this cannot be; the sweep's own look at the row decides.
            return;
        }
        self.answer_all(key, out, |waiter| Action::Ready { waiter, flight: None });
        self.leave_queue(key);
        self.cancel_unread(key, out);
        self.settle(key);
        self.trim(key, out);
    }

    pub(super) fn claim(&mut self, id: ClaimId, key: K, out: &mut Vec<Action<K, S>>) {
        if self.claims.contains_key(&id) {
            return;
        }
        let slot = self.slots.entry(key.clone()).or_insert_with(Slot::new);
        slot.claims.insert(id);
        self.claims.insert(id, key.clone());
        if matches!(slot.stage, Stage::Evicting { .. }) && !self.planted.is(Bug::ClaimGrantedDuringEviction) {
            return;
        }
        self.ledger.change(&key, |entry| {
            if entry.hold == Hold::Free {
                entry.hold = Hold::Held;
            }
        });
        out.push(Action::Claimed { claim: id });
    }

    pub(super) fn unclaim(&mut self, id: ClaimId, out: &mut Vec<Action<K, S>>) {
        let Some(key) = self.claims.remove(&id) else { return };
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.claims.remove(&id);
            if self.planted.is(Bug::UnclaimDropsEveryClaim) {
                slot.claims.clear();
                self.claims.retain(|_, claimed| *claimed != key);
            }
        }
        self.settle(&key);
        self.trim(&key, out);
    }

    pub(super) fn unpin(&mut self, key: &K, out: &mut Vec<Action<K, S>>) {
        if !self.loaded && !self.planted.is(Bug::ScanPinsAgain) {
            self.since_scan.entry(key.clone()).or_insert(Since::Unpinned);
        }
        if let Some(Slot { stage: Stage::Evicting { unpinned, .. }, .. }) = self.slots.get_mut(key) {
            *unpinned = !self.planted.is(Bug::RefusalPinsAgain);
        }
        self.ledger.change(key, |entry| entry.pinned = false);
        self.trim(key, out);
    }

    fn leave_queue(&mut self, key: &K) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let Stage::Queued { lead, ticket, .. } = &slot.stage else { return };
        self.lanes.dequeue(key.lane(), lead.source.upstream(), *ticket);
        slot.stage = Stage::Idle;
    }
}

//! Owns the life of a flight: queued, started, admitted, ended well or badly, gone on with another source.
//! Must not know: why anybody waits, how room is made.

use super::super::ledger::{Entry, Hold, LastUse};
use super::super::planted::Bug;
use super::super::{Action, Failure, FlightId, Key, Lane, Refusal, Source};
use super::Coordinator;
use super::slot::{Flight, Head, Lead, Scanned, Slot, Stage};
use crate::clock::Millis;

impl<K: Key, S: Source> Coordinator<K, S> {
    /// Puts an idle key into its queue, if anybody waits for it: at the place it had, or behind everybody.
    pub(super) fn enqueue(&mut self, key: &K, place: Option<u64>) {
        let Some(lead) = self.next_lead(key) else { return };
        let ticket = place.unwrap_or_else(|| self.lanes.ticket());
        let Some(slot) = self.slots.get_mut(key) else { return };
        self.lanes.enqueue(key, lead.source.upstream(), ticket);
        slot.stage = Stage::Queued { lead, ticket, kept: false };
    }

    /// Starts whatever may start. Runs after every event, so no slot stays idle while a key could use it.
    pub(super) fn start_fills(&mut self, out: &mut Vec<Action<K, S>>) {
        for lane in [Lane::Content, Lane::Pointer] {
            while let Some(key) = self.lanes.start_next(lane) {
                self.start_fill(key, out);
            }
        }
    }

    pub(super) fn fill_head(&mut self, id: FlightId, size: Option<u64>, out: &mut Vec<Action<K, S>>) {
        let Some((key, flight)) = self.live_flight(id) else { return };
        if key.lane() == Lane::Pointer || flight.head != Head::Unknown {
            return;
        }
        let upstream = flight.lead.source.upstream();
        let mut evictions = 0;
        if let Some(size) = size {
            self.ledger.reserve(id, upstream, size);
            evictions = self.make_room(Some(id), out);
        }
        if evictions == 0 || self.planted.is(Bug::AdmitBeforeEvicted) {
            self.admit(&key, out);
        } else if let Some(flight) = self.slots.get_mut(&key).and_then(Slot::flight_mut) {
            flight.head = Head::Waiting { evictions };
        }
    }

    /// One of the evictions that this flight waits for, if any does, has reported, whichever way.
    pub(super) fn room_reported(&mut self, id: Option<FlightId>, out: &mut Vec<Action<K, S>>) {
        let Some(key) = id.and_then(|id| self.flights.get(&id)).cloned() else { return };
        let Some(flight) = self.slots.get_mut(&key).and_then(Slot::flight_mut) else { return };
        match &mut flight.head {
            Head::Waiting { evictions } if *evictions > 1 => *evictions -= 1,
            Head::Waiting { .. } => self.admit(&key, out),
            Head::Unknown | Head::Admitted => {}
        }
    }

    pub(super) fn fill_done(&mut self, now: Millis, id: FlightId, size: u64, out: &mut Vec<Action<K, S>>) {
        let Some((key, flight)) = self.end_flight(id) else { return };
        match key.lane() {
            Lane::Pointer => {
                self.answer_all(&key, out, |waiter| Action::Ready { waiter, flight: Some(flight.id) });
                self.settle(&key);
            }
            Lane::Content => {
                let used = LastUse::Now(now);
                if self.ledger.get(&key).is_none() || self.planted.is(Bug::AddedCountedTwice) {
                    let upstream = flight.lead.source.upstream();
                    let entry = Entry { size, upstream, used, pinned: false, hold: Hold::Held };
                    self.ledger.insert(key.clone(), entry);
                } else {
                    self.ledger.touch(&key, now);
                }
                self.answer_all(&key, out, |waiter| Action::Ready { waiter, flight: None });
                self.settle(&key);
                self.trim(&key, out);
            }
        }
    }

    pub(super) fn fill_failed(
        &mut self,
        now: Millis,
        id: FlightId,
        failure: Failure,
        out: &mut Vec<Action<K, S>>,
    ) {
        let Some((key, flight)) = self.end_flight(id) else { return };
        if self.planted.is(Bug::AddedForgottenWhenFillFails) {
            self.ledger.remove(&key);
        }
        if let Some(Scanned { upstream, size, used }) = flight.scanned {
            // Not brought, so what the scan saw may still be true: whoever waited looks again.
            self.arrived(&key, upstream, size, used, false, out);
        }
        let Lead { source, negative_ms } = &flight.lead;
        self.memory.remember(now, &key, source, failure, *negative_ms);
        if failure == Failure::NoSpace {
            self.answer_all(&key, out, |waiter| Action::Refuse { waiter, why: Refusal::Bypass });
        } else if self.planted.is(Bug::FailureRefusesOtherSources) {
            self.answer_all(&key, out, |waiter| Action::Refuse { waiter, why: Refusal::Failed(failure) });
        } else {
            let always = self.planted.is(Bug::DeathRetriedForever);
            self.answer_source(&key, source, out, |waiter| {
                let first_death = failure == Failure::Died && !std::mem::replace(&mut waiter.retried, true);
                let retry = first_death || failure == Failure::Died && always;
                (!retry).then_some(Refusal::Failed(failure))
            });
        }
        if !self.planted.is(Bug::NextSourceForgotten) {
            self.enqueue(&key, Some(flight.ticket));
        }
        self.settle(&key);
        self.trim(&key, out);
    }

    /// Ends a live flight and gives back what it held; the key is idle then. `None`: news of the past.
    pub(super) fn end_flight(&mut self, id: FlightId) -> Option<(K, Flight<S>)> {
        let (key, _) = self.live_flight(id)?;
        let slot = self.slots.get_mut(&key)?;
        let Stage::Filling(flight) = std::mem::replace(&mut slot.stage, Stage::Idle) else { return None };
        self.flights.remove(&flight.id);
        if !self.planted.is(Bug::ReservationLeaked) {
            self.ledger.release(flight.id);
        }
        if !self.planted.is(Bug::LaneSlotLeaked) {
            self.lanes.finished(key.lane(), flight.lead.source.upstream());
        }
        Some((key, flight))
    }

    /// The content came from elsewhere: its fill is not needed any more, if it has not begun to be read.
    pub(super) fn cancel_unread(&mut self, key: &K, out: &mut Vec<Action<K, S>>) {
        let Some(flight) = self.slots.get_mut(key).and_then(Slot::flight_mut) else { return };
        if flight.head == Head::Unknown && !flight.cancelled {
            flight.cancelled = true;
            out.push(Action::CancelFill { flight: flight.id });
        }
    }

    fn start_fill(&mut self, key: K, out: &mut Vec<Action<K, S>>) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let Stage::Queued { lead, ticket, .. } = std::mem::replace(&mut slot.stage, Stage::Idle) else {
            return;
        };
        let id = FlightId(self.next_flight);
        self.next_flight += 1;
        out.push(Action::StartFill { flight: id, key: key.clone(), source: lead.source.clone() });
        slot.stage =
            Stage::Filling(Flight { id, lead, ticket, head: Head::Unknown, cancelled: false, scanned: None });
        self.flights.insert(id, key);
    }

    fn admit(&mut self, key: &K, out: &mut Vec<Action<K, S>>) {
        let Some(flight) = self.slots.get_mut(key).and_then(Slot::flight_mut) else { return };
        flight.head = Head::Admitted;
        let flight = flight.id;
        out.push(Action::Admit { flight });
        self.answer_all(key, out, |waiter| Action::Attach { waiter, flight });
    }

    fn live_flight(&self, id: FlightId) -> Option<(K, &Flight<S>)> {
        let mut key = self.flights.get(&id);
        if self.planted.is(Bug::StaleReportAccepted) {
            key = key.or_else(|| self.flights.values().next());
        }
        let key = key?;
        Some((key.clone(), self.slots.get(key)?.flight()?))
    }
}

//! Owns joining and leaving: every waiter that does not leave gets exactly one answer.
//! Must not know: how room is made, which fill is next.

use super::super::planted::Bug;
use super::super::{Action, FlightId, Key, Lane, Refusal, Source, WaiterId};
use super::Coordinator;
use super::slot::{Head, Lead, Slot, Stage, Waiter};
use crate::clock::Millis;

impl<K: Key, S: Source> Coordinator<K, S> {
    pub(super) fn join(
        &mut self,
        now: Millis,
        id: WaiterId,
        waiter: Waiter<K, S>,
        out: &mut Vec<Action<K, S>>,
    ) {
        if self.waiters.contains_key(&id) {
            return;
        }
        if !self.planted.is(Bug::HitNotTouched) {
            // Also while it is being removed: should it stay after all, it is one that was wanted just now.
            self.ledger.touch(&waiter.key, now);
        }
        if self.planted.is(Bug::ReadyDuringEviction) && self.ledger.get(&waiter.key).is_some()
            || self.ledger.is_present(&waiter.key)
        {
            out.push(Action::Ready { waiter: id, flight: None });
        } else if let Some(failure) = self.memory.recall(now, &waiter.key, &waiter.source) {
            out.push(Action::Refuse { waiter: id, why: Refusal::Remembered(failure) });
        } else if self.planted.is(Bug::NobodyJoins) && self.slots.contains_key(&waiter.key) {
            out.push(Action::Refuse { waiter: id, why: Refusal::Bypass });
        } else if let Some(flight) = self.admitted_flight(&waiter.key) {
            out.push(Action::Attach { waiter: id, flight });
        } else {
            self.wait(id, waiter);
        }
    }

    pub(super) fn leave(&mut self, id: WaiterId, out: &mut Vec<Action<K, S>>) {
        if self.planted.is(Bug::LeftWaiterAnswered) {
            return;
        }
        let Some(waiter) = self.forget_waiter(id) else { return };
        self.queue_follows_waiters(&waiter.key);
        self.planted_leave(&waiter, out);
        self.settle(&waiter.key);
    }

    /// Sends away whose deadline has passed, and looks after whatever else is due.
    pub(super) fn tick(&mut self, now: Millis, out: &mut Vec<Action<K, S>>) {
        while let Some((_, id)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.deadlines.pop_first();
            self.late(id, out);
        }
        self.memory.forget_expired(now);
        self.retry_room(now, out);
    }

    /// A source through which somebody waits for this key: that of whoever has waited longest.
    pub(super) fn next_lead(&self, key: &K) -> Option<Lead<S>> {
        let first = self.slots.get(key)?.first_waiting()?;
        let waiter = self.waiters.get(&first)?;
        Some(Lead { source: waiter.source.clone(), negative_ms: waiter.negative_ms })
    }

    /// The same answer for everybody who waits for this key.
    pub(super) fn answer_all(
        &mut self,
        key: &K,
        out: &mut Vec<Action<K, S>>,
        answer: impl Fn(WaiterId) -> Action<K, S>,
    ) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        for id in std::mem::take(&mut slot.waiting).into_values().flatten() {
            self.forget_waiter(id);
            out.push(answer(id));
        }
    }

    /// An answer for those who wait through this source; `None` lets a waiter wait on.
    pub(super) fn answer_source(
        &mut self,
        key: &K,
        source: &S,
        out: &mut Vec<Action<K, S>>,
        mut answer: impl FnMut(&mut Waiter<K, S>) -> Option<Refusal>,
    ) {
        let group = self.slots.get(key).and_then(|slot| slot.waiting.get(source)).cloned();
        for id in group.into_iter().flatten() {
            let Some(waiter) = self.waiters.get_mut(&id) else { continue };
            if let Some(why) = answer(waiter) {
                self.forget_waiter(id);
                out.push(Action::Refuse { waiter: id, why });
            }
        }
    }

    fn wait(&mut self, id: WaiterId, waiter: Waiter<K, S>) {
        let key = waiter.key.clone();
        let slot = self.slots.entry(key.clone()).or_insert_with(Slot::new);
        slot.wait(&waiter.source, id);
        let idle = matches!(slot.stage, Stage::Idle);
        if let Some(deadline) = waiter.deadline {
            self.deadlines.insert((deadline, id));
        }
        self.waiters.insert(id, waiter);
        if idle {
            self.enqueue(&key, None);
        }
    }

    fn late(&mut self, id: WaiterId, out: &mut Vec<Action<K, S>>) {
        let Some(waiter) = self.forget_waiter(id) else { return };
        out.push(Action::Refuse { waiter: id, why: Refusal::Late });
        if let Some(Slot { stage: Stage::Queued { kept, .. }, .. }) = self.slots.get_mut(&waiter.key) {
            *kept = true;
        }
        if self.planted.is(Bug::LateEndsFlight)
            && let Some(flight) = self.flight_without_waiters(&waiter.key)
        {
            self.end_flight(flight);
        }
        self.settle(&waiter.key);
    }

    /// A queued key that nobody wants any more leaves the queue; one that its own source no longer wants queues for
    /// another. A fill that has started is not touched by any of this.
    fn queue_follows_waiters(&mut self, key: &K) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let Stage::Queued { lead, ticket, kept } = &slot.stage else { return };
        if *kept || slot.waiting.contains_key(&lead.source) {
            return;
        }
        let ticket = *ticket;
        self.lanes.dequeue(key.lane(), lead.source.upstream(), ticket);
        slot.stage = Stage::Idle;
        self.enqueue(key, Some(ticket));
    }

    fn admitted_flight(&self, key: &K) -> Option<FlightId> {
        let flight = self.slots.get(key)?.flight()?;
        (key.lane() == Lane::Content && flight.head == Head::Admitted).then_some(flight.id)
    }

    fn forget_waiter(&mut self, id: WaiterId) -> Option<Waiter<K, S>> {
        let waiter = self.waiters.remove(&id)?;
        if let Some(deadline) = waiter.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        if let Some(slot) = self.slots.get_mut(&waiter.key) {
            slot.stop_waiting(&waiter.source, id);
        }
        Some(waiter)
    }

    fn flight_without_waiters(&self, key: &K) -> Option<FlightId> {
        let slot = self.slots.get(key).filter(|slot| slot.waiting.is_empty())?;
        slot.flight().map(|flight| flight.id)
    }

    fn planted_leave(&mut self, waiter: &Waiter<K, S>, out: &mut Vec<Action<K, S>>) {
        if self.planted.is(Bug::LastLeaveCancelsFlight)
            && let Some(flight) = self.flight_without_waiters(&waiter.key)
        {
            out.push(Action::CancelFill { flight });
        }
        let led = |slot: &Slot<S>| slot.flight().is_some_and(|flight| flight.lead.source == waiter.source);
        if self.planted.is(Bug::LeaderLeaveRefusesOthers) && self.slots.get(&waiter.key).is_some_and(led) {
            let why = Refusal::Failed(super::super::Failure::Died);
            self.answer_all(&waiter.key, out, |waiter| Action::Refuse { waiter, why });
        }
    }
}

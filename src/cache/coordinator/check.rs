//! Owns the predicates that hold after every step, for simulation, tests and a running server alike.
//! Must not know: how any of them could come to fail.

use std::collections::BTreeMap;

use super::super::ledger::Hold;
use super::super::{FlightId, Key, Lane, Source};
use super::Coordinator;
use super::slot::{Head, Slot, Stage};

/// A predicate that does not hold: a bug of ours, never of a client or an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Violation {
    #[error("flights and filling keys do not match one to one")]
    Flights,
    #[error("waiters and those waiting at the keys do not match one to one")]
    Waiters,
    #[error("somebody waits at a key where nothing is under way that could end it")]
    Stranded,
    #[error("claims and claimed keys do not match one to one")]
    Claims,
    #[error("the sums of bytes are not those of the entries")]
    Bytes,
    #[error("room is reserved for a flight that has ended")]
    Reservations,
    #[error("more fills run than the limit allows, or the count of them is wrong")]
    Lanes,
    #[error("the queues and the queued keys do not match one to one")]
    Queues,
    #[error("a key waits in the queue although it could start")]
    IdleLane,
    #[error(
        "a key that is filling, claimed or being removed may be chosen for eviction, or a free one may not"
    )]
    Holds,
    #[error("a flight waits for other evictions than those made for it")]
    Room,
    #[error("the memory of failures is inconsistent or too large")]
    Memory,
}

impl<K: Key, S: Source> Coordinator<K, S> {
    /// Looks at everything, so it takes as long as there are entries: for tests.
    pub fn check(&self) -> Result<(), Violation> {
        self.check_under_way()?;
        first_broken([
            (self.ledger.adds_up(), Violation::Bytes),
            (self.holds_match(), Violation::Holds),
            (self.memory.is_consistent(), Violation::Memory),
        ])
    }

    /// Looks at what is under way, and takes as long as there is much of it: for a running server, once in a while.
    pub fn check_under_way(&self) -> Result<(), Violation> {
        let reserved = self.ledger.reservations().all(|flight| self.flights.contains_key(&flight));
        first_broken([
            (self.flights_match(), Violation::Flights),
            (self.waiters_match(), Violation::Waiters),
            (self.slots.iter().all(|(key, slot)| self.waits_for_something(key, slot)), Violation::Stranded),
            (self.claims_match(), Violation::Claims),
            (reserved, Violation::Reservations),
            (self.lanes_match(), Violation::Lanes),
            (self.queues_match(), Violation::Queues),
            (!self.has_idle_lane(), Violation::IdleLane),
            (self.room_matches(), Violation::Room),
        ])
    }

    fn flights_match(&self) -> bool {
        let filling = self.slots.iter().filter_map(|(key, slot)| Some((slot.flight()?.id, key)));
        filling.collect::<BTreeMap<_, _>>().into_iter().eq(self.flights.iter().map(|(id, key)| (*id, key)))
    }

    fn waiters_match(&self) -> bool {
        let known = self.slots.iter().all(|(key, slot)| {
            slot.waiting.iter().all(|(source, group)| {
                let fits = |id| self.waiters.get(id).is_some_and(|w| w.key == *key && w.source == *source);
                !group.is_empty() && group.iter().all(fits)
            })
        });
        let waiting: usize =
            self.slots.values().flat_map(|slot| slot.waiting.values()).map(|group| group.len()).sum();
        let mut deadlines: Vec<_> =
            self.waiters.iter().filter_map(|(id, waiter)| Some((waiter.deadline?, *id))).collect();
        deadlines.sort_unstable();
        known && waiting == self.waiters.len() && deadlines.iter().eq(self.deadlines.iter())
    }

    fn waits_for_something(&self, key: &K, slot: &Slot<S>) -> bool {
        let waits = !slot.waiting.is_empty();
        match &slot.stage {
            Stage::Idle => !waits && !slot.claims.is_empty(),
            Stage::Queued { lead, kept, .. } => *kept || slot.waiting.contains_key(&lead.source),
            Stage::Filling(flight) => !waits || flight.head != Head::Admitted && !self.ledger.is_present(key),
            Stage::Evicting { .. } => true,
        }
    }

    fn claims_match(&self) -> bool {
        let claimed =
            self.slots.iter().flat_map(|(key, slot)| slot.claims.iter().map(move |claim| (*claim, key)));
        claimed
            .collect::<BTreeMap<_, _>>()
            .into_iter()
            .eq(self.claims.iter().map(|(claim, key)| (*claim, key)))
    }

    fn lanes_match(&self) -> bool {
        [Lane::Content, Lane::Pointer].into_iter().all(|lane| {
            let mut running = BTreeMap::<u64, usize>::new();
            for (_, slot) in self.slots.iter().filter(|(key, _)| key.lane() == lane) {
                if let Some(flight) = slot.flight() {
                    *running.entry(flight.lead.source.upstream()).or_default() += 1;
                }
            }
            running == *self.lanes.running(lane) && self.lanes.within_limits(lane)
        })
    }

    fn queues_match(&self) -> bool {
        let mut queued = 0;
        for (key, slot) in &self.slots {
            if let Stage::Queued { lead, ticket, .. } = &slot.stage {
                queued += 1;
                if !self.lanes.stands(key, lead.source.upstream(), *ticket) {
                    return false;
                }
            }
        }
        queued == self.lanes.queued(Lane::Content) + self.lanes.queued(Lane::Pointer)
    }

    fn has_idle_lane(&self) -> bool {
        [Lane::Content, Lane::Pointer].into_iter().any(|lane| self.lanes.has_startable(lane))
    }

    fn holds_match(&self) -> bool {
        let evicting = |slot: &Slot<S>| matches!(slot.stage, Stage::Evicting { .. });
        let entries = self.ledger.entries().all(|(key, entry)| match (entry.hold, self.slots.get(key)) {
            (Hold::Free, slot) => slot.is_none(),
            (Hold::Held, slot) => slot.is_some_and(|slot| !evicting(slot)),
            (Hold::Evicting, slot) => slot.is_some_and(evicting),
        });
        let known = |(key, slot): (&K, &Slot<S>)| !evicting(slot) || self.ledger.get(key).is_some();
        entries && self.slots.iter().all(known)
    }

    fn room_matches(&self) -> bool {
        let mut evictions = BTreeMap::<FlightId, usize>::new();
        for slot in self.slots.values() {
            if let Stage::Evicting { room_for: Some(flight), .. } = slot.stage {
                *evictions.entry(flight).or_default() += 1;
            }
        }
        self.slots.values().filter_map(Slot::flight).all(|flight| match flight.head {
            Head::Waiting { evictions: expected } => evictions.get(&flight.id) == Some(&expected),
            Head::Unknown | Head::Admitted => !evictions.contains_key(&flight.id),
        })
    }
}

fn first_broken<const N: usize>(predicates: [(bool, Violation); N]) -> Result<(), Violation> {
    match predicates.into_iter().find(|(holds, _)| !holds) {
        None => Ok(()),
        Some((_, violation)) => Err(violation),
    }
}

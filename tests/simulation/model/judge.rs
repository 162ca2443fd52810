//! Owns the verdict on each action, and on what a step left undone.

use std::collections::BTreeSet;

use binaryrepo::cache::{Action, Event, Failure, FlightId, Key, Lane, Refusal, Source, WaiterId};

use binaryrepo::clock::Millis;

use super::{Flight, Model, Said, Step, Waiting};
use crate::names::{Name, Via};

impl Model {
    pub(super) fn judge(&mut self, step: &mut Step<'_>, action: &Said) -> Result<(), String> {
        match *action {
            Action::StartFill { flight, key, source } => self.judge_start(step.now, flight, key, source),
            Action::CancelFill { flight } => {
                let flight = self.flights.get_mut(&flight).ok_or("cancels a flight that has ended")?;
                must!(!std::mem::replace(&mut flight.cancelled, true), "cancelled twice");
                let key = flight.key;
                must!(self.is_present(key), "a fill goes on whoever leaves");
                Ok(())
            }
            Action::Admit { flight } => {
                let flight = self.flights.get_mut(&flight).ok_or("admits a flight that has ended")?;
                must!(flight.head && !flight.admitted, "admitted without a head, or twice");
                must!(flight.waits_for.is_empty(), "admitted before {:?} were gone", flight.waits_for);
                flight.admitted = true;
                Ok(())
            }
            Action::Attach { waiter, flight } => {
                let waiting = self.answered(waiter)?;
                let flight = self.flights.get(&flight).ok_or("attached to a flight that has ended")?;
                must!(flight.admitted && flight.key == waiting.key, "attached to the wrong flight");
                must!(!flight.cancelled, "attached to a flight that is being ended");
                Ok(())
            }
            Action::Ready { waiter, flight: None } => {
                let waiting = self.answered(waiter)?;
                must!(self.is_present(waiting.key), "told to open what is not here");
                Ok(())
            }
            Action::Ready { waiter, flight: Some(flight) } => {
                let waiting = self.answered(waiter)?;
                let this = matches!(step.event, Event::FillDone { flight: done, .. } if *done == flight);
                let ended = step.ended.as_ref().is_some_and(|ended| ended.key == waiting.key);
                must!(this && ended && waiting.key.lane() == Lane::Pointer, "handed the wrong document");
                Ok(())
            }
            Action::Claimed { claim } => {
                let (key, granted) = *self.claims.get(&claim).ok_or("granted to nobody")?;
                must!(!granted, "granted twice");
                must!(!self.is_evicting(key), "granted while the file is being removed");
                self.claims.insert(claim, (key, true));
                Ok(())
            }
            Action::Refuse { waiter, why } => self.judge_refusal(step, waiter, why),
            Action::Evict { key } => self.judge_eviction(step, key),
            Action::PinnedLost { key } => {
                let lost = matches!(step.event, Event::Lost { key: lost } if *lost == key);
                let pinned = self.copies.get(&key).is_some_and(|copy| copy.pinned);
                must!(lost && pinned, "a false alarm");
                Ok(())
            }
        }
    }

    fn answered(&mut self, waiter: WaiterId) -> Result<Waiting, String> {
        self.waiting.remove(&waiter).ok_or_else(|| "an answer to somebody who left or has one".to_owned())
    }

    fn judge_start(&mut self, now: Millis, id: FlightId, key: Name, source: Via) -> Result<(), String> {
        must!(id.0 > self.last_flight, "a number given out before");
        self.last_flight = id.0;
        must!(!self.copies.contains_key(&key), "fetches what is here");
        must!(self.flights.values().all(|flight| flight.key != key), "a second live fill of a key");
        let remembered = self.failures.get(&(key, source)).is_some_and(|(_, until)| *until > now);
        must!(!remembered, "tries again what failed a moment ago");
        let wanted = self.waiting.values().any(|waiting| waiting.key == key && waiting.source == source);
        must!(wanted || self.late.contains(&key), "fetches what nobody waits for");
        self.late.remove(&key);
        let upstream = source.upstream();
        let flight = Flight {
            key,
            source,
            upstream,
            head: false,
            reserved: None,
            admitted: false,
            cancelled: false,
            waits_for: BTreeSet::new(),
            scanned: None,
        };
        self.flights.insert(id, flight);
        let (total, here) = self.running(key.lane(), upstream);
        let (limit, limit_here) = self.lane_limits(key.lane());
        must!(total <= limit && here <= limit_here, "more fills than the lane allows");
        Ok(())
    }

    fn judge_refusal(&mut self, step: &Step<'_>, waiter: WaiterId, why: Refusal) -> Result<(), String> {
        let waiting = self.answered(waiter)?;
        match why {
            Refusal::Late => {
                must!(matches!(step.event, Event::Tick), "late at the wrong time");
                must!(waiting.deadline.is_some_and(|at| at <= step.now), "sent away before its time");
                let fetching = self.flights.values().any(|flight| flight.key == waiting.key);
                if !fetching && !self.is_evicting(waiting.key) {
                    self.late.insert(waiting.key);
                }
            }
            Refusal::Remembered(_) => {
                let expected = step.expected.as_ref();
                must!(
                    expected == Some(&Action::Refuse { waiter, why }),
                    "refused for what is not remembered"
                );
            }
            Refusal::Failed(failure) => {
                must!(failure != Failure::NoSpace, "no room is no failure of the source");
                let told = matches!(step.event, Event::FillFailed { failure: told, .. } if *told == failure);
                let ended = step.ended.as_ref();
                let its_own =
                    ended.is_some_and(|ended| ended.key == waiting.key && ended.source == waiting.source);
                must!(told && its_own, "refused for what befell another");
                must!(failure != Failure::Died || waiting.deaths >= 2, "not tried again");
            }
            Refusal::Bypass => {
                let full = matches!(step.event, Event::FillFailed { failure: Failure::NoSpace, .. });
                let its_own = step.ended.as_ref().is_some_and(|ended| ended.key == waiting.key);
                must!(full && its_own, "sent past the cache without need");
            }
        }
        Ok(())
    }

    fn judge_eviction(&mut self, step: &mut Step<'_>, key: Name) -> Result<(), String> {
        must!(self.is_candidate(key), "removes what is pinned, claimed, being filled or not here");
        let asked = matches!(step.event, Event::Lost { key: k } | Event::Collect { key: k } if *k == key);
        must!(self.loaded || matches!(step.event, Event::Lost { .. }), "removes before all is loaded");
        let filled = step.ended.as_ref().map(|flight| flight.key).filter(|filled| self.is_candidate(*filled));
        let giant = filled.filter(|filled| self.is_oversized(*filled));
        must!(
            giant.is_none_or(|giant| giant == key),
            "another goes first, though {giant:?} is too large to stay"
        );
        must!(
            self.is_due(step, key) || asked || self.is_oversized(key),
            "removes what need not go, or not now"
        );
        let copy = self.copies.get_mut(&key).expect("a candidate");
        copy.evicting = true;
        copy.unpinned = false;
        if let Event::FillHead { flight, .. } = step.event
            && let Some(flight) = self.flights.get_mut(flight)
        {
            flight.waits_for.insert(key);
        }
        Ok(())
    }

    /// Some limit asks for it, and nothing used longer ago could go instead.
    fn is_due(&self, step: &mut Step<'_>, key: Name) -> bool {
        let upstream = self.copies[&key].upstream;
        for scope in [Some(upstream), None] {
            let Some(limit) = self.limit_of(scope) else { continue };
            let kept = self.kept(scope);
            let low_mark = limit * self.limits.low_mark_percent / 100;
            let due = kept > limit || step.shrinking.contains(&scope) && kept > low_mark;
            if due && self.oldest(scope).is_some_and(|used| self.copies[&key].used <= used) {
                step.shrinking.insert(scope);
                return true;
            }
        }
        false
    }

    pub(super) fn judge_rest(&self, step: &Step<'_>) -> Result<(), String> {
        for (id, waiting) in &self.waiting {
            must!(!self.is_present(waiting.key), "{id:?} waits for what is here");
            let along = self.flights.values().any(|flight| flight.key == waiting.key && flight.admitted);
            must!(!along, "{id:?} waits though it could read along");
            let late = matches!(step.event, Event::Tick) && waiting.deadline.is_some_and(|at| at <= step.now);
            must!(!late, "{id:?} waits past its deadline");
            must!(waiting.deaths < 2, "{id:?} is tried again for ever");
            must!(!self.could_start(waiting), "{id:?} waits for a slot though one is idle");
        }
        for (id, (key, granted)) in &self.claims {
            must!(*granted || self.is_evicting(*key), "{id:?} waits for nothing");
        }
        self.judge_failure(step)?;
        let full = match step.event {
            Event::Space { .. } | Event::Share { .. } | Event::Loaded => true,
            Event::FillHead { flight, size: Some(_) } => self.flights.contains_key(flight),
            Event::FillDone { .. } => {
                step.ended.as_ref().is_some_and(|ended| ended.key.lane() == Lane::Content)
            }
            _ => false,
        };
        must!(
            !full || !self.loaded || self.limits_are_kept(),
            "a limit is exceeded though something could go"
        );
        Ok(())
    }

    /// Nobody waits on through a source that has just failed.
    fn judge_failure(&self, step: &Step<'_>) -> Result<(), String> {
        let (Event::FillFailed { failure, .. }, Some(ended)) = (step.event, &step.ended) else {
            return Ok(());
        };
        for (id, waiting) in self.waiting.iter().filter(|(_, waiting)| waiting.key == ended.key) {
            let refused =
                *failure == Failure::NoSpace || *failure != Failure::Died && waiting.source == ended.source;
            must!(!refused, "{id:?} waits on though its source failed");
        }
        Ok(())
    }
}

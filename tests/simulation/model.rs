//! Owns what must be true: a second, naive account of everything the coordinator was told and has said, kept by
//! other means than its own. Every action is held against it, and so is every figure afterwards.

use std::collections::{BTreeMap, BTreeSet};

use binaryrepo::cache::{
    Action, ClaimId, Coordinator, Event, Failure, FlightId, Key, Lane, LastUse, Limits, Refusal, Source,
    WaiterId,
};
use binaryrepo::clock::Millis;

use crate::names::{Name, Via};

pub type Told = Event<Name, Via>;
pub type Said = Action<Name, Via>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Copy {
    pub size: u64,
    pub upstream: u64,
    pub pinned: bool,
    pub used: LastUse,
    pub evicting: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Flight {
    pub key: Name,
    pub source: Via,
    pub upstream: u64,
    pub head: bool,
    pub reserved: Option<u64>,
    pub admitted: bool,
    pub cancelled: bool,
    pub waits_for: BTreeSet<Name>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Waiting {
    pub key: Name,
    pub source: Via,
    pub deadline: Option<Millis>,
    pub deaths: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Model {
    pub limits: Limits,
    pub copies: BTreeMap<Name, Copy>,
    pub flights: BTreeMap<FlightId, Flight>,
    pub waiting: BTreeMap<WaiterId, Waiting>,
    /// True once granted.
    pub claims: BTreeMap<ClaimId, (Name, bool)>,
    pub loaded: bool,
    limit: u64,
    shares: BTreeMap<u64, u64>,
    failures: BTreeMap<(Name, Via), (Failure, Millis)>,
    /// Keys that kept their place in the queue for somebody who was sent away late.
    late: BTreeSet<Name>,
    last_flight: u64,
}

/// What one step is about: the event, the flight that it ended, and which limits were found exceeded.
struct Step<'a> {
    now: Millis,
    event: &'a Told,
    ended: Option<Flight>,
    expected: Option<Said>,
    shrinking: BTreeSet<Option<u64>>,
}

macro_rules! must {
    ($holds:expr, $($what:tt)+) => {
        if !$holds {
            return Err(format!($($what)+));
        }
    };
}

impl Model {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            copies: BTreeMap::new(),
            flights: BTreeMap::new(),
            waiting: BTreeMap::new(),
            claims: BTreeMap::new(),
            loaded: false,
            limit: u64::MAX,
            shares: BTreeMap::new(),
            failures: BTreeMap::new(),
            late: BTreeSet::new(),
            last_flight: 0,
        }
    }

    pub fn is_present(&self, key: Name) -> bool {
        self.copies.get(&key).is_some_and(|copy| !copy.evicting)
    }

    pub fn is_evicting(&self, key: Name) -> bool {
        self.copies.get(&key).is_some_and(|copy| copy.evicting)
    }

    /// A report that must change nothing: of a flight that has ended, or said before.
    pub fn is_old_news(&self, event: &Told) -> bool {
        match event {
            Event::FillHead { flight, .. } => self.flights.get(flight).is_none_or(|flight| flight.head),
            Event::FillDone { flight, .. } | Event::FillFailed { flight, .. } => {
                !self.flights.contains_key(flight)
            }
            Event::EvictDone { key } | Event::EvictFailed { key } => !self.is_evicting(*key),
            _ => false,
        }
    }

    /// Follows one step of the coordinator, and says what was wrong with it.
    pub fn follow(&mut self, now: Millis, event: &Told, said: &[Said]) -> Result<(), String> {
        let mut step = Step { now, event, ended: None, expected: None, shrinking: BTreeSet::new() };
        self.hear(&mut step);
        if let Some(expected) = &step.expected {
            must!(said.contains(expected), "{event:?} must be answered by {expected:?}, not {said:?}");
        }
        for action in said {
            self.judge(&mut step, action).map_err(|what| format!("{what}: {action:?} after {event:?}"))?;
        }
        self.judge_rest(&step).map_err(|what| format!("{what}, after {event:?} and {said:?}"))
    }

    fn hear(&mut self, step: &mut Step<'_>) {
        let now = step.now;
        match *step.event {
            Event::Load { key, upstream, size, used, pinned } => {
                self.arrive(key, upstream, size, LastUse::Before(used), pinned);
            }
            Event::Added { key, upstream, size, pinned } => {
                self.arrive(key, upstream, size, LastUse::Now(now), pinned);
            }
            Event::Loaded => self.loaded = true,
            Event::Space { limit } => self.limit = limit,
            Event::Share { upstream, limit: Some(limit) } => drop(self.shares.insert(upstream, limit)),
            Event::Share { upstream, limit: None } => drop(self.shares.remove(&upstream)),
            Event::Join { waiter, key, source, deadline, .. } => {
                step.expected = self.answer_at_once(now, waiter, key, source);
                self.touch(key, now);
                self.waiting.insert(waiter, Waiting { key, source, deadline, deaths: 0 });
            }
            Event::Leave { waiter } => drop(self.waiting.remove(&waiter)),
            Event::FillHead { flight, size } => {
                if let Some(flight) = self.flights.get_mut(&flight).filter(|flight| !flight.head) {
                    flight.head = true;
                    flight.reserved = size;
                }
            }
            Event::FillDone { flight, size } => {
                step.ended = self.flights.remove(&flight);
                if let Some(flight) = step.ended.as_ref().filter(|flight| flight.key.lane() == Lane::Content)
                {
                    self.arrive(flight.key, flight.upstream, size, LastUse::Now(now), false);
                }
            }
            Event::FillFailed { flight, failure } => {
                step.ended = self.flights.remove(&flight);
                if let Some(flight) = step.ended.clone() {
                    self.fail(now, &flight, failure);
                }
            }
            Event::Claim { claim, key } => drop(self.claims.insert(claim, (key, false))),
            Event::Unclaim { claim } => drop(self.claims.remove(&claim)),
            Event::Unpin { key } => drop(self.copies.get_mut(&key).map(|copy| copy.pinned = false)),
            Event::Touch { key } => self.touch(key, now),
            Event::EvictDone { key } if self.is_evicting(key) => {
                self.copies.remove(&key);
                self.evicted(key);
            }
            Event::EvictFailed { key } if self.is_evicting(key) => {
                self.copies.get_mut(&key).expect("evicting").evicting = false;
                self.touch(key, now);
                self.evicted(key);
            }
            Event::Collect { .. }
            | Event::Lost { .. }
            | Event::EvictDone { .. }
            | Event::EvictFailed { .. }
            | Event::Tick => {}
        }
    }

    fn arrive(&mut self, key: Name, upstream: u64, size: u64, used: LastUse, pinned: bool) {
        let copy = Copy { size, upstream, pinned, used, evicting: false };
        let copy = self.copies.entry(key).or_insert(copy);
        copy.pinned |= pinned;
        copy.used = copy.used.max(used);
        self.late.remove(&key);
    }

    fn touch(&mut self, key: Name, now: Millis) {
        if let Some(copy) = self.copies.get_mut(&key) {
            copy.used = LastUse::Now(now);
        }
    }

    fn evicted(&mut self, key: Name) {
        for flight in self.flights.values_mut() {
            flight.waits_for.remove(&key);
        }
    }

    fn answer_at_once(&self, now: Millis, waiter: WaiterId, key: Name, source: Via) -> Option<Said> {
        if self.is_present(key) {
            return Some(Action::Ready { waiter, flight: None });
        }
        if let Some((failure, until)) = self.failures.get(&(key, source)).filter(|(_, until)| *until > now) {
            let failure = match failure {
                Failure::RateLimited { .. } => Failure::RateLimited { retry_after_ms: until.0 - now.0 },
                other => *other,
            };
            return Some(Action::Refuse { waiter, why: Refusal::Remembered(failure) });
        }
        let (flight, _) = self.flights.iter().find(|(_, flight)| flight.key == key && flight.admitted)?;
        Some(Action::Attach { waiter, flight: *flight })
    }

    fn fail(&mut self, now: Millis, flight: &Flight, failure: Failure) {
        let span_ms = match failure {
            Failure::Transport => 2_000,
            Failure::NotFound => crate::names::NEGATIVE_MS,
            Failure::RateLimited { retry_after_ms } => retry_after_ms.min(300_000),
            Failure::Mismatch => 60_000,
            Failure::NoSpace | Failure::Died => 0,
        };
        if span_ms > 0 {
            self.failures.insert((flight.key, flight.source), (failure, Millis(now.0 + span_ms)));
        }
        if failure == Failure::Died {
            let same = |waiting: &&mut Waiting| waiting.key == flight.key && waiting.source == flight.source;
            self.waiting.values_mut().filter(same).for_each(|waiting| waiting.deaths += 1);
        }
    }

    fn judge(&mut self, step: &mut Step<'_>, action: &Said) -> Result<(), String> {
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
        self.copies.get_mut(&key).expect("a candidate").evicting = true;
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

    fn judge_rest(&self, step: &Step<'_>) -> Result<(), String> {
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

    /// Every limit is kept, or nothing is left that could go.
    pub fn limits_are_kept(&self) -> bool {
        let scopes = self.shares.keys().map(|upstream| Some(*upstream)).chain([None]);
        scopes.into_iter().all(|scope| {
            let kept = self.limit_of(scope).is_none_or(|limit| self.kept(scope) <= limit);
            kept || self.oldest(scope).is_none()
        })
    }

    /// The coordinator's figures against ours.
    pub fn compare(&self, machine: &Coordinator<Name, Via>) -> Result<(), String> {
        let counts = machine.counts();
        let sum = |pinned, evicting| -> u64 {
            let ours = self.copies.values().filter(|copy| copy.pinned == pinned && copy.evicting == evicting);
            ours.map(|copy| copy.size).sum()
        };
        let ours = (
            self.flights.len(),
            self.waiting.len(),
            sum(false, false),
            sum(false, true),
            sum(true, false) + sum(true, true),
            self.flights.values().filter_map(|flight| flight.reserved).sum::<u64>(),
            self.copies.values().filter(|copy| !copy.evicting).count(),
        );
        let theirs = (
            counts.flights,
            counts.waiters,
            counts.present_bytes,
            counts.evicting_bytes,
            counts.pinned_bytes,
            counts.reserved_bytes,
            counts.present,
        );
        must!(
            ours == theirs,
            "flights, waiters, bytes present, evicting, pinned, reserved, keys: {theirs:?} instead of {ours:?}"
        );
        for (key, copy) in &self.copies {
            must!(machine.is_present(key) != copy.evicting, "{key:?}: present or not");
        }
        Ok(())
    }

    fn is_candidate(&self, key: Name) -> bool {
        let free = self.copies.get(&key).is_some_and(|copy| !copy.pinned && !copy.evicting);
        free && self.claims.values().all(|(claimed, _)| *claimed != key)
            && self.flights.values().all(|flight| flight.key != key)
    }

    fn is_oversized(&self, key: Name) -> bool {
        let copy = &self.copies[&key];
        copy.size > self.limit || self.shares.get(&copy.upstream).is_some_and(|share| copy.size > *share)
    }

    fn limit_of(&self, scope: Option<u64>) -> Option<u64> {
        match scope {
            None => Some(self.limit),
            Some(upstream) => self.shares.get(&upstream).copied(),
        }
    }

    fn kept(&self, scope: Option<u64>) -> u64 {
        let limit = self.limit_of(scope).unwrap_or(u64::MAX);
        let within = |upstream: u64| scope.is_none_or(|scope| scope == upstream);
        let copies =
            self.copies.values().filter(|copy| !copy.pinned && !copy.evicting && within(copy.upstream));
        let flights = self.flights.values().filter(|flight| within(flight.upstream));
        let reserved = flights.filter_map(|flight| flight.reserved).filter(|size| *size <= limit);
        copies.map(|copy| copy.size).sum::<u64>() + reserved.sum::<u64>()
    }

    fn oldest(&self, scope: Option<u64>) -> Option<LastUse> {
        let within = |copy: &Copy| scope.is_none_or(|scope| scope == copy.upstream);
        let candidates = self.copies.iter().filter(|(key, copy)| within(copy) && self.is_candidate(**key));
        candidates.map(|(_, copy)| copy.used).min()
    }

    fn lane_limits(&self, lane: Lane) -> (usize, usize) {
        match lane {
            Lane::Content => (self.limits.content_fills, self.limits.content_fills_per_upstream),
            Lane::Pointer => (self.limits.pointer_fills, self.limits.pointer_fills_per_upstream),
        }
    }

    fn running(&self, lane: Lane, upstream: u64) -> (usize, usize) {
        let in_lane = self.flights.values().filter(|flight| flight.key.lane() == lane);
        let here = in_lane.clone().filter(|flight| flight.upstream == upstream);
        (in_lane.count(), here.count())
    }

    /// It waits for a slot, and whichever source its key stands in the queue for, there is one.
    fn could_start(&self, waiting: &Waiting) -> bool {
        let key = waiting.key;
        if self.copies.contains_key(&key) || self.flights.values().any(|flight| flight.key == key) {
            return false;
        }
        let (limit, limit_here) = self.lane_limits(key.lane());
        let sources = self.waiting.values().filter(|other| other.key == key).map(|other| other.source);
        sources
            .map(|source| self.running(key.lane(), source.upstream()))
            .all(|(total, here)| total < limit && here < limit_here && !self.late.contains(&key))
    }
}

//! Owns what must be true: a second, naive account of everything the coordinator was told and has said, kept by
//! other means than its own. Every action is held against it, and so is every figure afterwards.

macro_rules! must {
    ($holds:expr, $($what:tt)+) => {
        if !$holds {
            return Err(format!($($what)+));
        }
    };
}

mod figures;
mod judge;

use std::collections::{BTreeMap, BTreeSet};

use binaryrepo::cache::{
    Action, ClaimId, Event, Failure, FlightId, Key, Lane, LastUse, Limits, Refusal, WaiterId,
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
    /// Somebody said so while it was being evicted.
    unpinned: bool,
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
    /// Told by the boot scan meanwhile: true if this brings nothing.
    pub scanned: Option<(u64, u64, LastUse)>,
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
    /// Told while the boot scan was under way, which may have looked earlier.
    unpinned: BTreeSet<Name>,
    removed: BTreeSet<Name>,
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
            unpinned: BTreeSet::new(),
            removed: BTreeSet::new(),
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
            Event::EvictDone { key } | Event::EvictFailed { key } | Event::EvictRefused { key } => {
                !self.is_evicting(*key)
            }
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
            Event::Load { key, upstream, size, used, pinned } if !self.removed.contains(&key) => {
                let pinned = pinned && !self.unpinned.contains(&key);
                let used = LastUse::Before(used);
                let known = pinned || self.copies.contains_key(&key);
                match self.flights.values_mut().find(|flight| flight.key == key && !known) {
                    Some(flight) => flight.scanned = Some((upstream, size, used)),
                    None => self.arrive(key, upstream, size, used, pinned),
                }
            }
            Event::Added { key, upstream, size, pinned } => {
                self.arrive(key, upstream, size, LastUse::Now(now), pinned);
            }
            Event::Loaded => {
                self.loaded = true;
                self.unpinned.clear();
                self.removed.clear();
            }
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
                    if let Some((upstream, size, used)) = flight.scanned {
                        self.arrive(flight.key, upstream, size, used, false);
                    }
                }
            }
            Event::Claim { claim, key } => drop(self.claims.insert(claim, (key, false))),
            Event::Unclaim { claim } => drop(self.claims.remove(&claim)),
            Event::Unpin { key } => {
                if !self.loaded {
                    self.unpinned.insert(key);
                }
                if let Some(copy) = self.copies.get_mut(&key) {
                    copy.pinned = false;
                    copy.unpinned |= copy.evicting;
                }
            }
            Event::Touch { key } => self.touch(key, now),
            Event::EvictDone { key } if self.is_evicting(key) => {
                self.copies.remove(&key);
                if !self.loaded {
                    self.removed.insert(key);
                }
                self.evicted(key);
            }
            Event::EvictFailed { key } if self.is_evicting(key) => {
                self.copies.get_mut(&key).expect("evicting").evicting = false;
                self.touch(key, now);
                self.evicted(key);
            }
            Event::EvictRefused { key } if self.is_evicting(key) => {
                let copy = self.copies.get_mut(&key).expect("evicting");
                copy.evicting = false;
                copy.pinned |= !copy.unpinned;
                self.evicted(key);
            }
            Event::Lost { key } => {
                let pinned = self.copies.get(&key).is_some_and(|copy| copy.pinned);
                step.expected = pinned.then_some(Action::PinnedLost { key });
            }
            Event::Load { .. }
            | Event::Collect { .. }
            | Event::EvictDone { .. }
            | Event::EvictFailed { .. }
            | Event::EvictRefused { .. }
            | Event::Tick => {}
        }
    }

    fn arrive(&mut self, key: Name, upstream: u64, size: u64, used: LastUse, pinned: bool) {
        let copy = Copy { size, upstream, pinned, used, evicting: false, unpinned: false };
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
            Failure::NotFound | Failure::Forbidden => crate::names::NEGATIVE_MS,
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
}

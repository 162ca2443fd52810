//! Owns what is going on with one key: its stage, who waits for it, who claims it.
//! Must not know: bytes, lanes, other keys.

use std::collections::{BTreeMap, BTreeSet};

use super::super::ledger::LastUse;
use super::super::{ClaimId, FlightId, Source, WaiterId};
use crate::clock::Millis;

/// Somebody who joined and has no answer yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Waiter<K, S> {
    pub key: K,
    pub source: S,
    pub negative_ms: u64,
    pub deadline: Option<Millis>,
    /// Its flight has died once already.
    pub retried: bool,
}

/// Through whom a key is fetched, and how long a 404 of theirs counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Lead<S> {
    pub source: S,
    pub negative_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Flight<S> {
    pub id: FlightId,
    pub lead: Lead<S>,
    /// The place in the queue it had; if another source must go on, it does so from there.
    pub ticket: u64,
    pub head: Head,
    pub cancelled: bool,
    /// What the boot scan saw of this key while it was fetched.
    pub scanned: Option<Scanned>,
}

/// A copy as the boot scan saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Scanned {
    pub upstream: u64,
    pub size: u64,
    pub used: LastUse,
}

/// How far a content flight is. A pointer flight stays at `Unknown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Head {
    Unknown,
    /// Room is being made for it: so many evictions have not reported yet.
    Waiting {
        evictions: usize,
    },
    /// It writes; whoever joins now reads along.
    Admitted,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stage<S> {
    /// Nothing but claims.
    Idle,
    Queued {
        lead: Lead<S>,
        ticket: u64,
        /// Keeps its place though nobody waits: they were sent away late, and will ask again.
        kept: bool,
    },
    Filling(Flight<S>),
    /// All claims here wait.
    Evicting {
        room_for: Option<FlightId>,
        /// It lost its pin since the sweep was sent, which may have looked before.
        unpinned: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Slot<S> {
    pub stage: Stage<S>,
    /// By source, because a source may fail alone. No group is empty.
    pub waiting: BTreeMap<S, BTreeSet<WaiterId>>,
    pub claims: BTreeSet<ClaimId>,
}

impl<S: Source> Slot<S> {
    pub(super) fn new() -> Self {
        Self { stage: Stage::Idle, waiting: BTreeMap::new(), claims: BTreeSet::new() }
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle) && self.waiting.is_empty() && self.claims.is_empty()
    }

    pub(super) fn wait(&mut self, source: &S, waiter: WaiterId) {
        self.waiting.entry(source.clone()).or_default().insert(waiter);
    }

    pub(super) fn stop_waiting(&mut self, source: &S, waiter: WaiterId) {
        let Some(group) = self.waiting.get_mut(source) else { return };
        group.remove(&waiter);
        if group.is_empty() {
            self.waiting.remove(source);
        }
    }

    /// Who has waited longest, whatever the source.
    pub(super) fn first_waiting(&self) -> Option<WaiterId> {
        self.waiting.values().filter_map(|group| group.first().copied()).min()
    }

    pub(super) fn flight(&self) -> Option<&Flight<S>> {
        match &self.stage {
            Stage::Filling(flight) => Some(flight),
            Stage::Idle | Stage::Queued { .. } | Stage::Evicting { .. } => None,
        }
    }

    pub(super) fn flight_mut(&mut self) -> Option<&mut Flight<S>> {
        match &mut self.stage {
            Stage::Filling(flight) => Some(flight),
            Stage::Idle | Stage::Queued { .. } | Stage::Evicting { .. } => None,
        }
    }
}

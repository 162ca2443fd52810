//! Owns the account of bytes: what lies on the disk, what is being removed, what is promised to fills, and in which
//! order cached content goes. Every operation costs O(log n), plus the number of upstreams where it looks at all.
//! Must not know: flights, waiters, claims. A key is free, held, or going.

use std::collections::{BTreeMap, BTreeSet};

use super::planted::{Bug, Planted};
use super::{FlightId, Key};
use crate::clock::Millis;

/// When a key was used last. What this run has seen is always younger than what the boot scan told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LastUse {
    /// As recorded by an earlier run; only the order means anything.
    Before(u64),
    Now(Millis),
}

/// Whether a key may be chosen for eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Hold {
    Free,
    /// Somebody claims or fills it.
    Held,
    /// Chosen: its file is being removed.
    Evicting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Entry {
    pub size: u64,
    pub upstream: u64,
    pub used: LastUse,
    /// Pushed content: not counted against any limit, never chosen.
    pub pinned: bool,
    pub hold: Hold,
}

impl Entry {
    fn is_candidate(&self) -> bool {
        !self.pinned && self.hold == Hold::Free
    }
}

/// Sums over entries. Each entry is in exactly one of the three.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Totals {
    pub present: u64,
    pub evicting: u64,
    pub pinned: u64,
    pub keys: usize,
    pub evicting_keys: usize,
}

impl Totals {
    fn field(&mut self, entry: &Entry) -> &mut u64 {
        match (entry.pinned, entry.hold) {
            (true, _) => &mut self.pinned,
            (false, Hold::Evicting) => &mut self.evicting,
            (false, Hold::Free | Hold::Held) => &mut self.present,
        }
    }

    fn add(&mut self, entry: &Entry) {
        *self.field(entry) += entry.size;
        self.keys += 1;
        self.evicting_keys += usize::from(entry.hold == Hold::Evicting);
    }

    fn subtract(&mut self, entry: &Entry) {
        *self.field(entry) -= entry.size;
        self.keys -= 1;
        self.evicting_keys -= usize::from(entry.hold == Hold::Evicting);
    }
}

/// What one upstream has filled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Account<K> {
    totals: Totals,
    share: Option<u64>,
    /// The candidates, oldest first. Holds nothing that must not be evicted.
    order: BTreeSet<(LastUse, K)>,
}

impl<K> Default for Account<K> {
    fn default() -> Self {
        Self { totals: Totals::default(), share: None, order: BTreeSet::new() }
    }
}

/// Room promised to a fill whose head gave a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Reservation {
    upstream: u64,
    size: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ledger<K> {
    entries: BTreeMap<K, Entry>,
    accounts: BTreeMap<u64, Account<K>>,
    totals: Totals,
    /// As many as there are fills, so sums are taken when asked: a size claimed by an upstream may be any number.
    reservations: BTreeMap<FlightId, Reservation>,
    limit: u64,
    planted: Planted,
}

impl<K: Key> Ledger<K> {
    pub(super) fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            accounts: BTreeMap::new(),
            totals: Totals::default(),
            reservations: BTreeMap::new(),
            limit: u64::MAX,
            planted: Planted::default(),
        }
    }

    #[cfg(feature = "planted-bugs")]
    pub(super) fn plant(&mut self, planted: Planted) {
        self.planted = planted;
    }

    pub(super) fn get(&self, key: &K) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Lies on the disk and is not about to go.
    pub(super) fn is_present(&self, key: &K) -> bool {
        self.get(key).is_some_and(|entry| entry.hold != Hold::Evicting)
    }

    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    pub(super) fn reserved(&self) -> u64 {
        self.reserved_up_to(None, u64::MAX)
    }

    pub(super) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    pub(super) fn set_share(&mut self, upstream: u64, limit: Option<u64>) {
        self.accounts.entry(upstream).or_default().share = limit;
        self.drop_empty_account(upstream);
    }

    pub(super) fn reserve(&mut self, flight: FlightId, upstream: u64, size: u64) {
        self.reservations.insert(flight, Reservation { upstream, size });
    }

    pub(super) fn release(&mut self, flight: FlightId) {
        self.reservations.remove(&flight);
    }

    /// The key must be absent.
    pub(super) fn insert(&mut self, key: K, entry: Entry) {
        self.attach(&key, &entry);
        self.entries.insert(key, entry);
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.detach(key, &entry);
        self.drop_empty_account(entry.upstream);
        Some(entry)
    }

    /// The one way to change an entry, so that sums and order always follow. Nothing happens to an absent key.
    pub(super) fn change(&mut self, key: &K, change: impl FnOnce(&mut Entry)) {
        let Some(former) = self.entries.get(key).copied() else { return };
        let mut entry = former;
        change(&mut entry);
        if entry == former {
            return;
        }
        self.detach(key, &former);
        self.attach(key, &entry);
        self.entries.insert(key.clone(), entry);
    }

    pub(super) fn touch(&mut self, key: &K, now: Millis) {
        self.change(key, |entry| entry.used = LastUse::Now(now));
    }

    /// Free, but by itself larger than a limit it is under: it goes before anything else does.
    pub(super) fn is_oversized(&self, key: &K) -> bool {
        let entry = self.get(key).filter(|entry| entry.is_candidate());
        entry.is_some_and(|entry| self.exceeds_a_limit(entry.upstream, entry.size))
    }

    /// Whether what this flight brings will be that, as far as its size is known.
    pub(super) fn is_promise_oversized(&self, flight: FlightId) -> bool {
        let reservation = self.reservations.get(&flight);
        reservation.is_some_and(|promised| self.exceeds_a_limit(promised.upstream, promised.size))
    }

    /// Chooses who must go so that every limit is kept again, and marks them as going.
    /// What lies here and is promised may reach a limit; past it, the oldest go until the low mark.
    pub(super) fn choose_victims(&mut self, low_mark_percent: u64) -> Vec<K> {
        let mut victims = Vec::new();
        let shares = self.accounts.iter().filter_map(|(upstream, account)| Some((*upstream, account.share?)));
        for (upstream, share) in shares.collect::<Vec<_>>() {
            if !self.planted.is(Bug::ShareIgnored) {
                self.shrink(Some(upstream), share, low_mark_percent, &mut victims);
            }
        }
        self.shrink(None, self.limit, low_mark_percent, &mut victims);
        victims
    }

    /// Candidates, the next to be evicted first.
    pub(super) fn eviction_order(&self) -> impl Iterator<Item = (&K, LastUse)> {
        let mut orders: Vec<_> =
            self.accounts.values().map(|account| account.order.iter().peekable()).collect();
        std::iter::from_fn(move || {
            let heads = orders.iter_mut().filter_map(|order| Some((*order.peek()?, order)));
            let ((used, key), order) = heads.min_by_key(|(head, _)| *head)?;
            order.next();
            Some((key, *used))
        })
    }

    /// Candidates used in this run at or after `since`, in no particular order.
    pub(super) fn used_since(&self, since: Millis) -> impl Iterator<Item = (&K, Millis)> {
        let orders = self.accounts.values().map(|account| account.order.iter().rev());
        orders.flat_map(move |order| {
            order.map_while(move |(used, key)| match used {
                LastUse::Now(at) if *at >= since => Some((key, *at)),
                LastUse::Now(_) | LastUse::Before(_) => None,
            })
        })
    }

    /// Whether sums and order are what the entries say.
    pub(super) fn adds_up(&self) -> bool {
        let mut fresh = Self::new();
        for (key, entry) in &self.entries {
            fresh.attach(key, entry);
        }
        for (upstream, account) in &self.accounts {
            if account.share.is_some() {
                fresh.set_share(*upstream, account.share);
            }
        }
        fresh.totals == self.totals && fresh.accounts == self.accounts
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&K, &Entry)> {
        self.entries.iter()
    }

    pub(super) fn reservations(&self) -> impl Iterator<Item = FlightId> {
        self.reservations.keys().copied()
    }

    /// By itself.
    fn exceeds_a_limit(&self, upstream: u64, size: u64) -> bool {
        let share = self.accounts.get(&upstream).and_then(|account| account.share);
        size > self.limit.min(share.unwrap_or(u64::MAX))
    }

    fn shrink(&mut self, scope: Option<u64>, limit: u64, low_mark_percent: u64, victims: &mut Vec<K>) {
        let reserved = self.reserved_up_to(scope, limit);
        if self.present(scope).saturating_add(reserved) <= limit {
            return;
        }
        let low_mark = low_mark(limit, low_mark_percent);
        while self.present(scope).saturating_add(reserved) > low_mark {
            let Some(victim) = self.oldest(scope) else { return };
            self.change(&victim, |entry| entry.hold = Hold::Evicting);
            victims.push(victim);
        }
    }

    /// What stays when everything that is going has gone.
    fn present(&self, scope: Option<u64>) -> u64 {
        let totals = match scope {
            None => self.totals,
            Some(upstream) => self.accounts.get(&upstream).map(|account| account.totals).unwrap_or_default(),
        };
        if self.planted.is(Bug::EvictingCountedTwice) {
            return totals.present.saturating_sub(totals.evicting);
        }
        totals.present
    }

    /// A promise larger than the whole limit is left out: that content goes as soon as it is here, and emptying the
    /// cache before it would make no room either.
    fn reserved_up_to(&self, scope: Option<u64>, limit: u64) -> u64 {
        let ours = self.reservations.values().filter(|reservation| {
            reservation.size <= limit && scope.is_none_or(|upstream| upstream == reservation.upstream)
        });
        ours.fold(0, |sum, reservation| sum.saturating_add(reservation.size))
    }

    fn oldest(&self, scope: Option<u64>) -> Option<K> {
        let oldest = match scope {
            Some(upstream) => self.accounts.get(&upstream)?.order.first(),
            None => self.accounts.values().filter_map(|account| account.order.first()).min(),
        };
        oldest.map(|(_, key)| key.clone())
    }

    fn attach(&mut self, key: &K, entry: &Entry) {
        self.totals.add(entry);
        let account = self.accounts.entry(entry.upstream).or_default();
        account.totals.add(entry);
        if entry.is_candidate() {
            account.order.insert((entry.used, key.clone()));
        }
    }

    fn detach(&mut self, key: &K, entry: &Entry) {
        self.totals.subtract(entry);
        let account = self.accounts.entry(entry.upstream).or_default();
        account.totals.subtract(entry);
        if entry.is_candidate() {
            account.order.remove(&(entry.used, key.clone()));
        }
    }

    fn drop_empty_account(&mut self, upstream: u64) {
        if self.accounts.get(&upstream).is_some_and(|account| *account == Account::default()) {
            self.accounts.remove(&upstream);
        }
    }
}

fn low_mark(limit: u64, percent: u64) -> u64 {
    let mark = u128::from(limit) * u128::from(percent.min(100)) / 100;
    u64::try_from(mark).unwrap_or(limit)
}

//! Owns the shell around the cache's state machine: it turns messages into events and actions into
//! messages. It awaits its two inboxes and one timer, and decides nothing about the cache.
//! Must not know: HTTP, how a fill works, what a document says.

mod words;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::words::Request;
pub(super) use self::words::{Join, Joined, Report};
use super::fill;
use super::flight::{FlightKey, FlightTail, Outcome, Source, Story};
use super::guards::{Claim, FillGuard, FillLine, JoinGuard};
use super::pointer;
use super::shared::Shared;
use super::sweep::{Eviction, Why};
use super::sweeps::{SweepGuard, Sweeps};
use crate::cache::{Action, ClaimId, Coordinator, Counts, Event, Failure, FlightId, Limits, WaiterId};
use crate::clock::Millis;
use crate::names::{Digest, RepositoryId};
use crate::planted::Bug;
use crate::telemetry::{CacheGauges, Downloads, Held};

/// Requests beyond this many are answered with "try again": the actor takes about a microsecond each.
const REQUESTS: usize = 4_096;
/// Every guard holds its place from the start, so this bounds waiters, fills and sweeps together.
const REPORTS: usize = 65_536;
/// Places that waiters leave to those who serve them: a fill that could not say that its head came would keep them
/// waiting for ever.
const KEPT: usize = 1_024;
/// How often the predicates that the simulation holds the coordinator to are looked at here: in a build for tests after
/// every message.
const CHECK_EVERY: Duration = if cfg!(debug_assertions) { Duration::ZERO } else { Duration::from_secs(10) };
/// With so few keys here all predicates are looked at; with more only those that do not walk through every key.
const FEW: usize = 1_000;

/// The way to the actor. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Coordination {
    requests: mpsc::Sender<Request>,
    reports: mpsc::Sender<Report>,
    waiters: Arc<AtomicU64>,
    claims: Arc<AtomicU64>,
}

/// The actor is full; the caller should try again soon.
#[derive(Debug)]
pub(super) struct Full;

impl Coordination {
    /// Starts the actor and answers the way to it.
    pub fn start(shared: &Arc<Shared>) -> Self {
        let (requests, request_inbox) = mpsc::channel(REQUESTS);
        let (reports, report_inbox) = mpsc::channel(REPORTS);
        let shell = Shell {
            coordinator: coordinator(),
            waiters: HashMap::new(),
            claims: HashMap::new(),
            flights: HashMap::new(),
            sweeps: Sweeps::default(),
            downloads: HashMap::new(),
            check_at: shared.clock.now(),
            shared: Arc::clone(shared),
            reports: reports.clone(),
        };
        shared.tasks.spawn_last(shell.run(request_inbox, report_inbox));
        Self { requests, reports, waiters: Arc::new(AtomicU64::new(1)), claims: Arc::new(AtomicU64::new(1)) }
    }

    /// Waits for a key. Dropping the future leaves the wait; the flight goes on.
    pub async fn join(&self, join: Join) -> Result<Joined, Full> {
        if self.reports.capacity() < KEPT {
            return Err(Full);
        }
        let permit = self.reports.clone().try_reserve_owned().map_err(|_| Full)?;
        let waiter = WaiterId(self.waiters.fetch_add(1, Ordering::Relaxed));
        let (reply, answer) = oneshot::channel();
        self.requests.try_send(Request::Join { waiter, join, reply }).map_err(|_| Full)?;
        let guard = JoinGuard::new(waiter, permit);
        let joined = answer.await;
        guard.answered();
        joined.map_err(|_| Full)
    }

    /// Waits until a digest is not being removed, and keeps it from being chosen until the claim is dropped.
    pub async fn claim(&self, digest: Digest) -> Result<Claim, Full> {
        // Who claims has something to lose, such as an upload that came whole: it waits for a place.
        let permit = self.reports.clone().reserve_owned().await.map_err(|_| Full)?;
        let id = ClaimId(self.claims.fetch_add(1, Ordering::Relaxed));
        let claim = Claim::new(id, permit);
        let (granted, grant) = oneshot::channel();
        self.reports.send(Report::Claim { claim: id, digest, granted }).await.map_err(|_| Full)?;
        grant.await.map_err(|_| Full)?;
        Ok(claim)
    }

    /// Tells the state machine something that may be lost without harm.
    pub fn hint(&self, event: Event<FlightKey, Source>) {
        // A full inbox means plenty of fresher news; a lost touch only ages one blob.
        let _ = self.requests.try_send(Request::Event(event));
    }

    /// Tells the state machine something that must arrive.
    pub async fn tell(&self, event: Event<FlightKey, Source>) {
        // Fails only when the actor has stopped, and then nothing is decided any more.
        let _ = self.reports.send(Report::Event(event)).await;
    }

    /// Whether anybody decides any more.
    pub fn is_running(&self) -> bool {
        !self.requests.is_closed()
    }

    pub async fn counts(&self) -> Counts {
        let (reply, answer) = oneshot::channel();
        if self.requests.send(Request::Counts(reply)).await.is_err() {
            return Counts::default();
        }
        answer.await.unwrap_or_default()
    }
}

#[cfg(not(feature = "planted-bugs"))]
fn coordinator() -> Coordinator<FlightKey, Source> {
    Coordinator::new(Limits::default())
}

/// With the bug that the environment names, so that tests of the whole server can show that they would notice.
#[cfg(feature = "planted-bugs")]
fn coordinator() -> Coordinator<FlightKey, Source> {
    let Ok(name) = std::env::var("BINARYREPO_PLANTED_BUG") else {
        return Coordinator::new(Limits::default());
    };
    if Bug::ALL.iter().any(|bug| format!("{bug:?}") == name) {
        return Coordinator::new(Limits::default());
    }
    let bug = crate::cache::Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == name);
    Coordinator::with_bug(Limits::default(), bug.expect("BINARYREPO_PLANTED_BUG names a planted bug"))
}

struct Waiter {
    source: Source,
    proven: bool,
    reply: oneshot::Sender<Joined>,
    _counted: Held,
}

struct Flight {
    source: Source,
    tail: Option<FlightTail>,
    admit: Option<oneshot::Sender<()>>,
    unneeded: CancellationToken,
    outcome: Option<Outcome>,
    /// The first waiter was served; those who follow joined.
    taken: bool,
    _counted: Held,
}

struct Shell {
    coordinator: Coordinator<FlightKey, Source>,
    waiters: HashMap<WaiterId, Waiter>,
    /// Those that wait to be granted.
    claims: HashMap<ClaimId, oneshot::Sender<()>>,
    flights: HashMap<FlightId, Flight>,
    sweeps: Sweeps,
    downloads: HashMap<RepositoryId, Downloads>,
    check_at: Millis,
    shared: Arc<Shared>,
    reports: mpsc::Sender<Report>,
}

impl Shell {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>, mut reports: mpsc::Receiver<Report>) {
        let clock = self.shared.clock.clone();
        let stop = self.shared.tasks.halted();
        tokio::pin!(stop);
        loop {
            let wakeup = self.coordinator.next_wakeup();
            let timer = clock.sleep_until(wakeup.unwrap_or(Millis(u64::MAX >> 1)));
            // Reports first: they free lanes and room, and their number is bounded by their guards.
            tokio::select! {
                biased;
                Some(report) = reports.recv() => self.report(report),
                Some(request) = requests.recv() => self.request(request),
                () = timer, if wakeup.is_some() => self.step(Event::Tick),
                () = &mut stop => break,
            }
            self.start_sweeps();
            self.show();
            if clock.now() >= self.check_at {
                self.check_at = clock.now().after(CHECK_EVERY);
                self.check();
            }
        }
    }

    /// A broken promise is a bug of ours. The server goes on: it has nothing better left to do.
    fn check(&self) {
        let few = self.coordinator.counts().present < FEW;
        let checked = if few { self.coordinator.check() } else { self.coordinator.check_under_way() };
        if let Err(violation) = checked {
            self.shared.metrics.invariant_violation();
            tracing::error!(%violation, "the state of the cache is not what it must be; please report this");
        }
    }

    fn show(&self) {
        let counts = self.coordinator.counts();
        self.shared.metrics.set_counts(CacheGauges {
            cache_bytes: counts.bytes(),
            cache_limit_bytes: counts.limit_bytes,
            pushed_bytes: counts.pinned_bytes,
        });
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Join { waiter, join, reply } => self.join(waiter, join, reply),
            Request::Event(event) => self.step(event),
            Request::Counts(reply) => {
                // The asker may have gone; then nobody needs the answer.
                let _ = reply.send(self.coordinator.counts());
            }
        }
    }

    fn join(&mut self, waiter: WaiterId, join: Join, reply: oneshot::Sender<Joined>) {
        // Its Leave came first, by the faster inbox.
        if reply.is_closed() {
            return;
        }
        let Join { key, source, proven, negative, deadline } = join;
        let counted = self.downloads(&source).waiter();
        self.waiters.insert(waiter, Waiter { source: source.clone(), proven, reply, _counted: counted });
        let deadline = deadline.map(|span| self.shared.clock.now().after(span));
        let negative_ms = u64::try_from(negative.as_millis()).unwrap_or(u64::MAX);
        self.step(Event::Join { waiter, key, source, negative_ms, deadline });
    }

    /// Where a repository's downloads are counted: under its name, as long as it has one. Looked for once, not for every
    /// request.
    fn downloads(&mut self, source: &Source) -> &Downloads {
        let repository = self.shared.repositories.by_id(source.repository);
        let counted =
            repository.as_ref().map_or((RepositoryId::NONE, "-"), |one| (one.id, one.name.as_str()));
        let (id, name) = counted;
        self.downloads.entry(id).or_insert_with(|| self.shared.metrics.downloads(name))
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::Leave(waiter) => {
                self.waiters.remove(&waiter);
                self.step(Event::Leave { waiter });
            }
            Report::Claim { claim, digest, granted } => {
                self.claims.insert(claim, granted);
                self.step(Event::Claim { claim, key: FlightKey::Content(digest) });
            }
            Report::Unclaim(claim) => {
                self.claims.remove(&claim);
                self.step(Event::Unclaim { claim });
            }
            Report::Head { flight, size, tail, admit } => {
                if let Some(known) = self.flights.get_mut(&flight) {
                    known.tail = Some(tail);
                    known.admit = Some(admit);
                }
                self.step(Event::FillHead { flight, size });
            }
            Report::Restart { flight, tail } => {
                if let Some(known) = self.flights.get_mut(&flight) {
                    known.tail = Some(tail);
                }
            }
            Report::EndUnlessRead { flight, reply } => {
                let is_read = |known: &Flight| known.tail.as_ref().is_none_or(FlightTail::is_read);
                let ends = !self.flights.get(&flight).is_none_or(is_read);
                if ends {
                    self.step(Event::FillFailed { flight, failure: Failure::Died });
                    self.flights.remove(&flight);
                }
                // A fill that has died meanwhile needs no answer.
                let _ = reply.send(ends);
            }
            Report::Done { flight, size, outcome } => {
                if let Some(known) = self.flights.get_mut(&flight) {
                    known.outcome = outcome;
                }
                self.step(Event::FillDone { flight, size });
                self.flights.remove(&flight);
            }
            Report::Failed { flight, failure, story } => {
                self.step_with(Event::FillFailed { flight, failure }, story.as_ref());
                self.flights.remove(&flight);
            }
            Report::Swept { digest, eviction } => {
                self.sweeps.ended();
                let key = FlightKey::Content(digest);
                self.step(match eviction {
                    Eviction::Done => Event::EvictDone { key },
                    Eviction::Pushed => Event::EvictRefused { key },
                    Eviction::Stays => Event::EvictFailed { key },
                });
            }
            Report::Event(event) => self.step(event),
        }
    }

    fn step(&mut self, event: Event<FlightKey, Source>) {
        self.step_with(event, None);
    }

    fn step_with(&mut self, event: Event<FlightKey, Source>, story: Option<&Story>) {
        let mut actions = Vec::new();
        let lost = matches!(event, Event::Lost { .. });
        self.coordinator.step(self.shared.clock.now(), event, &mut actions);
        for action in actions {
            match action {
                Action::Evict { key: FlightKey::Content(digest) } if lost => {
                    self.sweeps.add(digest, Why::Lost)
                }
                action => self.act(action, story),
            }
        }
    }

    fn act(&mut self, action: Action<FlightKey, Source>, story: Option<&Story>) {
        match action {
            Action::StartFill { flight, key, source } => self.start(flight, key, source),
            Action::CancelFill { flight } => {
                if let Some(known) = self.flights.get(&flight) {
                    known.unneeded.cancel();
                }
            }
            Action::Admit { flight } => {
                if let Some(admit) = self.flights.get_mut(&flight).and_then(|known| known.admit.take()) {
                    // The fill may have died meanwhile; its guard says so.
                    let _ = admit.send(());
                }
            }
            Action::Attach { waiter, flight } => self.attach(waiter, flight),
            Action::Ready { waiter, flight } => self.ready(waiter, flight),
            Action::Claimed { claim } => {
                if let Some(granted) = self.claims.remove(&claim) {
                    // Gone already: its end is under way.
                    let _ = granted.send(());
                }
            }
            Action::Refuse { waiter, why } => {
                if let Some(waiter) = self.waiters.remove(&waiter) {
                    // Gone already: its Leave is under way.
                    let _ = waiter.reply.send(Joined::Refused { why, story: story.cloned() });
                }
            }
            Action::Evict { key: FlightKey::Content(digest) } => self.sweeps.add(digest, Why::Chosen),
            Action::Evict { key: FlightKey::Pointer(_) } => {}
            Action::PinnedLost { key } => {
                tracing::error!(?key, "a pushed blob's file is missing: it must be pushed again");
            }
        }
    }

    /// The one place where a right is looked at: bytes that another source brought are handed only to who
    /// has shown that their own source has them too.
    fn attach(&mut self, waiter: WaiterId, flight: FlightId) {
        let (Some(waiter), Some(known)) = (self.waiters.remove(&waiter), self.flights.get_mut(&flight))
        else {
            return;
        };
        let joined = match &known.tail {
            Some(tail)
                if waiter.proven || waiter.source == known.source || Bug::ProofNotAsked.is_planted() =>
            {
                let first = !std::mem::replace(&mut known.taken, true);
                let too_large = self.coordinator.is_too_large(flight);
                Joined::Tail { tail: tail.clone(), first, too_large, whole: tail.is_whole() }
            }
            _ => Joined::NeedProof,
        };
        // Gone already: its Leave is under way.
        let _ = waiter.reply.send(joined);
    }

    fn ready(&mut self, waiter: WaiterId, flight: Option<FlightId>) {
        let Some(waiter) = self.waiters.remove(&waiter) else { return };
        let joined = match flight.and_then(|flight| self.flights.get_mut(&flight)) {
            Some(Flight { outcome: Some(outcome), taken, .. }) => {
                let first = !std::mem::replace(taken, true);
                Joined::Document { outcome: outcome.clone(), first }
            }
            Some(known) if known.source == waiter.source => Joined::Present,
            _ if waiter.proven => Joined::Present,
            _ => Joined::NeedProof,
        };
        // Gone already: its Leave is under way.
        let _ = waiter.reply.send(joined);
    }

    fn start(&mut self, flight: FlightId, key: FlightKey, source: Source) {
        let unneeded = CancellationToken::new();
        let known = Flight {
            source: source.clone(),
            tail: None,
            admit: None,
            unneeded: unneeded.clone(),
            outcome: None,
            taken: false,
            _counted: self.downloads(&source).fill(),
        };
        self.flights.insert(flight, known);
        let Ok(permit) = self.reports.clone().try_reserve_owned() else {
            // So full that an end could not be reported: end it before it starts.
            self.step(Event::FillFailed { flight, failure: Failure::Died });
            self.flights.remove(&flight);
            return;
        };
        let guard = FillGuard::new(flight, permit);
        let shared = Arc::clone(&self.shared);
        match key {
            FlightKey::Content(digest) => {
                let line = FillLine::new(flight, self.reports.clone(), unneeded);
                self.shared.tasks.spawn(fill::run(shared, line, guard, digest, source));
            }
            FlightKey::Pointer(pointer) => {
                self.shared.tasks.spawn(pointer::run(shared, guard, pointer));
            }
        }
    }

    fn start_sweeps(&mut self) {
        while let Some((digest, why)) = self.sweeps.next() {
            let Ok(permit) = self.reports.clone().try_reserve_owned() else {
                // So full that its end could not be reported: after the next report, then.
                self.sweeps.put_back(digest, why);
                return;
            };
            let guard = SweepGuard::new(digest, permit);
            self.shared.tasks.spawn(guard.run(Arc::clone(&self.shared), why));
        }
    }
}

#[cfg(test)]
mod tests;

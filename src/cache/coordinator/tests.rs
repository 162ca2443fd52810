//! The machine told in short stories. What no story thinks of is the simulation's business.

use super::super::{Failure, Refusal};
use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Name {
    Blob(u8),
    Tag(u8),
}

impl Key for Name {
    fn lane(&self) -> Lane {
        match self {
            Self::Blob(_) => Lane::Content,
            Self::Tag(_) => Lane::Pointer,
        }
    }
}

impl Source for u64 {
    fn upstream(&self) -> u64 {
        *self / 10
    }
}

type Said = Action<Name, u64>;

/// The coordinator with a clock and short words.
struct Desk {
    now: u64,
    machine: Coordinator<Name, u64>,
}

impl Desk {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let mut desk = Self { now: 0, machine: Coordinator::new(limits) };
        assert_eq!(desk.tell(Event::Loaded), []);
        desk
    }

    fn tell(&mut self, event: Event<Name, u64>) -> Vec<Said> {
        let mut said = Vec::new();
        self.machine.step(Millis(self.now), event, &mut said);
        assert_eq!(self.machine.check(), Ok(()));
        said
    }

    fn join(&mut self, waiter: u64, key: Name, source: u64) -> Vec<Said> {
        let waiter = WaiterId(waiter);
        self.tell(Event::Join { waiter, key, source, negative_ms: 10_000, deadline: None })
    }

    fn head(&mut self, flight: u64, size: u64) -> Vec<Said> {
        self.tell(Event::FillHead { flight: FlightId(flight), size: Some(size) })
    }

    fn done(&mut self, flight: u64, size: u64) -> Vec<Said> {
        self.tell(Event::FillDone { flight: FlightId(flight), size })
    }

    fn failed(&mut self, flight: u64, failure: Failure) -> Vec<Said> {
        self.tell(Event::FillFailed { flight: FlightId(flight), failure })
    }

    fn claim(&mut self, claim: u64, key: Name) -> Vec<Said> {
        self.tell(Event::Claim { claim: ClaimId(claim), key })
    }

    fn added(&mut self, key: Name, size: u64, pinned: bool) -> Vec<Said> {
        self.tell(Event::Added { key, upstream: 0, size, pinned })
    }

    /// Present, unpinned, and used at this moment.
    fn cached(&mut self, key: Name, size: u64) {
        self.now += 1;
        self.added(key, size, false);
        assert!(self.machine.is_present(&key));
    }
}

const B1: Name = Name::Blob(1);
const B2: Name = Name::Blob(2);
const B3: Name = Name::Blob(3);

fn start(flight: u64, key: Name, source: u64) -> Said {
    Action::StartFill { flight: FlightId(flight), key, source }
}

fn cancel(flight: u64) -> Said {
    Action::CancelFill { flight: FlightId(flight) }
}

fn admit(flight: u64) -> Said {
    Action::Admit { flight: FlightId(flight) }
}

fn attach(waiter: u64, flight: u64) -> Said {
    Action::Attach { waiter: WaiterId(waiter), flight: FlightId(flight) }
}

fn ready(waiter: u64) -> Said {
    Action::Ready { waiter: WaiterId(waiter), flight: None }
}

fn document(waiter: u64, flight: u64) -> Said {
    Action::Ready { waiter: WaiterId(waiter), flight: Some(FlightId(flight)) }
}

fn claimed(claim: u64) -> Said {
    Action::Claimed { claim: ClaimId(claim) }
}

fn refuse(waiter: u64, why: Refusal) -> Said {
    Action::Refuse { waiter: WaiterId(waiter), why }
}

fn evict(key: Name) -> Said {
    Action::Evict { key }
}

#[test]
fn many_clients_make_one_fill() {
    let mut desk = Desk::new();
    assert_eq!(desk.join(1, B1, 0), [start(1, B1, 0)]);
    assert_eq!(desk.join(2, B1, 0), []);
    assert_eq!(desk.head(1, 10), [admit(1), attach(1, 1), attach(2, 1)]);
    assert_eq!(desk.join(3, B1, 0), [attach(3, 1)]);
    assert_eq!(desk.done(1, 10), []);
    assert_eq!(desk.join(4, B1, 0), [ready(4)]);
    assert_eq!(desk.machine.counts().present_bytes, 10);
}

#[test]
fn a_fill_goes_on_when_all_have_left() {
    let mut desk = Desk::new();
    desk.join(1, B1, 0);
    assert_eq!(desk.tell(Event::Leave { waiter: WaiterId(1) }), []);
    assert_eq!(desk.head(1, 10), [admit(1)]);
    assert_eq!(desk.done(1, 10), []);
    assert!(desk.machine.is_present(&B1));
}

#[test]
fn a_queued_key_that_nobody_wants_any_more_is_not_fetched() {
    let mut desk = Desk::with(Limits { content_fills: 1, ..Limits::default() });
    desk.join(1, B1, 0);
    assert_eq!(desk.join(2, B2, 0), []);
    desk.tell(Event::Leave { waiter: WaiterId(2) });
    assert_eq!(desk.done(1, 10), [ready(1)]);
    assert_eq!(desk.machine.counts().queued, 0);
}

#[test]
fn a_queued_key_follows_those_who_still_wait() {
    let limits = Limits { content_fills_per_upstream: 1, ..Limits::default() };
    let mut desk = Desk::with(limits);
    desk.join(1, B1, 0);
    assert_eq!(desk.join(2, B2, 0), []);
    assert_eq!(desk.join(3, B2, 10), []);
    assert_eq!(desk.tell(Event::Leave { waiter: WaiterId(2) }), [start(2, B2, 10)]);
}

#[test]
fn a_busy_upstream_lets_others_pass() {
    let limits = Limits { content_fills: 2, content_fills_per_upstream: 1, ..Limits::default() };
    let mut desk = Desk::with(limits);
    desk.join(1, B1, 0);
    assert_eq!(desk.join(2, B2, 0), []);
    assert_eq!(desk.join(3, B3, 10), [start(2, B3, 10)]);
    assert_eq!(desk.done(1, 1), [ready(1), start(3, B2, 0)]);
}

#[test]
fn a_source_fails_alone() {
    let mut desk = Desk::new();
    desk.join(1, B1, 0);
    desk.join(2, B1, 10);
    let gone = Refusal::Failed(Failure::NotFound);
    assert_eq!(desk.failed(1, Failure::NotFound), [refuse(1, gone), start(2, B1, 10)]);
    assert_eq!(desk.head(2, 10), [admit(2), attach(2, 2)]);
    assert_eq!(desk.failed(1, Failure::Transport), [], "news of the past");
    assert_eq!(desk.head(1, 99), [], "news of the past");
    assert_eq!(desk.machine.counts().reserved_bytes, 10);
}

#[test]
fn failures_are_remembered_for_their_time() {
    let cases = [
        (Failure::Transport, 2_000),
        (Failure::NotFound, 10_000),
        (Failure::Forbidden, 10_000),
        (Failure::Mismatch, 60_000),
        (Failure::RateLimited { retry_after_ms: 7_000 }, 7_000),
        (Failure::RateLimited { retry_after_ms: u64::MAX }, 300_000),
    ];
    for (failure, span) in cases {
        let mut desk = Desk::new();
        desk.join(1, B1, 0);
        assert_eq!(desk.failed(1, failure), [refuse(1, Refusal::Failed(failure))]);
        desk.now = span - 1;
        let left = match failure {
            Failure::RateLimited { .. } => Failure::RateLimited { retry_after_ms: 1 },
            other => other,
        };
        assert_eq!(desk.join(2, B1, 0), [refuse(2, Refusal::Remembered(left))]);
        assert_eq!(desk.join(3, B1, 1), [start(2, B1, 1)], "another source may try");
        desk.now = span;
        assert_eq!(desk.join(4, B1, 0), [], "waits along");
    }
}

#[test]
fn a_dead_fill_is_tried_once_more() {
    let mut desk = Desk::new();
    desk.join(1, B1, 0);
    assert_eq!(desk.failed(1, Failure::Died), [start(2, B1, 0)]);
    desk.join(2, B1, 0);
    let died = Refusal::Failed(Failure::Died);
    assert_eq!(desk.failed(2, Failure::Died), [refuse(1, died), start(3, B1, 0)]);
    assert_eq!(desk.failed(3, Failure::Died), [refuse(2, died)]);
    assert_eq!(desk.join(3, B1, 0), [start(4, B1, 0)], "not remembered");
}

#[test]
fn without_room_everybody_goes_past_the_cache() {
    let mut desk = Desk::new();
    desk.join(1, B1, 0);
    desk.join(2, B1, 10);
    let past = |waiter| refuse(waiter, Refusal::Bypass);
    assert_eq!(desk.failed(1, Failure::NoSpace), [past(1), past(2)]);
    assert_eq!(desk.machine.counts().flights, 0);
}

#[test]
fn a_document_is_shared_and_not_kept() {
    let mut desk = Desk::new();
    let tag = Name::Tag(1);
    assert_eq!(desk.join(1, tag, 0), [start(1, tag, 0)]);
    assert_eq!(desk.join(2, tag, 0), []);
    assert_eq!(desk.done(1, 500), [document(1, 1), document(2, 1)]);
    assert_eq!(desk.machine.counts().present_bytes, 0);
    assert_eq!(desk.join(3, tag, 0), [start(2, tag, 0)]);
}

#[test]
fn who_is_late_is_sent_away_and_the_flight_goes_on() {
    let mut desk = Desk::new();
    let (waiter, key) = (WaiterId(1), Name::Tag(1));
    let deadline = Some(Millis(2_000));
    desk.tell(Event::Join { waiter, key, source: 0, negative_ms: 0, deadline });
    assert_eq!(desk.machine.next_wakeup(), deadline);
    desk.now = 2_000;
    assert_eq!(desk.tell(Event::Tick), [refuse(1, Refusal::Late)]);
    assert_eq!(desk.machine.next_wakeup(), None);
    assert_eq!(desk.join(2, key, 0), []);
    assert_eq!(desk.done(1, 1), [document(2, 1)]);
}

#[test]
fn room_is_made_before_a_fill_writes() {
    let mut desk = Desk::new();
    desk.tell(Event::Space { limit: 100 });
    desk.cached(B1, 60);
    desk.cached(B2, 30);
    desk.join(1, B1, 0);
    assert_eq!(desk.join(2, B3, 0), [start(1, B3, 0)]);
    desk.now += 1;
    desk.tell(Event::Touch { key: B1 });
    assert_eq!(desk.head(1, 20), [evict(B2)], "the least recently used one");
    assert_eq!(desk.join(3, B3, 0), [], "not admitted yet");
    assert_eq!(desk.tell(Event::EvictDone { key: B2 }), [admit(1), attach(2, 1), attach(3, 1)]);
    assert_eq!(desk.done(1, 20), []);
}

#[test]
fn what_exceeds_the_whole_limit_goes_alone() {
    let mut desk = Desk::new();
    desk.tell(Event::Space { limit: 100 });
    desk.cached(B1, 60);
    desk.join(1, B2, 0);
    assert_eq!(desk.head(1, u64::MAX), [admit(1), attach(1, 1)]);
    assert!(desk.machine.is_too_large(FlightId(1)));
    assert_eq!(desk.done(1, 1_000), [evict(B2)]);
    assert!(desk.machine.is_present(&B1));
    desk.tell(Event::Space { limit: 300 });
    desk.join(2, B3, 0);
    desk.head(2, 200);
    assert!(!desk.machine.is_too_large(FlightId(2)));
    desk.tell(Event::Share { upstream: 0, limit: Some(199) });
    assert!(desk.machine.is_too_large(FlightId(2)));
}

#[test]
fn an_upstream_keeps_to_its_share() {
    let mut desk = Desk::new();
    desk.tell(Event::Load { key: B1, upstream: 1, size: 50, used: 5, pinned: false });
    desk.tell(Event::Load { key: B2, upstream: 2, size: 50, used: 1, pinned: false });
    assert_eq!(desk.tell(Event::Share { upstream: 1, limit: Some(40) }), [evict(B1)]);
    assert_eq!(desk.tell(Event::Share { upstream: 2, limit: Some(50) }), []);
}

#[test]
fn a_push_waits_for_an_eviction_and_holds_against_the_next() {
    let mut desk = Desk::new();
    desk.cached(B1, 10);
    assert_eq!(desk.tell(Event::Collect { key: B1 }), [evict(B1)]);
    assert_eq!(desk.claim(1, B1), []);
    assert_eq!(desk.join(1, B1, 0), []);
    assert_eq!(desk.tell(Event::EvictDone { key: B1 }), [claimed(1), start(1, B1, 0)]);
    assert_eq!(desk.added(B1, 10, false), [ready(1), cancel(1)]);
    assert_eq!(desk.failed(1, Failure::Died), []);
    assert_eq!(desk.tell(Event::Collect { key: B1 }), [], "claimed");
    assert_eq!(desk.tell(Event::Space { limit: 0 }), [], "claimed");
    assert_eq!(desk.tell(Event::Unclaim { claim: ClaimId(1) }), [evict(B1)]);
}

#[test]
fn a_push_during_a_fill_outlives_it() {
    for end in [None, Some(Failure::Mismatch)] {
        let mut desk = Desk::new();
        desk.join(1, B1, 0);
        assert_eq!(desk.claim(1, B1), [claimed(1)]);
        desk.head(1, 10);
        assert_eq!(desk.added(B1, 10, true), []);
        assert_eq!(desk.join(2, B1, 0), [ready(2)]);
        let said = match end {
            None => desk.done(1, 10),
            Some(failure) => desk.failed(1, failure),
        };
        assert_eq!(said, []);
        desk.tell(Event::Unclaim { claim: ClaimId(1) });
        let counts = desk.machine.counts();
        assert_eq!((counts.pinned_bytes, counts.present_bytes, counts.reserved_bytes), (10, 0, 0));
    }
}

#[test]
fn pushed_content_goes_only_after_its_pin() {
    let mut desk = Desk::new();
    desk.added(B1, 10, true);
    assert_eq!(desk.tell(Event::Space { limit: 0 }), []);
    assert_eq!(desk.tell(Event::Collect { key: B1 }), []);
    assert_eq!(desk.tell(Event::Lost { key: B1 }), [Action::PinnedLost { key: B1 }]);
    assert_eq!(desk.tell(Event::Unpin { key: B1 }), [evict(B1)]);
}

#[test]
fn a_lost_file_is_removed_and_fetched_again() {
    let mut desk = Desk::new();
    desk.cached(B1, 10);
    assert_eq!(desk.tell(Event::Lost { key: B1 }), [evict(B1)]);
    assert_eq!(desk.join(1, B1, 0), []);
    assert_eq!(desk.tell(Event::EvictDone { key: B1 }), [start(1, B1, 0)]);
    assert_eq!(desk.tell(Event::Lost { key: B1 }), [], "stale news");
}

#[test]
fn what_cannot_be_removed_stays_and_is_tried_later() {
    let mut desk = Desk::new();
    desk.cached(B1, 10);
    assert_eq!(desk.tell(Event::Space { limit: 5 }), [evict(B1)]);
    desk.join(1, B1, 0);
    assert_eq!(desk.claim(1, B1), []);
    assert_eq!(desk.tell(Event::EvictFailed { key: B1 }), [claimed(1), ready(1)]);
    assert_eq!(desk.tell(Event::Unclaim { claim: ClaimId(1) }), [evict(B1)]);
    assert_eq!(desk.tell(Event::EvictFailed { key: B1 }), [], "not at once and for ever");
    desk.now = desk.machine.next_wakeup().expect("a try later").0;
    assert_eq!(desk.tell(Event::Tick), [evict(B1)]);
}

#[test]
fn nothing_is_evicted_before_all_is_loaded() {
    let mut desk = Desk { now: 0, machine: Coordinator::new(Limits::default()) };
    desk.tell(Event::Space { limit: 10 });
    desk.tell(Event::Load { key: B1, upstream: 0, size: 20, used: 9, pinned: false });
    desk.tell(Event::Load { key: B2, upstream: 1, size: 5, used: 3, pinned: false });
    assert_eq!(desk.tell(Event::Collect { key: B1 }), []);
    let order: Vec<_> = desk.machine.eviction_order().collect();
    assert_eq!(order, [(&B2, LastUse::Before(3)), (&B1, LastUse::Before(9))]);
    desk.now = 4;
    desk.tell(Event::Touch { key: B2 });
    assert_eq!(desk.machine.used_since(Millis(4)).collect::<Vec<_>>(), [(&B2, Millis(4))]);
    assert_eq!(desk.tell(Event::Loaded), [evict(B1)]);
}

/// A pushed file was lost over a restart and came back by a fetch, so that nobody had told us of its pin. Chosen for
/// eviction it was refused, and chosen again, for ever; and its bytes counted among those that can go.
#[test]
fn what_turns_out_to_be_pushed_is_not_chosen_again() {
    let mut desk = Desk::new();
    desk.cached(B1, 10);
    desk.cached(B2, 10);
    assert_eq!(desk.tell(Event::Space { limit: 15 }), [evict(B1)]);
    desk.join(1, B1, 0);
    assert_eq!(desk.claim(1, B1), []);
    assert_eq!(desk.tell(Event::EvictRefused { key: B1 }), [claimed(1), ready(1)]);
    assert_eq!(desk.tell(Event::Unclaim { claim: ClaimId(1) }), []);
    let counts = desk.machine.counts();
    assert_eq!((counts.pinned_bytes, counts.present_bytes), (10, 10));
    assert_eq!(desk.machine.next_wakeup(), None);
    assert_eq!(desk.tell(Event::Lost { key: B1 }), [Action::PinnedLost { key: B1 }]);
}

/// Somebody asked for it while it was to go, and then it stayed: it counted as old as before, and was the next to go.
#[test]
fn what_was_wanted_while_it_was_to_go_counts_as_used() {
    let mut desk = Desk::new();
    desk.cached(B1, 10);
    desk.cached(B2, 10);
    assert_eq!(desk.tell(Event::Collect { key: B1 }), [evict(B1)]);
    desk.now += 1;
    desk.join(1, B1, 0);
    desk.tell(Event::Unpin { key: B1 });
    assert_eq!(desk.tell(Event::EvictRefused { key: B1 }), [ready(1)]);
    assert_eq!(desk.tell(Event::Space { limit: 15 }), [evict(B2)]);
}

/// The sweep looked, then the last link went, then the sweep's word came: a pin of yesterday, which nobody would ever
/// have taken away.
#[test]
fn a_refusal_does_not_bring_a_pin_back() {
    let mut desk = Desk::new();
    desk.cached(B1, 10);
    assert_eq!(desk.tell(Event::Space { limit: 5 }), [evict(B1)]);
    assert_eq!(desk.tell(Event::Unpin { key: B1 }), []);
    assert_eq!(desk.tell(Event::EvictRefused { key: B1 }), [evict(B1)]);
    assert_eq!(desk.tell(Event::EvictDone { key: B1 }), []);
    assert_eq!(desk.machine.counts().present, 0);
}

/// The boot scan looks at a file long before it tells of it. What it said of a blob that was fetched and found lost in
/// between made an entry without file or row: "it is here" to everybody who asked, for ever.
#[test]
fn what_the_scan_saw_is_older_than_what_happened_since() {
    let mut desk = Desk { now: 0, machine: Coordinator::new(Limits::default()) };
    desk.join(1, B1, 0);
    assert_eq!(desk.done(1, 10), [ready(1)]);
    assert_eq!(desk.tell(Event::Lost { key: B1 }), [evict(B1)]);
    assert_eq!(desk.tell(Event::EvictDone { key: B1 }), []);
    assert_eq!(desk.tell(Event::Unpin { key: B2 }), []);
    for key in [B1, B2, B3] {
        assert_eq!(desk.tell(Event::Load { key, upstream: 0, size: 5, used: 0, pinned: true }), []);
    }
    assert_eq!([B1, B2, B3].map(|key| desk.machine.is_present(&key)), [false, true, true]);
    assert_eq!(desk.machine.counts().pinned_bytes, 5);
    assert_eq!(desk.tell(Event::Loaded), []);
    assert_eq!(desk.join(2, B1, 0), [start(2, B1, 0)]);
}

//! The production coordinator in a simulated world: random schedules, exhaustive searches of small worlds, and the
//! proof that the schedules find what is wrong. `SIM_SEED=<n>` replays one schedule, `SIM_SCHEDULES=<n>` sets how many
//! are run, `SIM_BASE=<n>` with which seed they begin.

mod choice;
mod model;
mod names;
mod prng;
mod search;
mod swarm;
mod world;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use binaryrepo::cache::{Bug, Failure, Limits};

use crate::choice::{KINDS, Kind};
use crate::swarm::Finding;
use crate::world::Rules;

const SCHEDULES: u64 = 100_000;
/// Within so many schedules each planted bug must show.
const SCHEDULES_PER_BUG: u64 = SCHEDULES;
/// Whoever waits for millions is told this often how far they are.
const TELL_EVERY: u64 = 1_000_000;

#[test]
#[expect(clippy::disallowed_methods, reason = "how long it took is told, and nothing depends on it")]
fn random_schedules_find_nothing() {
    if let Some(seed) = number("SIM_SEED") {
        if let Err(finding) = swarm::run(seed, None) {
            panic!("{finding}");
        }
        return;
    }
    let schedules = number("SIM_SCHEDULES").unwrap_or(SCHEDULES);
    let base = number("SIM_BASE").unwrap_or(0);
    println!(
        "{schedules} schedules, seeds from {base}; the same again: SIM_BASE={base} SIM_SCHEDULES={schedules}"
    );
    let started = std::time::Instant::now();
    if let Some((_, finding)) = first_finding(base, schedules, None) {
        panic!("{finding}");
    }
    println!("{schedules} schedules in {:.0} s", started.elapsed().as_secs_f64());
}

#[test]
fn every_planted_bug_is_found() {
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        match first_finding(0, SCHEDULES_PER_BUG, Some(bug)) {
            Some((schedules, finding)) => println!("{bug:?}: after {schedules} schedules: {}", finding.what),
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

#[test]
fn a_small_world_is_searched_exhaustively() {
    for (name, rules) in small_worlds() {
        match search::search(rules) {
            Ok(searched) => println!("{name}: {} states, {} deep", searched.states, searched.depth),
            Err(what) => panic!("{name}: {what}"),
        }
    }
}

/// Runs seeds on all cores until one fails, and says at which that was. All before it have passed by then. A panic of
/// the coordinator counts as a finding.
fn first_finding(base: u64, schedules: u64, bug: Option<Bug>) -> Option<(u64, Finding)> {
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= schedules {
                break;
            }
            if number > 0 && number.is_multiple_of(TELL_EVERY) {
                println!("{number} of {schedules} schedules");
            }
            let seed = base.wrapping_add(number);
            let outcome = catch_unwind(AssertUnwindSafe(|| swarm::run(seed, bug)));
            let what = "the coordinator panicked".to_owned();
            let outcome = outcome.unwrap_or_else(|_| Err(Finding { seed, what, trace: Vec::new() }));
            if let Err(finding) = outcome {
                stop.store(true, Ordering::Relaxed);
                return Some((number + 1, finding));
            }
        }
        None
    };
    let parts = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..parts).map(|_| scope.spawn(work)).collect();
        let findings = threads.into_iter().filter_map(|thread| thread.join().expect("a simulation thread"));
        findings.min_by_key(|(schedules, _)| *schedules)
    })
}

/// Two keys, and each time another few of the things that may happen, in every order.
fn small_worlds() -> [(&'static str, Rules); 5] {
    let world = |failures: &[Failure], few: &[(Kind, u32)]| {
        let mut budget = [0; KINDS];
        UNDER_WAY.iter().for_each(|kind| budget[*kind as usize] = u32::MAX);
        few.iter().for_each(|(kind, times)| budget[*kind as usize] = *times);
        let limits = Limits {
            content_fills: 1,
            content_fills_per_upstream: 1,
            pointer_fills: 1,
            pointer_fills_per_upstream: 1,
            low_mark_percent: 50,
        };
        let failures = failures.to_vec();
        let none = BTreeSet::new;
        Rules {
            blobs: 2,
            documents: 0,
            sources: 2,
            files: none(),
            rows: none(),
            limits,
            spaces: vec![8],
            failures,
            waits: vec![],
            budget,
        }
    };
    let clients = [(Kind::Join, 3), (Kind::Leave, 1), (Kind::Fail, 2)];
    let pushes = [(Kind::Join, 2), (Kind::Fail, 1), (Kind::Push, 1), (Kind::Abandon, 1), (Kind::Collect, 1)];
    let losses =
        [(Kind::Join, 2), (Kind::SweepFails, 1), (Kind::Push, 1), (Kind::Vanish, 1), (Kind::Resend, 1)];
    let late = [(Kind::Join, 2), (Kind::Leave, 1), (Kind::Fail, 1), (Kind::Wait, 2), (Kind::Tick, 2)];
    let patience = Rules {
        blobs: 1,
        documents: 1,
        sources: 1,
        waits: vec![names::PATIENCE_MS, 3_000],
        ..world(&[Failure::Transport], &late)
    };
    let start = [
        (Kind::Join, 1),
        (Kind::SweepFails, 1),
        (Kind::Push, 1),
        (Kind::Unpin, 1),
        (Kind::Vanish, 1),
        (Kind::Restart, 1),
    ];
    let starts = Rules {
        blobs: 1,
        sources: 1,
        files: [0].into(),
        rows: [0].into(),
        spaces: vec![2],
        ..world(&[], &start)
    };
    [
        ("clients", world(&[Failure::NotFound, Failure::Died], &clients)),
        ("pushes", world(&[Failure::NoSpace], &pushes)),
        ("losses", world(&[], &losses)),
        ("patience", patience),
        ("starts", starts),
    ]
}

/// What has begun may always go on.
const UNDER_WAY: [Kind; 12] = [
    Kind::Open,
    Kind::Head,
    Kind::Finish,
    Kind::FillReports,
    Kind::SweepReports,
    Kind::PushReports,
    Kind::ClientReports,
    Kind::ScanReports,
    Kind::Sweep,
    Kind::Publish,
    Kind::Commit,
    Kind::Scan,
];

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {value:?}")))
}

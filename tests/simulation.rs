//! The production coordinator in a simulated world: random schedules, an exhaustive search of a small world, and the
//! proof that both would notice. `SIM_SEED=<n>` replays one schedule, `SIM_SCHEDULES=<n>` sets how many are run.

#[path = "simulation/model.rs"]
mod model;
#[path = "simulation/names.rs"]
mod names;
#[path = "simulation/prng.rs"]
mod prng;
#[path = "simulation/search.rs"]
mod search;
#[path = "simulation/swarm.rs"]
mod swarm;
#[path = "simulation/world.rs"]
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use binaryrepo::cache::{Bug, Failure, Limits};

use crate::swarm::Finding;
use crate::world::{KINDS, Rules};

const SCHEDULES: u64 = 100_000;
/// Within so many schedules each planted bug must show.
const SCHEDULES_PER_BUG: u64 = 20_000;

#[test]
fn random_schedules_find_nothing() {
    if let Some(seed) = number("SIM_SEED") {
        if let Err(finding) = swarm::run(seed, None) {
            panic!("{finding}");
        }
        return;
    }
    let schedules = number("SIM_SCHEDULES").unwrap_or(SCHEDULES);
    if let Some((_, finding)) = first_finding(schedules, None) {
        panic!("{finding}");
    }
}

#[test]
fn every_planted_bug_is_found() {
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        match first_finding(SCHEDULES_PER_BUG, Some(bug)) {
            Some((schedules, finding)) => println!("{bug:?}: after {schedules} schedules: {}", finding.what),
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

#[test]
fn a_small_world_is_searched_exhaustively() {
    let started = std::time::Duration::ZERO;
    let _ = started;
    for (name, rules) in small_worlds() {
        match search::search(rules) {
            Ok(searched) => println!("{name}: {} states, {} deep", searched.states, searched.depth),
            Err(what) => panic!("{name}: {what}"),
        }
    }
}

/// Runs seeds on all cores until one fails. A panic of the coordinator counts as a finding.
fn first_finding(schedules: u64, bug: Option<Bug>) -> Option<(u64, Finding)> {
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= schedules {
                break;
            }
            let outcome = catch_unwind(AssertUnwindSafe(|| swarm::run(seed, bug)));
            let what = "the coordinator panicked".to_owned();
            let outcome = outcome.unwrap_or_else(|_| Err(Finding { seed, what, trace: Vec::new() }));
            if let Err(finding) = outcome {
                stop.store(true, Ordering::Relaxed);
                return Some((seed + 1, finding));
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
fn small_worlds() -> Vec<(&'static str, Rules)> {
    let rules = |failures: &[Failure], budget: [u32; KINDS]| Rules {
        blobs: 2,
        documents: 0,
        sources: 2,
        limits: Limits {
            content_fills: 1,
            content_fills_per_upstream: 1,
            pointer_fills: 1,
            low_mark_percent: 50,
        },
        spaces: vec![8],
        failures: failures.to_vec(),
        waits: vec![],
        budget,
    };
    let budget = |of: &[(usize, u32)]| {
        let mut budget = [0; KINDS];
        // What is under way may always go on: opening, heads, ends, reports, sweeps, pushes, the boot scan.
        [2, 3, 4, 6, 8, 11, 12, 22].into_iter().for_each(|kind| budget[kind] = u32::MAX);
        of.iter().for_each(|(kind, times)| budget[*kind] = *times);
        budget
    };
    vec![
        ("clients", rules(&[Failure::NotFound, Failure::Died], budget(&[(0, 3), (1, 1), (5, 2)]))),
        ("pushes", rules(&[Failure::NoSpace], budget(&[(0, 2), (5, 1), (10, 1), (13, 1), (15, 1)]))),
        ("losses", rules(&[], budget(&[(0, 2), (9, 1), (10, 1), (17, 1), (7, 1)]))),
    ]
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {value:?}")))
}

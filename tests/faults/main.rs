//! The fault matrix: everything that can go wrong (rows), at every phase of a fetch (columns), with one waiter, two,
//! and many. Each cell is a server with its upstream and its clients, over real sockets; each either runs and says
//! what was seen, or is impossible and says why.
//!
//! `FAULTS_CELL=C4.middle.2` runs the cells whose name begins so, and `FAULTS_LOG=1` shows what the servers log.
//! `FAULTS_MANY=50` makes fewer of the many (500). `FAULTS_WRITE=1` writes docs/faults.md (`make faults`); otherwise that
//! page is held against the matrix.
#![expect(clippy::disallowed_methods, reason = "these tests damage a data directory and read the clock")]

#[allow(dead_code, reason = "each binary uses its own part")]
#[path = "../engine/rig.rs"]
mod rig;
#[path = "../support/mod.rs"]
mod support;

mod cells;
mod client;
mod client_rows;
mod flows;
mod local_rows;
mod planted;
mod report;
mod signs;
mod upstream_rows;
mod world;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cells::{Cell, Outcome, Plan, Result};

/// Cells at once: most of them wait, for a time-out or for each other.
const AT_ONCE: usize = 12;
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn every_cell_has_a_result() {
    let _turn = turn();
    let started = Instant::now();
    signs::listen(std::env::var_os("FAULTS_LOG").is_some());
    let wanted = std::env::var("FAULTS_CELL").unwrap_or_default();
    let cells: Vec<Cell> = cells::all().filter(|cell| cell.id().starts_with(&wanted)).collect();
    assert!(!cells.is_empty(), "no cell begins with {wanted}");
    let results = run(cells);
    let failed: Vec<_> =
        results.iter().filter(|result| matches!(result.outcome, Outcome::Failed(_))).collect();
    for result in &failed {
        eprintln!("{}: {:?}", result.cell.id(), result.outcome);
    }
    let (ran, impossible) = report::count(&results);
    println!("{ran} cells ran, {impossible} are impossible, in {:?}", started.elapsed());
    let red: Vec<String> = failed.iter().map(|result| result.cell.id()).collect();
    assert!(red.is_empty(), "{} cells are red: {}", red.len(), red.join(", "));
    if wanted.is_empty() {
        assert_eq!(results.len(), 660);
        report::hold_against_the_page(&results);
    }
}

/// Two tests of which each has work for every core.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Some at once, each on a thread of its own.
fn run(cells: Vec<Cell>) -> Vec<Result> {
    let waiting = Mutex::new(cells.into_iter());
    let results = Mutex::new(Vec::new());
    let next = || waiting.lock().unwrap().next();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(cell) = next() {
                    let outcome =
                        thread::Builder::new().name(cell.id()).spawn(move || outcome(cell)).unwrap().join();
                    let outcome = outcome.unwrap_or_else(|panic| Outcome::Failed(words(&*panic)));
                    results.lock().unwrap().push(Result { cell, outcome });
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|result| result.cell.place());
    results
}

fn outcome(cell: Cell) -> Outcome {
    let work = match (cell.row.plan)(cell) {
        Plan::Impossible(why) => return Outcome::Impossible(why),
        Plan::Run(work) => work,
    };
    // Threads are named for the cell: see `signs`.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).thread_name(cell.id()).enable_all().build().unwrap();
    let outcome = match runtime.block_on(async { tokio::time::timeout(LIMIT, work).await }) {
        Ok(Ok(seen)) => Outcome::Ran(seen),
        Ok(Err(why)) => Outcome::Failed(why),
        Err(_) => Outcome::Failed(format!("not over after {LIMIT:?}")),
    };
    // What hangs in a failed cell does not hold up the others.
    runtime.shutdown_background();
    match (outcome, signs::check(&cell)) {
        (Outcome::Ran(_), Err(missing)) => Outcome::Failed(missing),
        (outcome, _) => outcome,
    }
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}

//! That the matrix finds something: each planted bug turns the cell red that is named for it.

use std::collections::VecDeque;
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use binaryrepo::cache;
use binaryrepo::planted::Bug;

/// A cell that shows it. The other cells that would, are many.
const fn cell(bug: Bug) -> Option<&'static str> {
    Some(match bug {
        Bug::LastByteNotHeld => "C1.middle.1",
        Bug::DigestNotCompared => "C1.middle.2",
        Bug::ResumeNotSkipped => "C5.middle.1",
        Bug::ContentRangeNotRead => "C6.middle.1",
        Bug::ShortBodyTakenForWhole => "C3.middle.1",
        Bug::BreakNotRetried => "C4.middle.2",
        Bug::MirrorsForgotten => "C7.head.1",
        Bug::TokenNeverRenewed => "C12.head.1",
        Bug::NotFoundRetried => "C14.head.1",
        Bug::RateLimitHidden => "C15.head.1",
        Bug::RedirectsWithoutEnd => "C17.head.1",
        Bug::ExpiredAddressBelieved => "C18.middle.1",
        Bug::EncodingAccepted => "C19.head.1",
        Bug::SizeNotAgreed => "C9.head.1",
        Bug::FullDiskRefuses => "L1.head.1",
        Bug::SalvageForgotten => "L1.middle.1",
        Bug::UnkeptTailBroken => "L6.last.1",
        Bug::DraftLeftBehind => "C14.middle.1",
        Bug::DamageStays => "L3.after.1",
        Bug::SuspectsTrusted => "L5.after.1",
        Bug::DraftNotKept => "L14.middle.1",
        Bug::ProofNotAsked => "K7.first.1",
        Bug::PushNotPinned => "K9.after.1",
        Bug::FutureTagFresh => "L10.after.1",
        // The matrix does not look at counters yet.
        Bug::ResumeNotCounted => return None,
        // Only a server that is really killed shows these: tests/crash.
        Bug::PromisedTooEarly | Bug::RowBeforeFile | Bug::LeftoverNotCompared => return None,
    })
}

/// Some of the coordinator's, which the simulation finds too.
const OF_THE_COORDINATOR: [(cache::Bug, &str); 4] = [
    (cache::Bug::LeaderLeaveRefusesOthers, "K1.head.2"),
    (cache::Bug::NobodyJoins, "K4.first.2"),
    (cache::Bug::FailureNotRemembered, "K4.first.1"),
    (cache::Bug::ReservationLeaked, "C3.middle.1"),
];

/// At once: each is a process with one cell.
const AT_ONCE: usize = 6;

#[test]
fn each_planted_bug_turns_its_cell_red() {
    let _turn = super::turn();
    let around = Bug::ALL.into_iter().filter_map(|bug| Some((format!("{bug:?}"), cell(bug)?)));
    let inside = OF_THE_COORDINATOR.into_iter().map(|(bug, cell)| (format!("{bug:?}"), cell));
    let waiting: Mutex<VecDeque<_>> = Mutex::new(around.chain(inside).collect());
    let missed = Mutex::new(Vec::new());
    let next = || waiting.lock().unwrap().pop_front();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((bug, cell)) = next() {
                    if let Err(what) = is_found(&bug, cell) {
                        missed.lock().unwrap().push(format!("{bug} by {cell}: {what}"));
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not found:\n{}", missed.join("\n"));
}

/// Runs this very test binary with the bug and nothing but the cell.
fn is_found(bug: &str, cell: &str) -> Result<(), String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "every_cell_has_a_result", "--nocapture"]);
    command.env_remove("FAULTS_WRITE").env("FAULTS_CELL", cell).env("FAULTS_PATIENCE_S", "3");
    let output = command.env("BINARYREPO_PLANTED_BUG", bug).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    match said.lines().find(|line| line.starts_with(&format!("{cell}: Failed("))) {
        Some(red) if !output.status.success() => {
            println!("{bug}: {}", red.chars().take(200).collect::<String>());
            Ok(())
        }
        _ => Err(format!("{}: {said}", output.status)),
    }
}

//! From results to docs/faults.md.

use std::fmt::Write as _;
use std::path::Path;

use super::cells::{Outcome, Phase, Result, Row, WAITERS, rows};
use super::signs::due;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/faults.md");

/// How many ran, and how many are impossible.
pub fn count(results: &[Result]) -> (usize, usize) {
    let ran = results.iter().filter(|result| matches!(result.outcome, Outcome::Ran(_))).count();
    let impossible = results.iter().filter(|result| matches!(result.outcome, Outcome::Impossible(_))).count();
    (ran, impossible)
}

/// The page says what this run has seen, or is written anew.
#[expect(clippy::disallowed_methods, reason = "the page is a file of the sources")]
pub fn hold_against_the_page(results: &[Result]) {
    let page = page(results);
    if std::env::var_os("FAULTS_WRITE").is_some() {
        std::fs::write(PAGE, page).unwrap();
        return;
    }
    let there = std::fs::read_to_string(Path::new(PAGE)).unwrap_or_default();
    assert!(
        there == page,
        "docs/faults.md is not what was seen: run `make faults` and look at the difference"
    );
}

fn page(results: &[Result]) -> String {
    let (ran, impossible) = count(results);
    let mut page = format!(
        "# The fault matrix

{} rows of what can go wrong, at {} phases of a fetch, with 1, 2 and 500 waiters: {} cells, of which {ran} run and
{impossible} are impossible. Written by `make faults` from what `tests/faults` saw. `make test` runs all of it, and fails
where a cell has no result, is red, or sees something else than this page says.

Each cell is a server with its upstream and its clients over real sockets. Every client's bytes are compared as they
come, the upstream's log is counted, and what lies under the digest is read. Then one more client comes through another
image: it is served, and its blob is kept. At rest no draft, waiter, fetch or open body is left, every row has its file
and every file its row, and the predicates of the simulation have held after every message.

*whole*: all bytes, and they are right. *broken short*: fewer bytes than were announced, so that no client takes it
for whole. A number is the status of an answer that had no byte of the blob. *GETs* are those of the blob at the
upstream. *kept*: the blob lies here afterwards. One cell may run several worlds; what they saw is told apart by `/`.

*told by*: what of `/metrics` (behind `binaryrepo_`) rises, and what line the log has, in each cell that runs here; a cell in
which they do not is red. Where nothing stands nobody has to do anything about it.

Phases: before the upstream's *head*, before the *first* byte, in the *middle*, at the *last* byte, *after*
publishing.
",
        rows().count(),
        Phase::ALL.len(),
        results.len(),
    );
    for (title, letter) in [("The upstream", 'C'), ("This machine", 'L'), ("The clients", 'K')] {
        let _ = write!(
            page,
            "\n## {title}\n\n| cell | fault | 1 waiter | 2 waiters | 500 waiters | told by |\n|---|---|---|---|---|---|\n"
        );
        for row in rows().filter(|row| row.id.starts_with(letter)) {
            for phase in Phase::ALL {
                page.push_str(&line(results, row, phase));
            }
        }
    }
    page
}

fn line(results: &[Result], row: Row, phase: Phase) -> String {
    let mut cells = WAITERS.map(|waiters| {
        let found = results.iter().find(|result| {
            result.cell.row.id == row.id && result.cell.phase == phase && result.cell.waiters == waiters
        });
        match found.map(|result| &result.outcome) {
            Some(Outcome::Ran(seen)) => seen.clone(),
            Some(Outcome::Impossible(why)) => format!("*impossible: {why}*"),
            Some(Outcome::Failed(why)) => format!("**red**: {why}"),
            None => "**no result**".to_owned(),
        }
    });
    if cells[1] == cells[0] {
        cells[1] = "the same".to_owned();
    }
    if cells[2] == cells[0] {
        cells[2] = "the same".to_owned();
    }
    if cells[0].starts_with("*impossible") {
        (cells[1], cells[2]) = (String::new(), String::new());
    }
    let told = match cells[0].starts_with("*impossible") {
        true => String::new(),
        false => due(row.told, phase).map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    let [one, two, many] = cells;
    format!("| {}.{} | {} | {one} | {two} | {many} | {told} |\n", row.id, phase.name(), row.fault)
}

//! That killing shows something: with each of these bugs in the server a few rounds are enough.

use std::process::Command;

use binaryrepo::planted::Bug;

/// The bug, and what then is said of the server.
const BUGS: [(Bug, &str); 3] = [
    (Bug::PromisedTooEarly, "an acknowledged "),
    (Bug::RowBeforeFile, "must be pushed again"),
    (Bug::LeftoverNotCompared, "a fetch that a kill cut off"),
];

/// Enough for a fetch that a kill cuts off, and one whose draft is damaged then.
const ROUNDS: &str = "8";

#[test]
fn each_planted_bug_is_found_by_a_few_kills() {
    let rounds = |bug: Option<Bug>| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "a_killed_server_loses_nothing_it_promised_and_serves_nothing_wrong"]);
        command.arg("--nocapture").env("CRASH_ROUNDS", ROUNDS).env("CRASH_SEED", "7");
        match bug {
            Some(bug) => command.env("BINARYREPO_PLANTED_BUG", format!("{bug:?}")),
            None => command.env_remove("BINARYREPO_PLANTED_BUG"),
        };
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (green, said) = rounds(None);
    assert!(green, "red without any bug: {said}");
    for (bug, words) in BUGS {
        let (green, said) = rounds(Some(bug));
        assert!(!green && said.contains(words), "{bug:?} is not found: {said}");
        let red = said.lines().find(|line| line.contains(words)).unwrap_or_default();
        println!("{bug:?}: {}", red.chars().take(200).collect::<String>());
    }
}

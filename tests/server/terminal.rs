//! What a person at a terminal sees of a command that takes long, and what a pipe is spared. The terminal is a real
//! one: `script`, which every Debian has, runs the command on a pseudo-terminal and hands on what is written there.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tempfile::TempDir;

use super::client::Ask;
use super::house::push;
use super::process::{Ended, Process, good, on, run_with, text};
use super::support::image::Image;
use super::support::patience::found;

/// Nothing here takes as long, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);
const KIB: f64 = 1024.0;
const MIB: f64 = KIB * KIB;
/// Of the one layer. At the rates below it keeps a scrub busy for seconds.
const LAYER: usize = 6 << 20;

/// Runs a command on the data directory where somebody watches; `rest` is more of the shell's line.
fn at_terminal(dir: &Path, args: &[&str], rest: &str) -> Ended {
    run_with(terminal(dir, args, rest), "")
}

fn terminal(dir: &Path, args: &[&str], rest: &str) -> Command {
    let quoted = |word: &str| {
        assert!(!word.contains('\''), "{word}");
        format!("'{word}'")
    };
    let program = [env!("CARGO_BIN_EXE_binaryrepo"), "--data-dir", dir.to_str().unwrap()];
    let words: Vec<String> = program.iter().chain(args).map(|word| quoted(word)).collect();
    // A terminal of no size is what `script` makes where it has none itself.
    let line = format!("stty rows 30 cols 100; exec {}{rest}", words.join(" "));
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("HOME", "/nowhere/home").env("TERM", "xterm").env("SHELL", "/bin/sh");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let there = Command::new("script").arg("--version").output();
    assert!(there.is_ok_and(|out| out.status.success()), "`script` is missing: it comes with util-linux");
    command
}

/// Runs a command that asks: each answer is typed as soon as its prompt is there. What the terminal showed.
fn asked(mut command: Command, answers: &[(&str, &str)]) -> (bool, String) {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (shown, show) = mpsc::channel();
    std::thread::spawn(move || {
        let mut piece = [0; 1024];
        while let Ok(read @ 1..) = screen.read(&mut piece) {
            let _ = shown.send(String::from_utf8_lossy(&piece[..read]).into_owned());
        }
    });
    let mut all = String::new();
    // More of what is shown; `false` when the terminal is closed.
    let more = |all: &mut String, child: &mut Child| match show.recv_timeout(PATIENCE) {
        Ok(piece) => {
            all.push_str(&piece);
            true
        }
        Err(RecvTimeoutError::Disconnected) => false,
        Err(RecvTimeoutError::Timeout) => {
            child.kill().unwrap();
            panic!("nothing comes any more: {all:?}");
        }
    };
    for (prompt, answer) in answers {
        while !all.ends_with(prompt) {
            assert!(more(&mut all, &mut child), "it does not ask {prompt:?}: {all:?}");
        }
        keys.write_all(answer.as_bytes()).unwrap();
    }
    while more(&mut all, &mut child) {}
    (child.wait().unwrap().success(), all)
}

/// What stood on the line one after the other, until it was written over.
fn drawn(written: &str) -> Vec<String> {
    let after_escape = |part: &str| {
        let rest =
            part.strip_prefix('[').map(|rest| rest.trim_start_matches(|c: char| !c.is_ascii_alphabetic()));
        rest.map_or(part, |rest| rest.get(1..).unwrap_or_default()).trim().to_owned()
    };
    let lines = written.split(['\r', '\n']);
    let parts = lines.flat_map(|line| line.split('\x1b').map(after_escape));
    let mut drawn: Vec<String> = parts.filter(|part| !part.is_empty()).collect();
    drawn.dedup();
    drawn
}

/// `1.50 MiB` as bytes.
fn size(text: &str) -> f64 {
    let (number, unit) = text.split_once(' ').unwrap_or_else(|| panic!("no size: {text}"));
    let unit = match unit {
        "B" => 1.0,
        "KiB" => KIB,
        "MiB" => MIB,
        "GiB" => KIB * MIB,
        _ => panic!("no unit of sizes: {text}"),
    };
    number.parse::<f64>().unwrap() * unit
}

/// One drawing of the bar: `███░░░ 1.50 MiB of 6.00 MiB, 1.02 MiB/s, 4s left`.
#[derive(Debug)]
struct Drawing {
    full: usize,
    empty: usize,
    bytes: f64,
    total: f64,
    rate: f64,
}

impl Drawing {
    fn of(line: &str) -> Self {
        let whole = || -> Option<Self> {
            let (bar, numbers) = line.split_once(' ')?;
            let [sizes, rate, left] = numbers.split(", ").collect::<Vec<_>>().try_into().ok()?;
            let (bytes, total) = sizes.split_once(" of ")?;
            let seconds: u64 = left.strip_suffix("s left")?.parse().ok()?;
            assert!(seconds < 600, "{line}");
            let count = |block: char| bar.chars().filter(|c| *c == block).count();
            let rate = size(rate.strip_suffix("/s")?);
            Some(Self {
                full: count('█'), empty: count('░'), bytes: size(bytes), total: size(total), rate
            })
        };
        whole().unwrap_or_else(|| panic!("not what is to be drawn: {line:?}"))
    }
}

/// Drawings of one bar, from its first to its last.
fn bar(lines: &[String]) -> Vec<Drawing> {
    let drawings: Vec<Drawing> = lines.iter().map(|line| Drawing::of(line)).collect();
    assert!(drawings.len() > 1, "nothing moves: {drawings:?}");
    for one in &drawings {
        let total = (one.total / LAYER as f64 * 100.0).round();
        assert_eq!((total, one.full + one.empty), (100.0, 30), "{one:?}");
        assert!(one.bytes <= one.total, "{one:?}");
        // The bar is as full as the numbers say, but for a block that is begun.
        assert!((one.full as f64 - one.bytes / one.total * 30.0).abs() <= 1.0, "{one:?}");
    }
    assert!(drawings.windows(2).all(|two| two[0].bytes <= two[1].bytes), "{drawings:?}");
    drawings
}

/// A server with one image, of one large layer.
async fn server(dir: &TempDir) -> Process {
    let server = Process::start(dir, &[]);
    push(server.address, "docker-local/team/app", "1", &Image::new(1, &[LAYER])).await;
    server
}

const WHOLE: &str = "checked 2 blobs and 1 manifest, 6.00 MiB: 0 damaged";

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_draws_a_bar_with_its_rate_on_a_terminal_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let _server = server(&dir).await;
    let ended = at_terminal(dir.path(), &["scrub", "--rate", "3MiB"], "");
    assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{ended:?}");
    let mut lines = drawn(&ended.out);
    // The bar makes room for the sentence.
    assert_eq!(lines.pop().as_deref(), Some(WHOLE), "{ended:?}");
    let drawings = bar(&lines);
    let (first, last) = (&drawings[0], &drawings[drawings.len() - 1]);
    assert!(first.bytes < last.bytes, "{drawings:?}");
    assert!(last.rate > 0.0 && drawings.iter().all(|one| one.rate < 30.0 * MIB), "{drawings:?}");

    // Without a terminal there is the sentence alone, though it takes as long.
    assert_eq!(good(dir.path(), &["scrub", "--rate", "12MiB"]), format!("{WHOLE}\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bar_of_a_scrub_under_way_shows_its_rate_from_now_on() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let begun = server.send(Ask::new("POST", "/api/scrub?rate=1MiB")).await;
    assert_eq!(begun.status, 202, "{}", begun.all());
    let third = async || {
        let report = server.get("/api/scrub").await.json();
        (report["bytes"].as_f64().unwrap() >= 2.0 * MIB).then_some(())
    };
    found("a third is hashed", third).await;
    // What is piped away is whole, and the bar is on the terminal all the same.
    let kept = dir.path().join("kept");
    let ended = at_terminal(dir.path(), &["scrub"], &format!(" >'{}'", kept.display()));
    assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{ended:?}");
    assert_eq!(text(&kept), format!("{WHOLE}\n"));
    let drawings = bar(&drawn(&ended.out));
    assert!(drawings[0].bytes >= 2.0 * MIB, "{drawings:?}");
    // The third before anybody watched did not come in the blink since.
    assert!(drawings.iter().all(|one| one.rate < 10.0 * MIB), "{drawings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_given_to_a_scrub_under_way_is_not_taken_in_silence() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    assert_eq!(server.send(Ask::new("POST", "/api/scrub?rate=3MiB")).await.status, 202);
    let ended = on(dir.path(), &["scrub", "--rate", "100MiB"]);
    let warning = "warning: a scrub is under way already, and keeps its rate\nhint: `binaryrepo scrub --stop` ends it\n";
    assert_eq!((ended.code, ended.out.trim_end(), ended.err.as_str()), (0, WHOLE, warning), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_counts_on_a_terminal_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let _server = server(&dir).await;
    let place = tempfile::tempdir().unwrap();
    let [watched, piped] = ["watched", "piped"].map(|name| place.path().join(name));
    let ended = at_terminal(dir.path(), &["backup", watched.to_str().unwrap()], "");
    assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{ended:?}");
    assert!(drawn(&ended.out)[0].ends_with(" of 6.00 MiB"), "{ended:?}");
    let plain = good(dir.path(), &["backup", piped.to_str().unwrap()]);
    assert!(!plain.contains(['\r', '\x1b']) && !plain.contains(" of 2 blobs"), "{plain:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_asked_for_twice_and_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let add = |name: &str, again: &str| {
        let answers = [("Password: ", "typed in secret\n"), ("Once more: ", again)];
        asked(terminal(dir.path(), &["user", "add", "--admin", name], ""), &answers)
    };
    let (done, shown) = add("ada", "typed in secret\n");
    assert!(done && shown.ends_with("made ada\r\n") && !shown.contains("secret"), "{shown:?}");
    let (done, shown) = add("ben", "typed in a secret\n");
    assert!(!done && shown.contains("the two passwords differ") && !shown.contains("secret"), "{shown:?}");

    let server = Process::start(&dir, &[]);
    let login = format!("Basic {}", BASE64_STANDARD.encode("ada:typed in secret"));
    let users = Ask::get("/api/users").header("Authorization", &login);
    assert_eq!(server.send(users).await.json()["users"].as_array().unwrap().len(), 1);
}

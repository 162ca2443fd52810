//! Owns the order of an end-to-end run: which scenarios, one after the other, and the verdict.
//! Must not know: how any of them works.
//!
//! Real clients pull through the built binary and a real nginx from a real registry, all on this machine:
//!
//!     cargo test --test e2e                     everything but what takes minutes to build
//!     cargo test --test e2e -- --nightly        that too
//!     cargo test --test e2e -- docker tags      the scenarios with one of these words in their names
//!     cargo test --test e2e -- --list           their names
//!
//! BINARYREPO_E2E_BINARY names another binary to test than the one that cargo has just built.
#![expect(clippy::disallowed_methods, reason = "a harness has files, a clock and tasks of its own")]

mod clients;
mod daemons;
mod front;
mod images;
mod layout;
mod line;
mod log;
mod needs;
mod process;
mod pushers;
mod sandbox;
mod scenarios;
mod server;
mod trouble;
mod upstream;
mod wire;
mod world;

use sandbox::Stage;
use scenarios::Scenario;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use trouble::{Outcome, ensure};
use world::World;

fn main() -> ExitCode {
    match staged() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("e2e: {error}");
            ExitCode::FAILURE
        }
    }
}

fn staged() -> Outcome<ExitCode> {
    let chosen = choose(std::env::args().skip(1))?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    match sandbox::stage() {
        _ if chosen.is_empty() => Ok(ExitCode::SUCCESS),
        Stage::Init => sandbox::be_init(),
        Stage::Inside(dir) => inside(&dir, source, &chosen),
        Stage::Outside => {
            sandbox::install_packages()?;
            let mut met = Vec::new();
            for need in chosen.iter().filter_map(|scenario| scenario.need) {
                if !met.contains(&need) {
                    need.meet(source)?;
                    met.push(need);
                }
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(sandbox::enter(&PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("e2e")))
        }
    }
}

/// The scenarios that the arguments name; none, if they were only to be listed.
fn choose(arguments: impl Iterator<Item = String>) -> Outcome<Vec<Scenario>> {
    let (mut words, mut nightly) = (Vec::new(), false);
    for argument in arguments {
        match argument.as_str() {
            "--list" => {
                every().for_each(|scenario| println!("{:<18}{}", scenario.name, scenario.about));
                return Ok(Vec::new());
            }
            "--nightly" => nightly = true,
            "--nocapture" => {}
            word => {
                ensure!(!word.starts_with('-'), "{word} is unknown; wanted: [--list] [--nightly] [WORD]...");
                words.push(argument);
            }
        }
    }
    if words.is_empty() {
        let more = if nightly { scenarios::NIGHTLY } else { &[] };
        return Ok(scenarios::ALL.iter().chain(more).copied().collect());
    }
    let wanted = |name: &str| words.iter().any(|word| name.contains(word.as_str()));
    let chosen: Vec<Scenario> = every().filter(|scenario| wanted(scenario.name)).copied().collect();
    ensure!(!chosen.is_empty(), "no scenario has {} in its name; --list shows them", words.join(" or "));
    Ok(chosen)
}

fn every() -> impl Iterator<Item = &'static Scenario> {
    scenarios::ALL.iter().chain(scenarios::NIGHTLY)
}

fn inside(dir: &Path, source: &Path, chosen: &[Scenario]) -> Outcome<ExitCode> {
    let begun = Instant::now();
    sandbox::furnish(dir)?;
    let mut world = World::new(dir, source)?;
    let mut failed = Vec::new();
    for (number, scenario) in chosen.iter().enumerate() {
        println!("[{:>2}/{}] {}: {}", number + 1, chosen.len(), scenario.name, scenario.about);
        let started = Instant::now();
        let outcome = (scenario.run)(&mut world);
        let took = started.elapsed();
        match outcome {
            Ok(()) => println!("      ok, {took:.1?}"),
            Err(error) => {
                println!("      FAILED, {took:.1?}: {error}\n{}", world.post_mortem());
                failed.push(scenario.name);
                world.calm()?;
            }
        }
    }
    drop(world);
    println!("\ne2e: {:.0?} in all", begun.elapsed());
    if !failed.is_empty() {
        println!("failed: {}", failed.join(", "));
    }
    println!("{} passed, {} failed", chosen.len() - failed.len(), failed.len());
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

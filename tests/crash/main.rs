//! The real server, killed at random moments while clients pull and push, and started again on what is left. Its
//! upstream breaks some bodies off, and one fetch in four rounds is cut off by the kill. Between two runs some cached files
//! and drafts are damaged, as a power cut might have done. Now and then most images are deleted and cleaned up.
//!
//! `CRASH_ROUNDS=4000` sets how often (300), `CRASH_SEED=7` replays the choices. `make crash` runs it alone.
#![expect(clippy::disallowed_methods, reason = "this test looks at the data directory and reads the clock")]

mod client;
mod far;
mod load;
#[cfg(feature = "planted-bugs")]
mod planted;
mod process;
#[path = "../support/mod.rs"]
mod support;
mod verify;

use std::time::{Duration, Instant};

use fastrand::Rng;

use far::{Far, goes_on};
use load::{Load, World};
use process::Process;
use support::upstream::{Options, Registry};

/// A clean stop now and then, after which everything is looked at.
const LOOK_EVERY: u64 = 25;
/// A fetch is cut off in one round of so many; in the next of them its draft is damaged as well.
const FAR_EVERY: u64 = 4;
/// Whoever waits for thousands of rounds is told this often how far they are.
const TELL_EVERY: u64 = 100;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_loses_nothing_it_promised_and_serves_nothing_wrong() {
    let rounds: u64 = number("CRASH_ROUNDS").unwrap_or(300);
    let seed = number("CRASH_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    println!("CRASH_SEED={seed}");
    let mut random = Rng::with_seed(seed);
    let started = Instant::now();
    let registry = Registry::start(Options { connection_rate: Some(4 << 20), ..Options::default() }).await;
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let mut world = World::new(&registry, &mut random);
    let mut far = Far::start().await;
    process::add_remote(dir.path(), "hub", &registry.url());
    process::add_remote(dir.path(), "far", &far.registry().url());
    let mut slowest = Duration::ZERO;
    for round in 1..=rounds {
        if round > TELL_EVERY && round % TELL_EVERY == 1 {
            println!("{} of {rounds} rounds in {:.0} s", round - 1, started.elapsed().as_secs_f64());
        }
        let start = Instant::now();
        let server = Process::start(dir.path()).await;
        slowest = slowest.max(start.elapsed());
        registry.behave();
        world.first_look(server.address, &mut random).await;
        far.go_on(server.address).await;
        world.break_some(&registry, &mut random);
        let look = round % LOOK_EVERY == 0 || round == rounds;
        let load = Load::start(&world, server.address, &mut random);
        if !look && round % FAR_EVERY == 1 {
            far.begin(server.address).await;
        }
        tokio::time::sleep(Duration::from_millis(random.u64(0..300))).await;
        server.check_promises().await;
        if look {
            world.take_in(load.stop().await);
            registry.behave();
            world.breaks_off_and_goes_on(&registry, server.address, round).await;
            world.all_is_there(server.address).await;
            world.forget_most(server.address).await;
            world.all_is_there(server.address).await;
            server.counts_agree(dir.path()).await;
            server.stop();
            verify::rows_and_files_agree(dir.path(), &world);
        } else {
            server.kill();
            world.take_in(load.stop().await);
            world.damage(dir.path(), &mut random);
            if round % (2 * FAR_EVERY) != 1 {
                far.damage(dir.path());
            }
        }
    }
    let broken_off = registry.asked("/blobs/").iter().filter(|seen| goes_on(seen)).count();
    println!(
        "{rounds} rounds in {:?}; slowest start {slowest:?}\n{}\nupstream: {} GETs of blobs, {broken_off} of them went on \
         where one had broken off\nfetches cut off by a kill: {} went on by range, {} began anew",
        started.elapsed(),
        world.tally,
        registry.asked("/blobs/").len(),
        far.resumed,
        far.begun_anew,
    );
    if rounds >= 2 * FAR_EVERY {
        assert!(broken_off > 0, "no body was broken off: nothing was shown of resumes");
        assert!(far.resumed > 0, "no draft was gone on with after a kill: nothing was shown of them");
        assert!(far.begun_anew > 0, "no damaged draft was found");
    }
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {value:?}")))
}

//! L1 to L14: it goes wrong on this machine.

use binaryrepo::meta::{CopyRow, MetaExt as _, Options as MetaOptions, RedbMeta, TagRow};
use binaryrepo::names::RepositoryId;
use binaryrepo::store::Call;
use rustix::io::Errno;

use super::cells::{Cell, Phase, Plan, Row, run};
use super::client::{Ask, Got};
use super::flows::{
    Clients, Expect, Kept, PLACES, all, broken, end, held, hold, next_client, refused, whole,
};
use super::rig::{Disk, Mood};
use super::signs::Sign::{Counted, Logged, Verdict};
use super::signs::told;
use super::support::fault::{Fault, Gate};
use super::support::upstream::Options;
use super::world::{LARGE, SIZE, Setup, World, judge};

pub const ROWS: [Row; 14] = [
    Row {
        id: "L1",
        fault: "no space, or no quota",
        told: &[told(Phase::BEFORE, &[Counted("cache_bypass"), Logged("cache_bypass: ")])],
        plan: l1,
    },
    Row {
        id: "L2",
        fault: "EIO on a write",
        told: &[told(
            Phase::BEFORE,
            &[Counted("cache_bypass"), Counted("disk_errors"), Logged("disk_error: ")],
        )],
        plan: l2,
    },
    Row {
        id: "L3",
        fault: "EIO on a read",
        told: &[told(
            &[Phase::After],
            &[Counted("disk_errors"), Logged("disk_error: a blob cannot be read")],
        )],
        plan: l3,
    },
    Row { id: "L4", fault: "short writes and signals", told: &[], plan: l4 },
    Row {
        id: "L5",
        fault: "a sync that fails",
        told: &[told(
            &[Phase::After],
            &[
                Logged("the file storage cannot be synced"),
                Logged("a cached blob was damaged by an unclean stop"),
            ],
        )],
        plan: l5,
    },
    Row {
        id: "L6",
        fault: "a rename that fails",
        told: &[told(&[Phase::Last], &[Counted("disk_errors"), Logged("disk_error: a blob cannot be kept")])],
        plan: l6,
    },
    Row {
        id: "L7",
        fault: "a metadata store that takes no writes",
        told: &[told(Phase::BEFORE, &[Logged("a fetched blob cannot be noted")])],
        plan: l7,
    },
    Row {
        id: "L8",
        fault: "a kill, and a new start",
        told: &[told(Phase::BEFORE, &[Logged("removed drafts of an earlier run")])],
        plan: l8,
    },
    Row {
        id: "L9",
        fault: "no descriptors, no memory",
        told: &[
            told(&[Phase::Head], &[Counted("cache_bypass"), Counted("disk_errors"), Logged("disk_error: ")]),
            told(&[Phase::After], &[Logged("the file storage failed")]),
        ],
        plan: l9,
    },
    Row {
        id: "L10",
        fault: "a wall clock that jumps",
        told: &[told(&[Phase::After], &[Verdict("manifest", "revalidated")])],
        plan: l10,
    },
    Row {
        id: "L11",
        fault: "a disk that becomes read-only",
        told: &[told(Phase::BEFORE, &[Counted("cache_bypass"), Logged("disk_error: ")])],
        plan: l11,
    },
    Row {
        id: "L12",
        fault: "a file that an operator removes",
        told: &[
            told(Phase::BEFORE, &[Counted("disk_errors"), Logged("disk_error: a blob cannot be kept")]),
            told(&[Phase::After], &[Logged("a cached blob's file is missing or damaged")]),
        ],
        plan: l12,
    },
    Row {
        id: "L13",
        fault: "a task that panics",
        told: &[
            told(&[Phase::Head, Phase::After], &[Logged("a read of the metadata panicked")]),
            told(&[Phase::First, Phase::Middle], &[Counted("disk_errors"), Logged("disk_error: ")]),
            told(&[Phase::Last], &[Logged("a fetch panicked")]),
        ],
        plan: l13,
    },
    Row {
        id: "L14",
        fault: "an orderly stop",
        told: &[told(Phase::PART, &[Counted("upstream_resumed")])],
        plan: l14,
    },
];

/// The fill's own GET, and one for each client that goes on alone. More than fit at once are turned away.
fn past(clients: usize) -> Expect {
    Expect { clients: Clients::Bypass, kept: Kept::Nothing, gets: 1..=1 + clients }
}

/// From the break on everybody goes on alone; who finds no place is broken off.
fn alone(clients: usize) -> Expect {
    let all_fit = if clients <= PLACES { Clients::Whole } else { Clients::WholeOrBroken };
    Expect { clients: all_fit, kept: Kept::Nothing, gets: 1 + clients.min(PLACES)..=1 + clients }
}

/// The disk refuses to take the blob: at its creation, for its space, or at the byte where the phase is.
fn refuses_writes(cell: Cell, errno: Errno) -> Plan {
    let clients = cell.clients();
    match cell.phase {
        // Before there is anything: at the first call of all.
        Phase::Head => run(from_the_start(cell, move |disk| disk.fail(Call::Create, errno), past(clients))),
        Phase::First => run(from_the_start(cell, move |disk| disk.fail(Call::Reserve, errno), past(clients))),
        Phase::Middle | Phase::Last => run(async move {
            let strike = async move |world: &World| {
                world.disk.fail(Call::Write, errno);
            };
            held(cell, Setup::default(), strike, alone(clients)).await
        }),
        Phase::After => run(after(cell, move |world: &World| {
            for call in [Call::Create, Call::Reserve, Call::Write, Call::Rename] {
                world.disk.fail(call, errno);
            }
        })),
    }
}

/// It is broken before the clients come.
async fn from_the_start(cell: Cell, breaks: impl FnOnce(&Disk), expect: Expect) -> Result<String, String> {
    let world = World::new(Setup::default()).await;
    breaks(&world.disk);
    let gate = Gate::closed();
    world.registry.script(&world.line(), [Fault::Hold(gate.clone())]);
    let clients = world.pulls(cell.clients());
    if matches!(cell.phase, Phase::First) {
        world.until_waiting(cell.clients()).await?;
    }
    gate.open();
    let got = all(clients).await;
    world.rest().await?;
    let seen = expect.check(&world, &got)?;
    if world.blob_file().exists() {
        return Err("what could not be kept lies there".to_owned());
    }
    world.disk.heal();
    end(world).await?;
    Ok(seen)
}

/// The blob lies here; then it goes wrong, and nobody notices.
async fn after(cell: Cell, breaks: impl FnOnce(&World)) -> Result<String, String> {
    after_expecting(cell, breaks, whole(0)).await
}

async fn after_expecting(cell: Cell, breaks: impl FnOnce(&World), expect: Expect) -> Result<String, String> {
    let world = World::new(Setup::default()).await;
    world.cache_it().await?;
    breaks(&world);
    let got = all(world.pulls(cell.clients())).await;
    world.rest().await?;
    let seen = expect.check(&world, &got)?;
    world.disk.heal();
    world.ledger.is(Mood::Well);
    end(world).await?;
    Ok(seen)
}

fn l1(cell: Cell) -> Plan {
    refuses_writes(cell, if cell.waiters == 2 { Errno::DQUOT } else { Errno::NOSPC })
}

fn l2(cell: Cell) -> Plan {
    refuses_writes(cell, Errno::IO)
}

fn l11(cell: Cell) -> Plan {
    refuses_writes(cell, Errno::ROFS)
}

fn l3(cell: Cell) -> Plan {
    match cell.phase {
        Phase::Head => Plan::Impossible("before the head nothing of the blob is read"),
        Phase::After => run(async move {
            let world = World::new(Setup::default()).await;
            world.cache_it().await?;
            world.disk.fail(Call::Read, Errno::IO);
            let got = all(world.pulls(cell.clients())).await;
            world.rest().await?;
            // Who comes after it was set aside may have it past the cache already.
            if let Some(other) = got.iter().find(|one| !one.is_broken() && !one.is_whole()) {
                return Err(format!("neither broken off nor whole: {other:?}"));
            }
            if !got.iter().any(Got::is_broken) {
                return Err("nobody was broken off".to_owned());
            }
            let aside = async || std::fs::read_dir(world.dir.path().join("quarantine")).unwrap().count() > 0;
            world.until("it is set aside", aside).await?;
            world.disk.heal();
            next_client(&world).await?;
            let bytes = std::fs::read(world.blob_file()).map_err(|error| error.to_string())?;
            if bytes != world.layer.bytes {
                return Err("what lies there now is not what it should be".to_owned());
            }
            world.finish().await?;
            Ok("broken short; set aside, and fetched again for who comes next".to_owned())
        }),
        // The draft cannot be read from here on: who reads it is broken off, the fill goes on.
        _ => run(async move {
            let strike = async |world: &World| world.disk.fail(Call::Read, Errno::IO);
            // Who was sent nothing yet asks once more, as long as that may help.
            held(cell, Setup::default(), strike, broken(1..=4).keeping(Kept::Either)).await
        }),
    }
}

fn l4(cell: Cell) -> Plan {
    match cell.phase {
        Phase::Head => Plan::Impossible("before the head nothing is written"),
        Phase::After => Plan::Impossible("when it lies here nothing is written any more"),
        _ => run(async move {
            let strike = async |world: &World| {
                world.disk.fail_times(3, Call::Write, Errno::INTR);
                world.disk.short_writes(777);
            };
            held(cell, Setup::default(), strike, whole(1)).await
        }),
    }
}

fn l5(cell: Cell) -> Plan {
    if cell.phase != Phase::After {
        return Plan::Impossible("a pull syncs nothing: what is cached can be fetched again");
    }
    // A stop syncs. If that fails the stop is not clean, and the next start trusts nothing that was not synced.
    run(async move {
        let world = World::new(Setup::default()).await;
        world.cache_it().await?;
        world.disk.fail(Call::SyncAll, Errno::IO);
        let mut world = world.revive(None).await;
        let got = all(world.pulls(cell.clients())).await;
        world.rest().await?;
        let seen = whole(0).check(&world, &got)?;
        // Now the bytes are lost, behind a length that is right.
        world.disk.fail(Call::SyncAll, Errno::IO);
        let path = world.blob_file();
        world = world.revive(None).await;
        std::fs::write(path, vec![0; SIZE]).map_err(|error| error.to_string())?;
        let got = all(world.pulls(cell.clients())).await;
        world.rest().await?;
        whole(1).check(&world, &got)?;
        world.finish().await?;
        Ok(format!("{seen}; checked before the first byte"))
    })
}

fn l6(cell: Cell) -> Plan {
    match cell.phase {
        Phase::Last => {}
        Phase::After => return Plan::Impossible("it has its name"),
        _ => return Plan::Impossible("the name is given when all bytes are here"),
    }
    run(async move {
        let mut seen = String::new();
        for errno in [Errno::XDEV, Errno::ACCESS, Errno::NOSPC] {
            let strike = async |world: &World| world.disk.fail(Call::Rename, errno);
            seen = held(cell, Setup::default(), strike, whole(1).keeping(Kept::Nothing)).await?;
        }
        // Something has the name already: right, wrong, or no file.
        for bytes in [None, Some(0), Some(1)] {
            let strike = async |world: &World| {
                let mut there = world.layer.bytes.to_vec();
                match bytes {
                    None => return std::os::unix::fs::symlink("/etc/passwd", world.blob_file()).unwrap(),
                    Some(damage) => there[9] ^= damage,
                }
                std::fs::write(world.blob_file(), there).unwrap();
            };
            held(cell, Setup::default(), strike, whole(1)).await?;
        }
        Ok(seen)
    })
}

fn l7(cell: Cell) -> Plan {
    run(async move {
        let mut seen = String::new();
        for mood in [Mood::Dead, Mood::Closed] {
            seen = match cell.phase {
                Phase::After => after(cell, |world| world.ledger.is(mood)).await?,
                _ => {
                    let world = World::new(Setup::default()).await;
                    let (gate, clients) = hold(&world, cell, cell.clients()).await?;
                    world.ledger.is(mood);
                    gate.open();
                    let got = all(clients).await;
                    world.rest().await?;
                    let seen = whole(1).check(&world, &got)?;
                    // It could not be noted, and is served all the same.
                    next_client(&world).await?;
                    world.ledger.is(Mood::Well);
                    end(world).await?;
                    seen
                }
            };
        }
        Ok(seen)
    })
}

/// The directory as it is at that moment, under a new server. What happens to the old one's clients is shown by
/// `make crash`, with a process that is really killed.
fn l8(cell: Cell) -> Plan {
    run(async move {
        let world = World::new(Setup::default()).await;
        if cell.phase == Phase::After {
            world.cache_it().await?;
        }
        let image = match cell.phase {
            Phase::After => world.crash_image().await,
            _ => {
                let (gate, clients) = hold(&world, cell, 1).await?;
                let image = world.crash_image().await;
                gate.open();
                all(clients).await;
                image
            }
        };
        world.registry.forget();
        let world = world.revive(Some(image)).await;
        let got = all(world.pulls(cell.clients())).await;
        world.rest().await?;
        let gets = if cell.phase == Phase::After { 0 } else { 1 };
        let seen = whole(gets).check(&world, &got)?;
        next_client(&world).await?;
        let row = world.ledger.get::<CopyRow>(&world.layer.digest).map_err(|error| error.to_string())?;
        let file = std::fs::metadata(world.blob_file()).map(|metadata| metadata.len()).ok();
        if row.map(|row| row.size) != file {
            return Err("rows and files do not agree".to_owned());
        }
        world.finish().await?;
        Ok(seen)
    })
}

fn l9(cell: Cell) -> Plan {
    let clients = cell.clients();
    match cell.phase {
        Phase::Head => run(async move {
            let mut seen = String::new();
            for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
                let breaks = move |disk: &Disk| disk.fail(Call::Create, errno);
                seen = from_the_start(cell, breaks, past(clients)).await?;
            }
            Ok(seen)
        }),
        Phase::After => run(async move {
            let opens = |world: &World| world.disk.fail(Call::Open, Errno::MFILE);
            let seen = after_expecting(cell, opens, refused(&[503], 0..=0).keeping(Kept::Blob)).await?;
            Ok(seen)
        }),
        _ => Plan::Impossible("a fetch under way opens nothing more"),
    }
}

fn l10(cell: Cell) -> Plan {
    if cell.phase != Phase::After {
        return Plan::Impossible(
            "the wall clock is read once, at the start: a running server counts on from there",
        );
    }
    // So only a start meets a clock that is set otherwise than at the time of the rows.
    run(async move {
        let mut seen = String::new();
        let hour: i64 = 3_600_000;
        for shift in [-hour, hour, i64::MIN] {
            let world = World::new(Setup::default()).await;
            world.cache_it().await?;
            world.shutdown().await;
            let path = world.dir.path().join("meta.redb");
            shift_rows(&path, shift).await;
            let world = world.revive(None).await;
            let got = all(world.pulls(cell.clients())).await;
            seen = whole(0).check(&world, &got)?;
            // A tag that was noted in the future, or long ago, is asked for again.
            let tag = Ask::get("/v2/hub/a/b/manifests/latest".to_owned());
            let got = world.ask(tag).got().await;
            if got.status != 200 || world.registry.asked("HEAD /v2/a/b/manifests/latest").is_empty() {
                return Err(format!("shifted by {shift} ms the tag counts as fresh: {got:?}"));
            }
            world.rest().await?;
            world.finish().await?;
        }
        Ok(seen)
    })
}

/// As if the clock had been so much ahead when the rows were written.
async fn shift_rows(path: &std::path::Path, shift: i64) {
    use binaryrepo::meta::{Batch, Durability, Meta as _};
    let (meta, _) = RedbMeta::open(path, MetaOptions::default()).unwrap();
    let moved = |at: u64| at.saturating_add_signed(shift);
    let mut batch = Batch::new(Durability::Durable);
    for id in 1..4 {
        for (key, row) in meta.scan::<TagRow>(&RepositoryId(id), None, 10).unwrap() {
            batch.put(&key, &TagRow { checked_ms: moved(row.checked_ms), ..row });
        }
    }
    for (key, row) in meta.scan::<CopyRow>(&(), None, 10).unwrap() {
        batch.put(&key, &CopyRow { last_used_ms: moved(row.last_used_ms), ..row });
    }
    meta.apply(batch).await.unwrap();
    meta.close().await.unwrap();
}

fn l12(cell: Cell) -> Plan {
    match cell.phase {
        // While it is read: who has it open reads on; who comes next fetches it again.
        Phase::After => run(async move {
            let world = World::new(Setup { size: LARGE, ..Setup::default() }).await;
            world.cache_it().await?;
            let gate = Gate::closed();
            let slow = |_| {
                let mut ask = Ask::get(world.target("a/b"));
                ask.pause = Some((1, gate.clone()));
                world.ask(ask)
            };
            let clients: Vec<_> = (0..cell.clients()).map(slow).collect();
            world.until_at(&clients, 1).await?;
            std::fs::remove_file(world.blob_file()).map_err(|error| error.to_string())?;
            gate.open();
            let got = all(clients).await;
            let seen = whole(0).keeping(Kept::Nothing).check(&world, &got)?;
            world.rest().await?;
            let got = all(world.pulls(cell.clients())).await;
            world.rest().await?;
            whole(1).check(&world, &got)?;
            end(world).await?;
            Ok(format!("{seen}; then fetched again"))
        }),
        _ => run(async move {
            let strike = async |world: &World| {
                for draft in world.drafts() {
                    std::fs::remove_file(draft).unwrap();
                }
            };
            held(cell, Setup::default(), strike, whole(1).keeping(Kept::Nothing)).await
        }),
    }
}

fn l13(cell: Cell) -> Plan {
    let clients = cell.clients();
    match cell.phase {
        Phase::Head => run(from_the_start(cell, |disk| disk.panic(Call::Create), past(clients))),
        Phase::First => run(from_the_start(cell, |disk| disk.panic(Call::Reserve), past(clients))),
        Phase::Middle => run(async move {
            let strike = async |world: &World| world.disk.panic(Call::Write);
            held(cell, Setup::default(), strike, alone(clients)).await
        }),
        // The fill itself dies where it notes that it is done: the bytes are out already.
        Phase::Last => run(async move {
            let strike = async |world: &World| world.ledger.is(Mood::PanicsAtCopy);
            held(cell, Setup::default(), strike, whole(1)).await
        }),
        Phase::After => run(async move {
            let opens = |world: &World| world.disk.panic(Call::Open);
            after_expecting(cell, opens, refused(&[500], 0..=0).keeping(Kept::Blob)).await
        }),
    }
}

fn l14(cell: Cell) -> Plan {
    run(async move {
        let world = World::new(Setup { upstream: Options::default(), ..Setup::default() }).await;
        if cell.phase == Phase::After {
            world.cache_it().await?;
            let world = world.revive(None).await;
            let seen = whole(0).check(&world, &all(world.pulls(cell.clients())).await)?;
            world.finish().await?;
            return Ok(seen);
        }
        let (gate, clients) = hold(&world, cell, cell.clients()).await?;
        world.shutdown().await;
        gate.open();
        let got = all(clients).await;
        judge(&got)?;
        let expect = match cell.phase {
            Phase::Head => refused(&[503], 1..=1),
            _ => broken(1..=1),
        };
        let seen = expect.check(&world, &got)?;
        let kept = usize::from(cell.phase >= Phase::Middle);
        let left = async || world.drafts().len() == kept;
        world.until("its draft is kept, if it holds anything", left).await?;
        world.registry.forget();
        let world = world.revive(None).await;
        let got = all(world.pulls(cell.clients())).await;
        world.rest().await?;
        whole(1).check(&world, &got)?;
        let seen_range = world.registry.asked(&world.line())[0].range().map(str::to_owned);
        if (cell.phase >= Phase::Middle) != seen_range.is_some() {
            return Err(format!("the next start asked for {seen_range:?}"));
        }
        end(world).await?;
        Ok(format!("{seen}; then resumed"))
    })
}

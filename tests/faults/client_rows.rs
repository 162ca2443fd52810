//! K1 to K10: the clients do as they please.

use binaryrepo::engine::Purge;

use super::cells::{Cell, Phase, Plan, Row, run};
use super::client::{Ask, Client, Got};
use super::flows::{Kept, all, end, hold, next_client, refused, whole};
use super::signs::Sign::{Counted, Verdict};
use super::signs::told;
use super::support::fault::{Fault, Gate};
use super::world::{LARGE, SIZE, Setup, World, judge};

pub const ROWS: [Row; 10] = [
    Row {
        id: "K1",
        fault: "who came first leaves",
        // Who leaves after the end has all of it.
        told: &[told(Phase::BEFORE, &[Counted("requests_aborted")])],
        plan: k1,
    },
    Row {
        id: "K2",
        fault: "all leave",
        told: &[told(
            &[Phase::Head, Phase::First, Phase::Middle, Phase::Last, Phase::After],
            &[Verdict("blob", "hit")],
        )],
        plan: k2,
    },
    Row { id: "K3", fault: "one takes nothing any more", told: &[], plan: k3 },
    Row {
        id: "K4",
        fault: "they come late",
        told: &[told(&[Phase::Head, Phase::First, Phase::Middle], &[Verdict("blob", "joined")])],
        plan: k4,
    },
    Row { id: "K5", fault: "they want only a part", told: &[], plan: k5 },
    Row { id: "K6", fault: "they want only to know", told: &[], plan: k6 },
    Row {
        id: "K7",
        fault: "some have no right to it",
        told: &[told(Phase::BODY, &[Verdict("blob", "joined")])],
        plan: k7,
    },
    Row { id: "K8", fault: "it is purged", told: &[], plan: k8 },
    Row { id: "K9", fault: "the same content is pushed", told: &[], plan: k9 },
    Row {
        id: "K10",
        fault: "a tag expires, and all ask for it",
        told: &[told(&[Phase::Head], &[Verdict("manifest", "revalidated")])],
        plan: k10,
    },
];

/// At the phase, with so many clients; after it, the blob lies here and they read it.
async fn at_phase(world: &World, cell: Cell, clients: usize) -> Result<(Gate, Vec<Client>), String> {
    if cell.phase != Phase::After {
        return hold(world, cell, clients).await;
    }
    world.cache_it().await?;
    let gate = Gate::closed();
    let slow = |_| {
        let mut ask = Ask::get(world.target("a/b"));
        ask.pause = Some((1, gate.clone()));
        world.ask(ask)
    };
    let clients: Vec<_> = (0..clients).map(slow).collect();
    world.until_at(&clients, 1).await?;
    Ok((gate, clients))
}

/// One GET brought it here, unless it lay here already.
fn fetched(cell: Cell) -> usize {
    usize::from(cell.phase != Phase::After)
}

fn k1(cell: Cell) -> Plan {
    run(async move {
        let world = World::new(Setup::default()).await;
        let (gate, mut clients) = at_phase(&world, cell, cell.clients()).await?;
        clients.remove(0).leave().await;
        if cell.phase == Phase::Head {
            // It is noticed before the head comes.
            world.until_waiting(cell.clients() - 1).await?;
        }
        gate.open();
        let got = all(clients).await;
        world.rest().await?;
        let seen = whole(fetched(cell)).check(&world, &got)?;
        end(world).await?;
        Ok(if got.is_empty() { "nobody is left; the fetch ends well".to_owned() } else { seen })
    })
}

fn k2(cell: Cell) -> Plan {
    run(async move {
        let world = World::new(Setup::default()).await;
        let (gate, clients) = at_phase(&world, cell, cell.clients()).await?;
        for client in clients {
            client.leave().await;
        }
        gate.open();
        world.rest().await?;
        let got = world.pull("a/b").got().await;
        let seen = whole(fetched(cell)).check(&world, &[got])?;
        end(world).await?;
        Ok(format!("the fetch goes on to its end; who comes next: {seen}"))
    })
}

fn k3(cell: Cell) -> Plan {
    if cell.phase == Phase::Head {
        return Plan::Impossible("there is nothing yet that it could fail to take");
    }
    run(async move {
        let world = World::new(Setup { size: LARGE, ..Setup::default() }).await;
        if cell.phase == Phase::After {
            world.cache_it().await?;
        }
        let gate = Gate::closed();
        let mut slow = Ask::get(world.target("a/b"));
        let at = cell.phase.at(LARGE as u64 / 2).max(1);
        slow.pause = Some((at, gate.clone()));
        let slow = world.ask(slow);
        let others = world.pulls(cell.clients() - 1);
        // The others come to their end while one stands still.
        let mut got = all(others).await;
        let gone = async || slow.bytes() >= at;
        world.until("the slow one has come to its place", gone).await?;
        if slow.is_done() {
            return Err("the slow one is done before the others: nothing was shown".to_owned());
        }
        gate.open();
        got.push(slow.got().await);
        world.rest().await?;
        let seen = whole(fetched(cell)).check(&world, &got)?;
        end(world).await?;
        Ok(seen)
    })
}

fn k4(cell: Cell) -> Plan {
    run(async move {
        let world = World::new(Setup::default()).await;
        let (gate, mut clients) = at_phase(&world, cell, 1).await?;
        clients.extend(world.pulls(cell.clients()));
        match cell.phase {
            Phase::Head => world.until_waiting(cell.clients() + 1).await?,
            // At the very moment at which it is published: half of them before, half after.
            Phase::Last => tokio::task::yield_now().await,
            phase => world.until_at(&clients, phase.at(SIZE as u64).min(1)).await?,
        }
        gate.open();
        if cell.phase == Phase::Last {
            clients.extend(world.pulls(cell.clients()));
        }
        let got = all(clients).await;
        world.rest().await?;
        let seen = whole(fetched(cell)).check(&world, &got)?;
        end(world).await?;
        // Right after a failure: a fresh fetch, or the failure again, but never half a body.
        if cell.phase == Phase::First {
            right_after_a_failure(cell).await?;
        }
        Ok(seen)
    })
}

async fn right_after_a_failure(cell: Cell) -> Result<(), String> {
    let world = World::new(Setup::default()).await;
    world.registry.script(&world.line(), vec![Fault::status(404); 1]);
    let first = world.pull("a/b").got().await;
    let got = all(world.pulls(cell.clients())).await;
    refused(&[404], 1..=1).check(&world, &[vec![first], got].concat())?;
    end(world).await
}

fn k5(cell: Cell) -> Plan {
    run(async move {
        let world = World::new(Setup::default()).await;
        let (gate, leader) = at_phase(&world, cell, 1).await?;
        let last = SIZE - 1;
        let middle = SIZE / 2;
        let ranges = [
            format!("bytes=0-{}", 999),
            format!("bytes={middle}-{}", middle + 999),
            "bytes=-10".to_owned(),
            format!("bytes={last}-"),
            format!("bytes={SIZE}-"),
        ];
        let ask = |number: usize| {
            let range = &ranges[number % ranges.len()];
            world.ask(Ask::get(world.target("a/b")).with("range", range))
        };
        let asked = cell.clients().max(ranges.len());
        let parts: Vec<_> = (0..asked).map(ask).collect();
        // Parts that are here already need no more than that.
        if matches!(cell.phase, Phase::Last | Phase::After) {
            let done = async || parts[0].is_done() && parts[1].is_done();
            world.until("what is here is served", done).await?;
        }
        gate.open();
        let got = all(parts).await;
        let whole_one = all(leader).await;
        world.rest().await?;
        judge(&got)?;
        for (number, one) in got.iter().enumerate() {
            let fits = match number % ranges.len() {
                4 => one.status == 416 && one.header("content-range") == Some(&format!("bytes */{SIZE}")[..]),
                _ => one.status == 206 && one.is_whole(),
            };
            if !fits {
                return Err(format!("{}: {one:?}", ranges[number % ranges.len()]));
            }
        }
        whole(fetched(cell)).check(&world, &whole_one)?;
        end(world).await?;
        Ok("each its part, or 416; no further GET".to_owned())
    })
}

fn k6(cell: Cell) -> Plan {
    run(async move {
        let world = World::new(Setup::default()).await;
        let (gate, leader) = at_phase(&world, cell, 1).await?;
        let has_it = format!("\"{}\"", world.layer.digest);
        let heads: Vec<_> = (0..cell.clients())
            .map(|_| world.ask(Ask { method: "HEAD", ..Ask::get(world.target("a/b")) }))
            .collect();
        let conditional: Vec<_> = (0..cell.clients())
            .map(|_| world.ask(Ask::get(world.target("a/b")).with("if-none-match", &has_it)))
            .collect();
        // Neither waits for the fetch.
        let (heads, conditional) = (all(heads).await, all(conditional).await);
        let size = SIZE.to_string();
        if let Some(other) =
            heads.iter().find(|one| one.status != 200 || one.header("content-length") != Some(&size))
        {
            return Err(format!("a HEAD: {other:?}"));
        }
        if let Some(other) = conditional.iter().find(|one| one.status != 304) {
            return Err(format!("If-None-Match: {other:?}"));
        }
        gate.open();
        let got = all(leader).await;
        world.rest().await?;
        whole(fetched(cell)).check(&world, &got)?;
        end(world).await?;
        Ok("200 with its length, or 304; no further GET".to_owned())
    })
}

fn k7(cell: Cell) -> Plan {
    run(async move {
        let world = World::new(Setup::default()).await;
        // An image that has not got the blob, and one that has it without a manifest that says so.
        world.registry.add_image("x/stranger", "latest", &super::support::image::Image::new(9, &[10]));
        world.registry.shelf().add_blob("x/friend", &world.layer);
        let (gate, leader) = at_phase(&world, cell, 1).await?;
        let strangers: Vec<_> = (0..cell.clients()).map(|_| world.pull("x/stranger")).collect();
        let friends: Vec<_> = (0..cell.clients()).map(|_| world.pull("x/friend")).collect();
        if matches!(cell.phase, Phase::First | Phase::Middle | Phase::Last) {
            // They are told apart at once, not when the fetch is over.
            let told = async || strangers.iter().all(Client::is_done) && friends.iter().all(Client::has_head);
            world.until("everybody knows", told).await?;
        }
        gate.open();
        let (strangers, friends) = (all(strangers).await, all(friends).await);
        let leader = all(leader).await;
        world.rest().await?;
        if let Some(other) = strangers.iter().find(|one| one.status != 404) {
            return Err(format!("a stranger got {other:?}"));
        }
        if let Some(other) = friends.iter().find(|one| !one.is_whole()) {
            return Err(format!("a friend got {other:?}"));
        }
        whole(fetched(cell)).check(&world, &leader)?;
        // A proof is a byte; the blob itself came once.
        let sent: u64 =
            world.registry.asked(&world.layer.digest.to_string()).iter().map(|seen| seen.bytes_sent).sum();
        let most = SIZE as u64 * fetched(cell) as u64 + SIZE as u64 / 2;
        if sent > most {
            return Err(format!("the upstream sent {sent} bytes"));
        }
        end(world).await?;
        Ok("404 for strangers, whole with a proof of one's own; one GET of all bytes".to_owned())
    })
}

fn k8(cell: Cell) -> Plan {
    run(async move {
        let world = World::new(Setup::default()).await;
        let (gate, clients) = at_phase(&world, cell, cell.clients()).await?;
        let purged = world.engine.purge(&"hub".parse().unwrap(), Purge::Digest(world.layer.digest)).await;
        purged.map_err(|error| error.message)?;
        gate.open();
        let got = all(clients).await;
        world.rest().await?;
        let kept = if cell.phase == Phase::After { Kept::Nothing } else { Kept::Blob };
        let seen = whole(fetched(cell)).keeping(kept).check(&world, &got)?;
        end(world).await?;
        Ok(seen)
    })
}

fn k9(cell: Cell) -> Plan {
    run(async move {
        let world = World::new(Setup::default()).await;
        let (gate, clients) = at_phase(&world, cell, cell.clients()).await?;
        let pushed = push(&world).await;
        if pushed.status != 201 {
            return Err(format!("the push got {pushed:?}"));
        }
        gate.open();
        let got = all(clients).await;
        world.rest().await?;
        let seen = whole(fetched(cell)).check(&world, &got)?;
        next_client(&world).await?;
        // What was pushed is there, synced, pinned, and pulled back from where it was pushed to.
        let pinned = world.engine.status().await.counts.pinned_bytes;
        if pinned != SIZE as u64 {
            return Err(format!("{pinned} bytes are pinned"));
        }
        let world = world.revive(None).await;
        let own = format!("/v2/own/x/y/blobs/{}", world.layer.digest);
        let got = world.ask(Ask::get(own)).got().await;
        if !got.is_whole() {
            return Err(format!("what was pushed: {got:?}"));
        }
        world.finish().await?;
        Ok(format!("201; {seen}"))
    })
}

/// In one request.
async fn push(world: &World) -> Got {
    let target = format!("/v2/own/x/y/blobs/uploads/?digest={}", world.layer.digest);
    let ask = Ask { method: "POST", body: world.layer.bytes.clone(), ..Ask::get(target) };
    world.ask(ask.with("content-type", "application/octet-stream")).got().await
}

fn k10(cell: Cell) -> Plan {
    match cell.phase {
        Phase::Head | Phase::After => {}
        _ => return Plan::Impossible("what a tag names now is told by a head alone"),
    }
    run(async move {
        let ttl = if cell.phase == Phase::Head { 0 } else { 3_600 };
        let change = move |spec: &mut binaryrepo::engine::RemoteSpec| {
            spec.tag_ttl = std::time::Duration::from_secs(ttl);
        };
        let world = World::new(Setup { change: Box::new(change), ..Setup::default() }).await;
        world.cache_it().await?;
        let gate = Gate::closed();
        let line = "HEAD /v2/a/b/manifests/latest";
        world.registry.script(line, [Fault::Hold(gate.clone())]);
        let tag = || Ask::get("/v2/hub/a/b/manifests/latest".to_owned());
        let clients: Vec<_> = (0..cell.clients()).map(|_| world.ask(tag())).collect();
        if cell.phase == Phase::Head {
            world.until_waiting(cell.clients()).await?;
        }
        gate.open();
        let got = all(clients).await;
        if let Some(other) = got.iter().find(|one| one.status != 200) {
            return Err(format!("a manifest: {other:?}"));
        }
        let heads = world.registry.asked(line).len();
        if heads != fetched(cell) || !world.registry.asked("GET /v2/a/b/manifests/").is_empty() {
            return Err(format!("{heads} HEADs: {:?}", world.registry.log()));
        }
        end(world).await?;
        Ok(if heads == 1 { "200; one HEAD".to_owned() } else { "200; nothing was asked".to_owned() })
    })
}

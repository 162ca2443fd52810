//! How a cell goes: the clients come, it goes wrong, everybody is looked at, and then the next client.

use std::ops::RangeInclusive;

use super::cells::{Cell, Phase};
use super::client::{Client, Got};
use super::support::fault::{Fault, Gate};
use super::world::{Setup, World, judge};

/// What every client must have got.
#[derive(Clone, Copy)]
pub enum Clients {
    Whole,
    /// A status, and nothing of the blob.
    Refused(&'static [u16]),
    /// A body that broke off.
    Broken,
    /// Whole, or a body that broke off; never a wrong one that looks whole.
    WholeOrBroken,
    /// Past the cache, as many as may be at once; the others a 503 that says when to come again.
    Bypass,
}

/// What must lie under the digest when all is quiet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    Blob,
    Nothing,
    /// Who came last decides.
    Either,
}

pub struct Expect {
    pub clients: Clients,
    pub kept: Kept,
    /// Of the blob, by the upstream's own log.
    pub gets: RangeInclusive<usize>,
}

pub fn whole(gets: usize) -> Expect {
    Expect { clients: Clients::Whole, kept: Kept::Blob, gets: gets..=gets }
}

pub fn refused(statuses: &'static [u16], gets: RangeInclusive<usize>) -> Expect {
    Expect { clients: Clients::Refused(statuses), kept: Kept::Nothing, gets }
}

pub fn broken(gets: RangeInclusive<usize>) -> Expect {
    Expect { clients: Clients::Broken, kept: Kept::Nothing, gets }
}

/// Fetching past the cache at once, as the engine allows.
pub const PLACES: usize = 32;

impl Expect {
    pub fn keeping(self, kept: Kept) -> Self {
        Self { kept, ..self }
    }

    /// Everybody, the upstream's log, and the disk. Answers what was seen.
    pub fn check(&self, world: &World, got: &[Got]) -> Result<String, String> {
        let seen = self.check_answers(got, world.gets())?;
        let kept = match (self.kept, world.lies_here()?) {
            (Kept::Either, _) => return Ok(seen),
            (Kept::Blob, true) => "kept",
            (Kept::Nothing, false) => "nothing kept",
            (_, lies) => return Err(format!("that the blob lies here now is {lies}")),
        };
        Ok(format!("{seen}; {kept}"))
    }

    /// The same without the disk.
    pub fn check_answers(&self, got: &[Got], gets: usize) -> Result<String, String> {
        judge(got)?;
        let all = |holds: &dyn Fn(&Got) -> bool, what: &str| match got.iter().find(|one| !holds(one)) {
            None => Ok(()),
            Some(other) => Err(format!("should be {what}: {other:?}")),
        };
        match self.clients {
            Clients::Whole => all(&Got::is_whole, "whole")?,
            Clients::Refused(statuses) => all(&|one| statuses.contains(&one.status), "refused")?,
            // Who was not sent the head yet is refused.
            Clients::Broken => all(&|one| one.is_broken() || one.status >= 400, "broken off")?,
            Clients::WholeOrBroken => all(&|one| one.is_whole() || one.is_broken(), "whole or broken off")?,
            Clients::Bypass => {
                let past = |one: &Got| one.is_whole() && one.header("x-cache") == Some("bypass");
                let later =
                    |one: &Got| one.status == 503 && one.retry_after().is_some_and(|after| after <= 300);
                all(&|one| past(one) || later(one), "served past the cache, or told to come again")?;
                let served = got.iter().filter(|one| past(one)).count();
                if served < got.len().min(PLACES) {
                    return Err(format!("only {served} of {} were served past the cache", got.len()));
                }
            }
        }
        if !self.gets.contains(&gets) {
            return Err(format!("the upstream got {gets} GETs, not {:?}", self.gets));
        }
        Ok(format!("{}; {}", self.words(), self.count()))
    }

    /// The same whoever happened to be faster.
    fn words(&self) -> String {
        match self.clients {
            Clients::Whole => "whole".to_owned(),
            Clients::Refused(statuses) => {
                statuses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
            }
            Clients::Broken => "broken short, or refused".to_owned(),
            Clients::WholeOrBroken => "whole, or broken short".to_owned(),
            Clients::Bypass => format!("past the cache, {PLACES} at once; others 503"),
        }
    }

    fn count(&self) -> String {
        match (self.gets.start(), self.gets.end()) {
            (1, 1) => "1 GET".to_owned(),
            (least, most) if least == most => format!("{most} GETs"),
            (_, most) => format!("at most {most} GETs"),
        }
    }
}

pub async fn all(clients: Vec<Client>) -> Vec<Got> {
    let mut got = Vec::new();
    for client in clients {
        got.push(client.got().await);
    }
    got
}

/// The upstream goes wrong while all clients wait for its head. After it, the blob lies here and the upstream is not
/// asked at all.
pub async fn upstream(
    cell: Cell,
    setup: Setup,
    faults: Vec<Fault>,
    expect: Expect,
) -> Result<String, String> {
    let world = World::new(setup).await;
    let (got, expect) = if cell.phase == Phase::After {
        world.cache_it().await?;
        for fault in faults {
            world.registry.always(&world.line(), fault);
        }
        (all(world.pulls(cell.clients())).await, whole(0))
    } else {
        let gate = Gate::closed();
        let mut faults = faults.into_iter();
        let first = vec![Fault::Hold(gate.clone()), faults.next().unwrap_or(Fault::None)];
        world.registry.script(&world.line(), std::iter::once(Fault::All(first)).chain(faults));
        let clients = world.pulls(cell.clients());
        world.until_waiting(cell.clients()).await?;
        gate.open();
        (all(clients).await, expect)
    };
    world.rest().await?;
    let seen = expect.check(&world, &got)?;
    end(world).await?;
    Ok(seen)
}

/// The upstream holds at the phase; then something else goes wrong, and the upstream goes on.
pub async fn held(
    cell: Cell,
    setup: Setup,
    strike: impl AsyncFnOnce(&World),
    expect: Expect,
) -> Result<String, String> {
    let world = World::new(setup).await;
    let (gate, clients) = hold(&world, cell, cell.clients()).await?;
    strike(&world).await;
    gate.open();
    let got = all(clients).await;
    world.rest().await?;
    let seen = expect.check(&world, &got)?;
    world.disk.heal();
    end(world).await?;
    Ok(seen)
}

/// So many clients, all at the phase, and the gate that lets the upstream go on.
pub async fn hold(world: &World, cell: Cell, clients: usize) -> Result<(Gate, Vec<Client>), String> {
    let gate = Gate::closed();
    let at = cell.phase.at(world.layer.size());
    let fault = match cell.phase {
        Phase::Head => Fault::Hold(gate.clone()),
        _ => Fault::HoldAt(at, gate.clone()),
    };
    world.registry.script(&world.line(), [fault]);
    let pulls = world.pulls(clients);
    match cell.phase {
        Phase::Head => world.until_waiting(clients).await?,
        _ => world.until_at(&pulls, at).await?,
    }
    world.until_asked().await?;
    Ok((gate, pulls))
}

/// The end of every cell: somebody comes afterwards, and then nothing is under way and everything in order.
pub async fn end(world: World) -> Result<(), String> {
    next_client(&world).await?;
    world.finish().await
}

/// Whatever happened: who comes through another image gets the right bytes, and the key is free.
pub async fn next_client(world: &World) -> Result<(), String> {
    world.registry.behave();
    let got = world.pull("a/c").got().await;
    if !got.is_whole() {
        return Err(format!("the next client, through another image, is not served: {got:?}"));
    }
    world.rest().await?;
    if world.lies_here()? { Ok(()) } else { Err("the next client's fetch is not kept".to_owned()) }
}

//! Owns transfers that break in the middle: the upstream's, a client's, the server's own.
//! Must not know: what a fill is.

use crate::clients::{ALL, Client};
use crate::front::Weather;
use crate::images::{Family, Image};
use crate::trouble::{Context, Outcome, ensure};
use crate::world::{REMOTE, World, expect_cold, step};

const MB: u64 = 1 << 20;
/// The layer takes four seconds on it.
const LINE: u64 = 8 * MB;
const LAYER: usize = 32 << 20;

/// Podman and skopeo do not try a broken transfer again, so all depends on the server.
pub fn upstream(world: &mut World) -> Outcome {
    world.serve()?;
    for client in ALL {
        let (reference, image) = publish(world, &format!("broken/{}", client.name()))?;
        world.ready(client)?;
        world.front.set(Weather::Breaking(5 * MB));
        let mark = world.front.mark();
        let pulled = world.clients.pull(client, &reference, &image);
        world.front.set(Weather::Fair);
        let log = world.front.since(mark);
        pulled.context(format!("the upstream breaks off after 5 MB\n{}", log.lines()))?;
        let resumed = log.resumed_at(&largest(&image));
        ensure!(!resumed.is_empty(), "nobody asked the upstream for the rest:\n{}", log.lines());
        step(&format!("{} has all of it; the rest was fetched from byte {resumed:?}", client.name()));
    }
    Ok(())
}

/// A client that goes away takes nothing with it: the next finds what was fetched, and the fetching going on.
pub fn client(world: &mut World) -> Outcome {
    world.serve()?;
    world.ready(Client::Podman)?;
    let (reference, image) = publish(world, "broken/client")?;
    world.front.set(Weather::Slow(LINE));
    let mark = world.front.mark();
    let left = world.clients.interrupted(Client::Skopeo, &reference, 2);
    let pulled = world.clients.pull(Client::Podman, &reference, &image);
    world.front.set(Weather::Fair);
    left?;
    pulled.context("after another client has gone away")?;
    expect_cold(&world.front.since(mark), &[&image])
}

/// Killed while it fetches, the server goes on where it was.
pub fn server(world: &mut World) -> Outcome {
    world.serve()?;
    let (reference, image) = publish(world, "broken/server")?;
    world.front.set(Weather::Slow(LINE));
    let left = world.clients.interrupted(Client::Skopeo, &reference, 3);
    world.server.take().expect("serving").kill();
    world.front.set(Weather::Fair);
    left?;
    let mark = world.front.mark();
    world.serve()?;
    world.clients.pull(Client::Skopeo, &reference, &image)?;
    let log = world.front.since(mark);
    let resumed = log.resumed_at(&largest(&image));
    ensure!(!resumed.is_empty(), "what was fetched before the kill was fetched again:\n{}", log.lines());
    step(&format!("went on at byte {resumed:?} of {LAYER}"));
    Ok(())
}

fn publish(world: &World, name: &str) -> Outcome<(String, Image)> {
    let image = world.maker.image(Family::Docker, &[1024, LAYER]);
    world.upstream.publish(name, "1", &image)?;
    Ok((format!("{REMOTE}/{name}:1"), image))
}

fn largest(image: &Image) -> String {
    let layer = image.layers.iter().max_by_key(|layer| layer.bytes.len());
    layer.map(|layer| layer.digest.clone()).unwrap_or_default()
}

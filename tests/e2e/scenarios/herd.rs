//! Owns many clients at once on one cold image. Must not know: an upstream that fails.

use crate::clients::ALL;
use crate::front::Weather;
use crate::images::{Family, Image};
use crate::trouble::{Outcome, Trouble, ensure};
use crate::wire::Origin;
use crate::world::{REMOTE, World, expect_cold, step};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const HERD: usize = 50;
/// Slow enough that the line is what everybody waits for, on a small machine too.
const LINE: u64 = 8 << 20;

/// What one client has seen of the largest layer.
struct Pull {
    first_byte: Duration,
}

/// Every client asks as a real one does, the manifest by tag and then all blobs, and hashes what it gets.
pub fn raw(world: &mut World) -> Outcome {
    world.serve()?;
    let image = world.maker.image(Family::Docker, &[1 << 10, 1 << 20, 24 << 20]);
    world.upstream.publish("herd/raw", "1", &image)?;
    let origin = world.through_nginx(REMOTE)?;
    world.front.set(Weather::Slow(LINE));
    let mark = world.front.mark();
    let begun = Instant::now();
    let pulls = world.runtime.block_on(herd(origin, "herd/raw", &image));
    world.front.set(Weather::Fair);
    let pulls = pulls?;
    let took = begun.elapsed();
    expect_cold(&world.front.since(mark), &[&image])?;
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    let ideal = image.blob_bytes() as f64 / LINE as f64;
    let ratio = took.as_secs_f64() / ideal;
    let median = pulls[pulls.len() / 2].first_byte;
    step(&format!(
        "{HERD} clients, {} MB each, in {took:.1?}: {ratio:.2} of the ideal, median first byte {median:.0?}",
        image.blob_bytes() >> 20
    ));
    // A cache that fetches for each client anew takes the line as many times as there are clients.
    let shared = ratio < HERD as f64 / 10.0;
    ensure!(shared, "{HERD} clients took {ratio:.1} times as long as one alone would");
    Ok(())
}

async fn herd(origin: Origin, name: &str, image: &Image) -> Outcome<Vec<Pull>> {
    let mut clients = JoinSet::new();
    for _ in 0..HERD {
        clients.spawn(one_client(origin.clone(), name.to_owned(), image.clone()));
    }
    let mut pulls = Vec::new();
    while let Some(pull) = clients.join_next().await {
        pulls.push(pull??);
    }
    pulls.sort_by_key(|pull| pull.first_byte);
    Ok(pulls)
}

async fn one_client(origin: Origin, name: String, image: Image) -> Outcome<Pull> {
    let manifest = origin.get(&format!("/v2/{name}/manifests/1")).await?;
    ensure!(manifest.status() == 200, "the manifest was answered {}: {}", manifest.status(), manifest.text);
    ensure!(manifest.digest == image.manifest.digest, "the manifest has changed");
    let mut blobs = JoinSet::new();
    for blob in image.blobs() {
        let (origin, path, digest) =
            (origin.clone(), format!("/v2/{name}/blobs/{}", blob.digest), blob.digest.clone());
        blobs.spawn(async move {
            let answer = origin.get(&path).await?;
            ensure!(answer.status() == 200, "{path} was answered {}: {}", answer.status(), answer.text);
            ensure!(answer.digest == digest, "{path} came with {} bytes as {}", answer.length, answer.digest);
            Ok::<_, Trouble>((answer.length, answer.first_byte))
        });
    }
    let mut largest = (0, Duration::ZERO);
    while let Some(blob) = blobs.join_next().await {
        largest = largest.max(blob??);
    }
    Ok(Pull { first_byte: largest.1 })
}

pub fn mixed(world: &mut World) -> Outcome {
    world.serve()?;
    for client in ALL {
        world.ready(client)?;
    }
    let image = world.maker.image(Family::Docker, &[1 << 10, 1 << 20, 20 << 20]);
    world.upstream.publish("herd/mixed", "1", &image)?;
    let reference = format!("{REMOTE}/herd/mixed:1");
    world.front.set(Weather::Slow(LINE));
    let mark = world.front.mark();
    let (clients, begun) = (&world.clients, Instant::now());
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let pulls = ALL.map(|client| {
            scope.spawn({
                let (reference, image) = (&reference, &image);
                move || clients.pull(client, reference, image)
            })
        });
        pulls.map(|pull| pull.join().unwrap_or_else(|_| Err("a client's thread has died".into()))).into()
    });
    world.front.set(Weather::Fair);
    outcomes.into_iter().collect::<Outcome>()?;
    step(&format!("four clients in {:.1?}", begun.elapsed()));
    expect_cold(&world.front.since(mark), &[&image])
}

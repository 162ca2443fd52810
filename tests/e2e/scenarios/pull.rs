//! Owns single pulls, cold and warm, by every client and every way to address a repository.
//! Must not know: a failing upstream.

use crate::clients::Client;
use crate::front::{CDN, ON_CDN};
use crate::images::{Family, Image, native};
use crate::process::run;
use crate::trouble::{Context, Outcome, ensure};
use crate::world::{OWN_NAME, PRIVATE, REMOTE, World, expect_warm, step};
use std::time::Instant;

const KB: usize = 1024;
const MB: usize = 1024 * KB;
const SIZES: [usize; 4] = [KB, 64 * KB, MB, 8 * MB];

pub fn docker(world: &mut World) -> Outcome {
    both_families(world, Client::Docker)?;
    let said =
        run("docker").args(["run", "--rm", &format!("{REMOTE}/team/docker-oci:1"), "pulled"]).success()?;
    ensure!(said.contains("hello from pulled"), "the pulled image said {said}");
    Ok(())
}

pub fn podman(world: &mut World) -> Outcome {
    both_families(world, Client::Podman)
}

pub fn skopeo(world: &mut World) -> Outcome {
    both_families(world, Client::Skopeo)
}

pub fn ctr(world: &mut World) -> Outcome {
    both_families(world, Client::Ctr)
}

fn both_families(world: &mut World, client: Client) -> Outcome {
    for (word, family) in [("docker", Family::Docker), ("oci", Family::Oci)] {
        let name = format!("team/{}-{word}", client.name());
        let image = world.maker.image(family, &SIZES);
        pull(world, client, &name, &format!("{REMOTE}/{name}:1"), &image)?;
    }
    Ok(())
}

/// Publishes the image under the upstream's name and pulls it by the reference.
fn pull(world: &mut World, client: Client, name: &str, reference: &str, image: &Image) -> Outcome {
    world.serve()?;
    world.upstream.publish(name, "1", image)?;
    world.cold_and_warm(client, reference, image)
}

pub fn direct(world: &mut World) -> Outcome {
    let image = world.maker.image(Family::Docker, &SIZES);
    pull(world, Client::Docker, "team/direct", "localhost:8081/docker-remote/team/direct:1", &image)?;
    // One component, as on Docker Hub: the upstream must be asked for library/.
    let image = world.maker.image(Family::Docker, &[KB]);
    pull(world, Client::Docker, "library/short", "localhost:8081/docker-remote/short:1", &image)
}

pub fn own_name(world: &mut World) -> Outcome {
    for client in [Client::Docker, Client::Skopeo] {
        let name = format!("team/own-{}", client.name());
        let image = world.maker.image(Family::Docker, &SIZES);
        pull(world, client, &name, &format!("{OWN_NAME}/{name}:1"), &image)?;
    }
    Ok(())
}

pub fn large(world: &mut World) -> Outcome {
    let image = world.maker.image(Family::Docker, &[KB, 30 * KB, 500 * KB, 20 * MB, 200 * MB]);
    pull(world, Client::Docker, "team/large", &format!("{REMOTE}/team/large:1"), &image)?;
    let mark = world.front.mark();
    for client in [Client::Podman, Client::Skopeo, Client::Ctr] {
        world.ready(client)?;
        let begun = Instant::now();
        world.clients.pull(client, &format!("{REMOTE}/team/large:1"), &image)?;
        step(&format!(
            "{:<7}has the same {} MB: warm {:.1?}",
            client.name(),
            image.blob_bytes() / MB,
            begun.elapsed()
        ));
    }
    expect_warm(&world.front.since(mark)).context("the other clients, warm")
}

pub fn index(world: &mut World) -> Outcome {
    world.serve()?;
    for client in crate::clients::ALL {
        world.ready(client)?;
        let name = format!("team/index-{}", client.name());
        let index = world.maker.index(Family::Oci, &[KB, MB]);
        world.upstream.publish_index(&name, "1", &index)?;
        let reference = format!("{REMOTE}/{name}:1");
        let image = index.images.iter().find(|image| image.architecture == native()).expect("both are there");
        let mark = world.front.mark();
        world.clients.pull(client, &reference, image)?;
        let log = world.front.since(mark);
        let (blobs, manifests) = (log.blob_gets(), log.manifest_gets());
        let asked = image.blobs().all(|blob| blobs.get(&blob.digest) == Some(&1))
            && blobs.len() == image.blobs().count();
        ensure!(asked, "{} asked for other blobs than its own:\n{}", client.name(), log.lines());
        ensure!(
            manifests.values().sum::<usize>() == 2,
            "wanted two manifests, one GET each:\n{}",
            log.lines()
        );
        let mark = world.front.mark();
        world.clients.pull(client, &reference, image)?;
        expect_warm(&world.front.since(mark))?;
        step(&format!("{:<7}{reference}: {} only", client.name(), native()));
    }
    Ok(())
}

pub fn cdn(world: &mut World) -> Outcome {
    let name = format!("{ON_CDN}image");
    let image = world.maker.image(Family::Docker, &SIZES);
    let mark = world.front.mark();
    pull(world, Client::Skopeo, &name, &format!("{REMOTE}/{name}:1"), &image)?;
    let delivered =
        world.front.since(mark).count(|seen| seen.host.starts_with(CDN) && seen.status == Some(200));
    let wanted = image.blobs().count();
    ensure!(delivered == wanted, "the CDN delivered {delivered} blobs instead of {wanted}");
    Ok(())
}

pub fn private(world: &mut World) -> Outcome {
    let image = world.maker.image(Family::Docker, &[KB, MB]);
    pull(world, Client::Docker, "private/image", &format!("{PRIVATE}/private/image:1"), &image)?;
    let refused = world.clients.try_pull(Client::Skopeo, &format!("{REMOTE}/private/image:1"))?.failure()?;
    ensure!(
        !refused.contains("unauthorized"),
        "the upstream's refusal looks like the client's own: {refused}"
    );
    step("a remote without credentials shows nothing of it");
    Ok(())
}

/// `docker pull mirrored:1`: the client believes that it talks to Docker Hub.
pub fn mirror_docker(world: &mut World) -> Outcome {
    let image = world.maker.image(Family::Docker, &SIZES);
    pull(world, Client::Docker, "library/mirrored-docker", "mirrored-docker:1", &image)?;
    world.docker()?.use_mirror("http://localhost:8081/")?;
    step("now by the default mirror, without a name of its own");
    let image = world.maker.image(Family::Docker, &SIZES);
    pull(world, Client::Docker, "team/mirrored-default", "team/mirrored-default:1", &image)?;
    world.docker()?.use_mirror(&format!("https://{REMOTE}/"))
}

pub fn mirror_podman(world: &mut World) -> Outcome {
    let image = world.maker.image(Family::Oci, &SIZES);
    pull(world, Client::Podman, "library/mirrored-podman", "docker.io/library/mirrored-podman:1", &image)
}

/// containerd says `?ns=docker.io` to a host that is no repository.
pub fn mirror_ctr(world: &mut World) -> Outcome {
    let image = world.maker.image(Family::Oci, &SIZES);
    pull(world, Client::Ctr, "library/mirrored-ctr", "docker.io/library/mirrored-ctr:1", &image)
}

//! Owns what clients see while tags move, the upstream fails, or the server itself goes away.
//! Must not know: how an upstream fails.

use crate::clients::{ALL, Client};
use crate::front::Weather;
use crate::images::Family;
use crate::process::run;
use crate::trouble::{Context, Outcome, ensure};
use crate::wire::Answer;
use crate::world::{REMOTE, SHORT, SHORT_TTL, World, expect_warm, step};
use std::thread::sleep;
use std::time::Duration;

/// A cached tag is answered within two seconds whatever the upstream does; the rest is this machine's. Who waits for a
/// silent upstream waits for fifteen.
const PROMISED: Duration = Duration::from_secs(10);

pub fn push_refused(world: &mut World) -> Outcome {
    world.serve()?;
    world.ready(Client::Docker)?;
    let image = world.maker.image(Family::Docker, &[1024]);
    world.upstream.publish("team/pushed", "1", &image)?;
    let reference = format!("{REMOTE}/team/pushed:1");
    world.clients.pull(Client::Skopeo, &reference, &image)?;
    let source = format!("dir:{}", world.clients.skopeo_dir(&reference).display());
    let target = format!("docker://{REMOTE}/team/pushed:2");
    let said = run("skopeo").args(["copy", &source, &target]).done()?.failure()?;
    shows_where("skopeo", &said)?;
    world.clients.pull(Client::Docker, &reference, &image)?;
    let said = run("docker").args(["push", &reference]).done()?.failure()?;
    shows_where("docker", &said)?;
    Ok(())
}

/// The server's sentence must reach the person.
fn shows_where(client: &str, said: &str) -> Outcome {
    let sentence = said.lines().find(|line| line.contains("docker-local"));
    let sentence = sentence.ok_or_else(|| format!("{client} does not show where to push instead: {said}"))?;
    step(&format!("{client}: {sentence}"));
    Ok(())
}

pub fn tags(world: &mut World) -> Outcome {
    world.serve()?;
    let (first, second) =
        (world.maker.image(Family::Docker, &[1024]), world.maker.image(Family::Docker, &[1024]));
    world.upstream.publish("team/moving", "latest", &first)?;
    let reference = format!("{SHORT}/team/moving:latest");
    world.clients.pull(Client::Skopeo, &reference, &first)?;
    // However long the pull took: the tag is fresh for a second from now.
    tag(world)?;
    let answer = tag(world)?;
    ensure!(
        answer.header("x-cache") == "hit",
        "a fresh tag was answered with X-Cache: {}",
        answer.header("x-cache")
    );

    sleep(SHORT_TTL);
    let mark = world.front.mark();
    let answer = tag(world)?;
    let word = answer.header("x-cache");
    ensure!(word == "revalidated", "an old tag that has not moved was answered with X-Cache: {word}");
    expect_warm(&world.front.since(mark)).context("a HEAD is enough")?;

    world.upstream.publish("team/moving", "latest", &second)?;
    sleep(SHORT_TTL);
    world.clients.pull(Client::Skopeo, &reference, &second).context("the tag has moved")?;
    step("fresh, revalidated, moved");

    let kinds = [("503", Weather::Unavailable), ("429", Weather::TooMany), ("silence", Weather::Silent)];
    for (what, weather) in kinds {
        sleep(SHORT_TTL);
        world.front.set(weather);
        let answer = tag(world);
        let pulled = world.clients.pull(Client::Skopeo, &reference, &second);
        world.front.set(Weather::Fair);
        let answer = answer?;
        ensure!(
            answer.status() == 200 && answer.digest == second.manifest.digest,
            "{what}: {}",
            answer.status()
        );
        ensure!(answer.took < PROMISED, "{what}: a cached tag took {:.1?}", answer.took);
        ensure!(answer.header("x-cache") == "stale", "{what}: X-Cache: {}", answer.header("x-cache"));
        ensure!(answer.header("warning").starts_with("299"), "{what}: Warning: {}", answer.header("warning"));
        pulled.context(what)?;
        step(&format!("upstream answers {what}: stale after {:.0?}", answer.took));
    }
    wait_for_upstream(world)
}

fn tag(world: &World) -> Outcome<Answer> {
    world.runtime.block_on(world.through_nginx(SHORT)?.get("/v2/team/moving/manifests/latest"))
}

/// Failures are remembered for a while; what comes next wants an upstream that is believed again.
fn wait_for_upstream(world: &World) -> Outcome {
    let image = world.maker.image(Family::Docker, &[]);
    let tag = image.manifest.digest.replace(':', "-");
    world.upstream.publish("team/back", &tag, &image)?;
    let origin = world.through_nginx(SHORT)?;
    let path = format!("/v2/team/back/manifests/{tag}");
    let back = || world.runtime.block_on(origin.get(&path)).is_ok_and(|answer| answer.status() == 200);
    crate::world::eventually(Duration::from_secs(120), back, || {
        "the upstream is back, but two minutes later nothing is fetched from it".to_owned()
    })
}

pub fn stopped(world: &mut World) -> Outcome {
    world.serve()?;
    let mut pulled = Vec::new();
    for client in ALL {
        world.ready(client)?;
        let name = format!("team/stopped-{}", client.name());
        let image = world.maker.image(Family::Docker, &[1024, 1 << 20]);
        world.upstream.publish(&name, "1", &image)?;
        let reference = format!("{SHORT}/{name}:1");
        world.clients.pull(client, &reference, &image)?;
        pulled.push((client, reference, image));
    }
    sleep(SHORT_TTL);
    world.front.cease();
    let again: Outcome = pulled.iter().try_for_each(|(client, reference, image)| {
        world.clients.pull(*client, reference, image).context("the upstream is stopped")?;
        step(&format!("{} pulls", client.name()));
        Ok(())
    });
    let unknown = world.clients.try_pull(Client::Skopeo, &format!("{SHORT}/team/never-seen:1"));
    world.front.resume()?;
    again?;
    let said = unknown?.failure()?;
    ensure!(
        !said.contains("manifest unknown"),
        "an upstream that is down looks like an image that is gone: {said}"
    );
    wait_for_upstream(world)
}

pub fn restart(world: &mut World) -> Outcome {
    world.serve()?;
    let image = world.maker.image(Family::Oci, &[1024, 1 << 20, 8 << 20]);
    world.upstream.publish("team/restart", "1", &image)?;
    let reference = format!("{REMOTE}/team/restart:1");
    world.clients.pull(Client::Skopeo, &reference, &image)?;
    world.server.take().expect("serving").stop()?;
    step("stopped, exit 0");
    world.serve()?;
    let mark = world.front.mark();
    world.clients.pull(Client::Skopeo, &reference, &image)?;
    expect_warm(&world.front.since(mark))
}

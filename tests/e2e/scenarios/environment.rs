//! Owns the proof that this machine can run the others: without binaryrepo. Must not know: binaryrepo.

use crate::clients::ALL;
use crate::front::{self, REGISTRY};
use crate::images::Family;
use crate::process::run;
use crate::trouble::{Outcome, ensure};
use crate::world::{World, expect_cold, step};
use std::fs;

pub fn docker(world: &mut World) -> Outcome {
    world.docker()?;
    let image = world.maker.image(Family::Docker, &[1024]);
    world.upstream.publish("env/tiny", "1", &image)?;
    let reference = format!("{REGISTRY}:{}/env/tiny:1", front::PORT);
    let said = run("docker").args(["run", "--rm", &reference, "run"]).success()?;
    ensure!(said.contains("hello from run"), "docker run said {said}");
    step("docker run works");

    let context = world.dir.join("context");
    fs::create_dir_all(&context)?;
    fs::write(context.join("Dockerfile"), format!("FROM {reference}\nRUN [\"/hello\", \"build\"]\n"))?;
    let said = run("docker").args(["build", "--tag", "e2e-built"]).arg(&context).success()?;
    ensure!(said.contains("hello from build"), "docker build said {said}");
    step("docker build works");

    let file =
        "services:\n  hello:\n    image: e2e-built\n    command: [composed]\n    ports: ['4444:4444']\n";
    fs::write(context.join("docker-compose.yml"), format!("version: '2.4'\n{file}"))?;
    let said = run("docker-compose").args(["up", "--no-color"]).dir(&context).success()?;
    ensure!(said.contains("hello from composed"), "docker-compose up said {said}");
    run("docker-compose").args(["down"]).dir(&context).success()?;
    step("docker-compose works");
    Ok(())
}

pub fn clients(world: &mut World) -> Outcome {
    for client in ALL {
        world.ready(client)?;
        let image = world.maker.image(Family::Oci, &[1024, 1 << 20]);
        let name = format!("env/{}", client.name());
        world.upstream.publish(&name, "1", &image)?;
        let mark = world.front.mark();
        world.clients.pull(client, &format!("{REGISTRY}:{}/{name}:1", front::PORT), &image)?;
        expect_cold(&world.front.since(mark), &[&image])?;
        step(&format!("{} pulls", client.name()));
    }
    Ok(())
}

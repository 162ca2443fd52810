//! Owns the shipped Dockerfile and compose file, run for real. Must not know: the server's insides.

use crate::clients::Client;
use crate::front::{CDN, REGISTRY, TOKEN_SERVER, Weather};
use crate::images::Family;
use crate::needs::base_images;
use crate::process::run;
use crate::sandbox::UPSTREAM_IP;
use crate::server::binary;
use crate::trouble::{Outcome, ensure};
use crate::world::{REMOTE, World, step, upstream_url};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::time::Duration;

const CA_INSIDE: &str = "/etc/upstream-ca.crt";

pub fn run_stack(world: &mut World) -> Outcome {
    world.docker()?;
    // The composed nginx wants the same port.
    world.nginx = None;
    world.server = None;
    base_images(&world.source).success()?;
    let (context, certs) = (context(world)?, world.certs());
    let compose = |words: &[&str]| {
        run("docker-compose")
            .args(["-p", "e2e", "-f", "docker-compose.yml", "-f", "e2e.json"])
            .args(words)
            .dir(&context)
            .env("CERTS_DIR", &certs)
            .limit(180)
            .success()
    };
    compose(&["build"])?;
    step("built");
    let outcome = compose(&["up", "-d"]).and_then(|_| {
        step("up");
        let binaryrepo =
            |words: &[&str]| compose(&[&["exec", "-T", "binaryrepo", "binaryrepo"], words].concat());
        binaryrepo(&["healthcheck"])?;
        let url = upstream_url();
        let hosts = ["--allowed-host", TOKEN_SERVER, "--allowed-host", CDN];
        let change = ["repo", "update", "docker-remote", "--url", &url, "--ca-file", CA_INSIDE];
        binaryrepo(&[&change[..], &hosts[..]].concat())
    });
    let outcome = outcome.and_then(|_| pull_through(world));
    if outcome.is_err() {
        println!("{}", compose(&["logs", "--no-color", "--tail=30"]).unwrap_or_default());
    }
    let down = compose(&["down", "--volumes", "--timeout", "20"]);
    outcome?;
    down.map(drop)
}

/// What `docker-compose build` sends: the files of the repository and the binary where `make build` puts it.
fn context(world: &World) -> Outcome<std::path::PathBuf> {
    let context = world.dir.join("stack");
    fs::create_dir_all(context.join("target/dist"))?;
    fs::create_dir_all(context.join("ops"))?;
    for name in ["Dockerfile", ".dockerignore", "docker-compose.yml", "nginx", "ops/docker"] {
        run("cp").args(["-r"]).args([world.source.join(name), context.join(name)]).success()?;
    }
    fs::copy(binary(), context.join("target/dist/binaryrepo"))?;
    let hosts: Vec<String> = [REGISTRY, TOKEN_SERVER, CDN].map(|host| format!("{host}:{UPSTREAM_IP}")).into();
    let authority = format!("{}:{CA_INSIDE}:ro", world.dir.join("upstream-ca.crt").display());
    // The upstream has no DNS name, and its authority is nobody's but ours.
    let more = json!({ "services": { "binaryrepo": { "extra_hosts": hosts, "volumes": [authority] } } });
    fs::write(context.join("e2e.json"), more.to_string())?;
    Ok(context)
}

fn pull_through(world: &mut World) -> Outcome {
    let origin = world.through_nginx(REMOTE)?;
    let answers = || world.runtime.block_on(origin.get("/v2/")).is_ok_and(|answer| answer.status() == 200);
    crate::world::eventually(Duration::from_secs(120), answers, || {
        "the composed nginx does not answer".to_owned()
    })?;
    let image = world.maker.image(Family::Docker, &[1024, 1 << 20, 8 << 20]);
    world.upstream.publish("team/composed", "1", &image)?;
    let reference = format!("{REMOTE}/team/composed:1");
    world.cold_and_warm(Client::Docker, &reference, &image)?;
    let said = run("docker").args(["run", "--rm", &reference, "composed"]).success()?;
    ensure!(said.contains("hello from composed"), "the pulled image said {said}");
    check_remote_pull(world, None)
}

/// `make check-remote-pull` as a person calls it, against what runs at the moment: the composed stack, or a
/// server with its data in a directory.
fn check_remote_pull(world: &World, data: Option<&Path>) -> Outcome {
    // A line as people have it, so that the second pull has something to be faster than.
    let image = world.maker.image(Family::Docker, &[1024, 40 << 20]);
    world.upstream.publish("team/checked", "1", &image)?;
    world.front.set(Weather::Slow(10 << 20));
    let mut check = run("bash").arg(world.source.join("ops/check-remote-pull.sh"));
    check = check.env("UPSTREAM", REMOTE).env("IMAGES", "team/checked:1").env("CERTS_DIR", world.certs());
    if let Some(data) = data {
        check = check.env("DATA_DIR", data);
    }
    let said = check.success()?;
    let shown = said.contains("team/checked:1") && said.contains("bytes in all");
    ensure!(shown, "check-remote-pull does not show times and storage:\n{said}");
    world.front.set(Weather::Fair);
    said.lines().for_each(step);
    let times: Vec<f64> = said
        .lines()
        .find(|line| line.starts_with("team/checked"))
        .map(|line| line.split_whitespace().filter_map(|word| word.parse().ok()).collect())
        .unwrap_or_default();
    ensure!(
        matches!(times[..], [first, second] if second < first),
        "the second pull was not faster:\n{said}"
    );
    Ok(())
}

pub fn check_pull(world: &mut World) -> Outcome {
    world.docker()?;
    world.serve()?;
    check_remote_pull(world, Some(&world.dir.join("data")))
}

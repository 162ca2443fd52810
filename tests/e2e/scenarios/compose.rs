//! Owns the shipped Dockerfile and compose file, run for real by the targets of the Makefile. Must not know: the server's insides.

use crate::clients::Client;
use crate::front::{CDN, REGISTRY, TOKEN_SERVER, Weather};
use crate::images::Family;
use crate::needs::base_images;
use crate::process::{Run, run};
use crate::sandbox::UPSTREAM_IP;
use crate::trouble::{Outcome, ensure};
use crate::world::{REMOTE, World, step, upstream_url};
use serde_json::json;
use std::path::Path;
use std::time::Duration;
use std::{env, fs};

/// `make up` compiles what has changed: after `make e2e`, nothing.
const LIMIT: u64 = 900;
const CA_INSIDE: &str = "/etc/upstream-ca.crt";

/// `make up`, a pull through what it started, `make down`, as a person calls them.
pub fn run_stack(world: &mut World) -> Outcome {
    world.docker()?;
    // The composed nginx wants the same port.
    world.nginx = None;
    world.server = None;
    base_images(&world.source).success()?;
    let more = more(world)?;
    let (source, certs) = (world.source.clone(), world.certs());
    let by_hand = |command: Run| {
        let command = command.dir(&source).env("CERTS_DIR", &certs).env("COMPOSE_PROJECT_NAME", "e2e");
        command.env("COMPOSE_FILE", &more).limit(LIMIT).success()
    };
    let make = |target: &str| by_hand(run("make").args([target, "PROFILE=dev"]).env("PATH", with_cargo()));
    let compose = |words: &[&str]| by_hand(run("docker-compose").args(words));
    let outcome = make("up").and_then(|said| {
        ensure!(
            said.contains("binaryrepo") && said.contains("nginx"),
            "make up does not show what runs:\n{said}"
        );
        step("make up: built and started");
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
    let down = make("down");
    outcome?;
    down?;
    let left = run("docker").args(["ps", "--all", "--quiet", "--filter", "name=e2e"]).success()?;
    ensure!(left.trim().is_empty(), "make down left containers: {left}");
    let volumes = run("docker").args(["volume", "ls", "--quiet"]).success()?;
    ensure!(volumes.contains("e2e_data"), "make down took the stored content away: {volumes}");
    step("make down: stopped, and the stored content is kept");
    compose(&["down", "--volumes"]).map(drop)
}

/// Beside the shipped file: the upstream has no DNS name here, and its authority is nobody's but ours.
fn more(world: &World) -> Outcome<String> {
    let hosts: Vec<String> = [REGISTRY, TOKEN_SERVER, CDN].map(|host| format!("{host}:{UPSTREAM_IP}")).into();
    let authority = format!("{}:{CA_INSIDE}:ro", world.dir.join("upstream-ca.crt").display());
    let more = json!({ "services": { "binaryrepo": { "extra_hosts": hosts, "volumes": [authority] } } });
    let file = world.dir.join("compose.json");
    fs::write(&file, more.to_string())?;
    Ok(format!("docker-compose.yml:{}", file.display()))
}

/// The programs of the scenarios, and the toolchain that this one was compiled with.
fn with_cargo() -> String {
    let programs = env::var("PATH").unwrap_or_default();
    match env::var_os("CARGO").as_deref().map(Path::new).and_then(Path::parent) {
        Some(toolchain) => format!("{programs}:{}", toolchain.display()),
        None => programs,
    }
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

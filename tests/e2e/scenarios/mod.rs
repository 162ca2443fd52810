//! Owns the list of scenarios. Must not know: what they use.

mod api;
mod broken;
mod compose;
mod cosign;
mod environment;
mod herd;
mod local;
mod newer;
mod pull;
mod push;
mod weather;

use crate::needs::Need;
use crate::trouble::Outcome;
use crate::world::World;

#[derive(Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    pub about: &'static str,
    /// What needs the network, which the scenarios themselves do not have.
    pub need: Option<Need>,
    pub run: fn(&mut World) -> Outcome,
}

const fn scenario(name: &'static str, about: &'static str, run: fn(&mut World) -> Outcome) -> Scenario {
    Scenario { name, about, need: None, run }
}

/// One that uses the clients that are Go programs.
const fn pushes(name: &'static str, about: &'static str, run: fn(&mut World) -> Outcome) -> Scenario {
    Scenario { name, about, need: Some(Need::GoClients), run }
}

pub const ALL: &[Scenario] = &[
    scenario("env-docker", "dockerd runs, builds and composes with its bridge", environment::docker),
    scenario("env-clients", "every client pulls straight from the upstream", environment::clients),
    scenario("api", "the management API, by curl, through api.binaryrepo.local", api::curl),
    scenario("pull-docker", "docker pull through nginx with TLS", pull::docker),
    scenario("pull-podman", "podman pull through nginx with TLS", pull::podman),
    scenario("pull-skopeo", "skopeo copy through nginx with TLS", pull::skopeo),
    scenario("pull-ctr", "ctr images pull through nginx with TLS", pull::ctr),
    scenario(
        "pull-direct",
        "docker pull localhost:8081/docker-remote/..., no proxy, no certificate",
        pull::direct,
    ),
    scenario(
        "pull-own-name",
        "docker-remote.example.com, mapped by nginx to /repo/docker-remote",
        pull::own_name,
    ),
    scenario("pull-large", "layers from 1 KB to 200 MB", pull::large),
    scenario("pull-index", "of a multi-arch index only what is asked", pull::index),
    scenario("pull-cdn", "blobs that the upstream keeps on another host", pull::cdn),
    scenario("pull-private", "images that want the upstream's user and password", pull::private),
    scenario("mirror-docker", "dockerd with registry-mirrors", pull::mirror_docker),
    scenario("mirror-podman", "podman with a mirror in registries.conf", pull::mirror_podman),
    scenario("mirror-ctr", "ctr with a hosts.toml mirror", pull::mirror_ctr),
    scenario("herd-raw", "50 cold pulls at once on a slow line", herd::raw),
    scenario("herd-mixed", "docker, podman, skopeo and ctr at once on the same cold image", herd::mixed),
    scenario("broken-upstream", "the upstream breaks off, and no client notices", broken::upstream),
    scenario("broken-client", "a client goes away in the middle, the next joins", broken::client),
    scenario(
        "broken-server",
        "the server is killed while it fetches, and goes on where it was",
        broken::server,
    ),
    scenario("push-refused", "a push to a remote is refused with a sentence", weather::push_refused),
    pushes("push-direct", "every client pushes and pulls back, without users and proxy", push::direct),
    pushes("push-login", "pushes logged in and anonymous pulls, through nginx, on one host", push::login),
    pushes("push-closed", "pushes and pulls logged in, where anybody else sees nothing", push::closed),
    pushes("push-index", "amd64 and arm64 under one tag", local::index),
    pushes("push-artifact", "a signature and a bill of materials that refer to an image", local::artifact),
    pushes("push-mount", "what another image has is not sent again", local::mount),
    scenario("push-beside", "what was pulled through the remote is pushed without its layers", local::beside),
    pushes("push-frozen", "a tag that is not to be moved, and what clients say of it", local::frozen),
    pushes("push-delete", "skopeo, crane, regctl and oras delete", local::delete),
    scenario("tags", "tags move, and are stale while the upstream fails", weather::tags),
    scenario(
        "upstream-stopped",
        "warm pulls by every client while the upstream is stopped",
        weather::stopped,
    ),
    scenario("restart", "stopped by SIGTERM and started again, everything is warm", weather::restart),
    scenario("check-pull", "make check-remote-pull shows both times and the storage", compose::check_pull),
    Scenario {
        name: "compose",
        about: "make up, a pull through what it started, and make down",
        need: Some(Need::BaseImage),
        run: compose::run_stack,
    },
];

/// What takes minutes to build; run by `--nightly`, or by name.
pub const NIGHTLY: &[Scenario] = &[
    Scenario {
        name: "newer-containerd",
        about: "containerd 2 pulls in ranges at once, pushes and pulls back",
        need: Some(Need::NewerGoClients),
        run: newer::containerd,
    },
    Scenario {
        name: "newer-buildkit",
        about: "BuildKit with a mirror, a push and a cache in the registry",
        need: Some(Need::NewerGoClients),
        run: newer::buildkit,
    },
    Scenario {
        name: "newer-containers",
        about: "the library of today's podman and skopeo pushes an index and pulls it back, with a log-in",
        need: Some(Need::ImageCopy),
        run: newer::containers,
    },
    Scenario {
        name: "newer-cosign",
        about: "cosign signs and attests through nginx with a log-in, and anybody verifies",
        need: Some(Need::Cosign),
        run: cosign::sign,
    },
];

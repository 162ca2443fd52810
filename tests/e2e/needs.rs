//! Owns what is built or fetched before the run, while there is a network. Must not know: what it is used for.

use crate::process::{Run, run};
use crate::trouble::{Context, Outcome};
use std::path::Path;

/// Go compiles half of Kubernetes for helm: minutes, once.
const BUILDING: u64 = 1800;
const BOOTSTRAP: u64 = 400;

#[derive(Clone, Copy, PartialEq)]
pub enum Need {
    /// The archive that the Dockerfiles' base image is made of.
    BaseImage,
    /// crane, regctl, oras, helm.
    GoClients,
    /// containerd 2, BuildKit.
    NewerGoClients,
    /// The library that skopeo, podman and buildah share, as a program.
    ImageCopy,
    /// Today's cosign, and the one before it.
    Cosign,
}

impl Need {
    /// Sees to it that it is there; what is there already costs nothing.
    pub fn meet(self, source: &Path) -> Outcome {
        match self {
            Need::BaseImage => {
                println!("e2e: making the base image's archive, unless it is there");
                // docker imports it inside, where there is no network.
                let archive = base_images(source).env("DOCKER", "true").limit(BOOTSTRAP);
                archive.success().map(drop).context("the base image")
            }
            Need::GoClients => build(source, "everyday"),
            Need::NewerGoClients => build(source, "nightly"),
            Need::ImageCopy => build(source, "imagecopy"),
            // Two modules: their programs have one name.
            Need::Cosign => ["cosign-2", "cosign-3"].into_iter().try_for_each(|set| build(source, set)),
        }
    }
}

pub fn base_images(source: &Path) -> Run {
    run("bash").args(["ops/e2e/make-base-images.sh"]).dir(source)
}

fn build(source: &Path, set: &str) -> Outcome {
    println!("e2e: building the clients that are Go programs ({set}), unless they are there");
    let build = run("bash").args(["ops/e2e/go-clients.sh", set]).dir(source).limit(BUILDING);
    build.success().map(drop).context("the clients that are Go programs")
}

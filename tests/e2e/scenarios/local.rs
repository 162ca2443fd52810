//! Owns what a local repository does beyond taking an image and giving it back: indexes, artifacts, mounts, tags
//! that are not moved, deletion. Must not know: log-ins.

use crate::images::{Family, Image, Index};
use crate::layout::{self, TAG};
use crate::process::{Run, run};
use crate::pushers::{ALL, Hand, Pusher, Site, stocked};
use crate::server::Server;
use crate::trouble::{Context, Outcome, ensure};
use crate::world::{FROZEN, LOCAL, World, step};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Instant;

/// More than a manifest and a configuration, and less than the layers that are made here.
const NO_LAYERS: u64 = 64 << 10;
const SIGNATURE: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
const BILL: &str = "application/spdx+json";

fn site() -> Site {
    Site::direct(&format!("{LOCAL}/team"))
}

/// amd64 and arm64 under one tag.
pub fn index(world: &mut World) -> Outcome {
    world.serve()?;
    for pusher in [Pusher::Podman, Pusher::Buildah, Pusher::Skopeo, Pusher::Crane, Pusher::Regctl] {
        let hand = world.hand(pusher, &site())?;
        let name = format!("index-{}", pusher.name());
        let index = world.maker.index(Family::Oci, &[1024, 1 << 20]);
        layout::write_index(&hand.home().join("layout"), &index)?;
        push_index(&hand, &name)?;
        // These two make a list of their own for the images that they are given.
        let exact = !matches!(pusher, Pusher::Podman | Pusher::Buildah);
        let server = world.server.as_ref().expect("serving");
        arrived(server, &name, &index, exact).context(pusher.name())?;
        step(&format!("{:<8}both images, and all their blobs", pusher.name()));
    }
    Ok(())
}

fn push_index(hand: &Hand, name: &str) -> Outcome {
    let layout = hand.home().join("layout").display().to_string();
    let (source, target) = (format!("oci:{layout}:{TAG}"), hand.site.reference(name));
    let last: Run = match hand.pusher {
        Pusher::Skopeo => hand.skopeo_copy().args(["--all", &source, &format!("docker://{target}")]),
        Pusher::Crane => hand.program().args(["push", &layout, &target]),
        Pusher::Regctl => {
            hand.program().args(["image", "copy", &format!("ocidir://{layout}:{TAG}"), &target])
        }
        _ => {
            hand.program().args(["manifest", "create", name]).success()?;
            hand.program().args(["manifest", "add", "--all", name, &source]).success()?;
            let push = hand.program().args(["manifest", "push", "--all"]).args(hand.plain());
            push.args([name, &format!("docker://{target}")])
        }
    };
    last.success().map(drop)
}

fn arrived(server: &Server, name: &str, index: &Index, exact: bool) -> Outcome {
    let path = format!("/v2/{LOCAL}/team/{name}");
    let top = server.get(&format!("{path}/manifests/1.0.0"))?;
    ensure!(!exact || top.digest == index.manifest.digest, "the index has changed: {}", top.text);
    let held: Value = serde_json::from_str(&top.text).context("the index")?;
    let named = held["manifests"].as_array().into_iter().flatten();
    let named: BTreeSet<&str> = named.filter_map(|child| child["digest"].as_str()).collect();
    let pushed: BTreeSet<&str> = index.images.iter().map(|image| image.manifest.digest.as_str()).collect();
    ensure!(named == pushed, "the index names {named:?} instead of {pushed:?}");
    for image in &index.images {
        let manifests = [("manifests", &image.manifest)].into_iter();
        for (kind, blob) in manifests.chain(image.blobs().map(|blob| ("blobs", blob))) {
            let answer = server.get(&format!("{path}/{kind}/{}", blob.digest))?;
            ensure!(answer.digest == blob.digest, "{}: {} {}", blob.digest, answer.status(), answer.text);
        }
    }
    Ok(())
}

/// A signature and a bill of materials, attached to an image by two clients, each of which finds both.
pub fn artifact(world: &mut World) -> Outcome {
    world.serve()?;
    let (name, crane) = ("subject", world.hand(Pusher::Crane, &site())?);
    let image = crane.stock(&world.maker, &world.upstream, name)?;
    crane.push(name)?.success()?;
    let (subject, digest) = (site().reference(name), &image.manifest.digest);

    let oras = world.hand(Pusher::Oras, &site())?;
    std::fs::write(oras.home().join("signature"), "signed")?;
    let attach = oras.program().args(["attach", "--plain-http", "--artifact-type", SIGNATURE, &subject]);
    attach.arg("signature:text/plain").dir(oras.home()).success()?;
    let regctl = world.hand(Pusher::Regctl, &site())?;
    let bill = regctl.home().join("bill");
    std::fs::write(&bill, "{}")?;
    let put = regctl.program().args(["artifact", "put", "--artifact-type", BILL, "--subject", &subject]);
    put.args(["--file-media-type", BILL, "--file"]).arg(&bill).success()?;

    let seen = oras.program().args(["discover", "--plain-http", "--format", "json", &subject]).success()?;
    ensure!(seen.contains(SIGNATURE) && seen.contains(BILL), "oras discovers only: {seen}");
    let seen = regctl
        .program()
        .args(["artifact", "list", &subject, "--format", "{{json .Descriptors}}"])
        .success()?;
    ensure!(seen.contains(SIGNATURE) && seen.contains(BILL), "regctl lists only: {seen}");
    step("oras and regctl each see what both have attached");

    let server = world.server.as_ref().expect("serving");
    let path = format!("/v2/{LOCAL}/team/{name}");
    let all = server.get(&format!("{path}/referrers/{digest}"))?.text;
    ensure!(all.contains(SIGNATURE) && all.contains(BILL), "the referrers are {all}");
    let some = server.get(&format!("{path}/referrers/{digest}?artifactType={BILL}"))?.text;
    ensure!(!some.contains(SIGNATURE) && some.contains(BILL), "filtered, the referrers are {some}");
    let tags = server.get(&format!("{path}/tags/list"))?.text;
    ensure!(!tags.contains("sha256-"), "a client did not trust the referrers and made a tag: {tags}");
    step("no client fell back to a tag");
    Ok(())
}

/// What one image has, another is given without sending it again.
pub fn mount(world: &mut World) -> Outcome {
    world.serve()?;
    for pusher in [
        Pusher::Docker,
        Pusher::Podman,
        Pusher::Buildah,
        Pusher::Ctr,
        Pusher::Crane,
        Pusher::Regctl,
        Pusher::Oras,
    ] {
        let hand = world.hand(pusher, &site())?;
        let (first, second) = (format!("mount-{}", pusher.name()), format!("mounted-{}", pusher.name()));
        let image = hand.stock(&world.maker, &world.upstream, &first)?;
        hand.push(&first)?.success()?;
        // Where it is from is learnt by docker and podman as they push, by ctr as it pulls.
        if pusher == Pusher::Ctr {
            hand.pull(&first)?.success()?;
        }
        let taken = sent(world, |_| copy(&hand, &first, &second))?;
        ensure!(taken < NO_LAYERS, "{} sent {taken} bytes of what was there", pusher.name());
        if pusher != Pusher::Oras {
            holds(world, &second, &image)?;
        }
        step(&format!("{:<8}sent {taken} bytes for {} MB", pusher.name(), image.blob_bytes() >> 20));
    }
    Ok(())
}

/// Pushes what is there as `first` as `second`.
fn copy(hand: &Hand, first: &str, second: &str) -> Outcome {
    let (from, to) = (hand.site.reference(first), hand.site.reference(second));
    let command = match hand.pusher {
        Pusher::Docker => {
            run("docker").args(["tag", &from, &to]).success()?;
            hand.program().args(["push", &to])
        }
        Pusher::Ctr => hand.ctr("push").args([to, from]),
        Pusher::Crane => hand.program().args(["copy", &from, &to]),
        Pusher::Regctl => hand.program().args(["image", "copy", &from, &to]),
        Pusher::Oras => hand.program().args(["cp", "--from-plain-http", "--to-plain-http", &from, &to]),
        _ => {
            let push = hand.program().arg("push").args(hand.plain());
            push.args([stocked(first), format!("docker://{to}")])
        }
    };
    command.success().map(drop)
}

/// How many bytes the local repository takes in meanwhile.
fn sent(world: &mut World, work: impl FnOnce(&mut World) -> Outcome) -> Outcome<u64> {
    let before = world.serve()?.taken(LOCAL)?;
    work(world)?;
    Ok(world.serve()?.taken(LOCAL)? - before)
}

/// Every layer, under the other name; a client may have written the manifest anew.
fn holds(world: &World, name: &str, image: &Image) -> Outcome {
    let server = world.server.as_ref().expect("serving");
    let path = format!("/v2/{LOCAL}/team/{name}");
    let manifest: Value = serde_json::from_str(&server.get(&format!("{path}/manifests/1.0.0"))?.text)?;
    let layers: Vec<&str> = manifest["layers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|layer| layer["digest"].as_str())
        .collect();
    ensure!(layers.len() == image.layers.len(), "{name} has {} layers", layers.len());
    for layer in layers {
        let answer = server.get(&format!("{path}/blobs/{layer}"))?;
        ensure!(answer.digest == layer, "{layer} of {name}: {} {}", answer.status(), answer.text);
    }
    Ok(())
}

/// One server is cache and registry: what was pulled through it is pushed to it without sending a layer.
pub fn beside(world: &mut World) -> Outcome {
    world.serve()?;
    let hand = world.hand(Pusher::Docker, &site())?;
    let image = world.maker.image(Family::Docker, &[1024, 3 << 20]);
    world.upstream.publish("team/beside", "1", &image)?;
    let pulled = "localhost:8081/docker-remote/team/beside:1";
    world.cold_and_warm(crate::clients::Client::Docker, pulled, &image)?;
    let target = site().reference("beside");
    run("docker").args(["tag", pulled, &target]).success()?;
    let taken = sent(world, |_| hand.program().args(["push", &target]).success().map(drop))?;
    ensure!(taken < NO_LAYERS, "docker sent {taken} bytes of what was cached");
    run("docker").args(["rmi", pulled]).success()?;
    hand.pull("beside")?.success()?;
    hand.check("beside", &image)?;
    step(&format!("docker sent {taken} bytes for {} MB", image.blob_bytes() >> 20));
    Ok(())
}

/// A tag that is not to be moved is not, and the person reads why.
pub fn frozen(world: &mut World) -> Outcome {
    world.serve()?;
    let site = Site::direct(&format!("{FROZEN}/team"));
    for pusher in ALL {
        let hand = world.hand(pusher, &site)?;
        let name = format!("frozen-{}", pusher.name());
        let first = hand.stock(&world.maker, &world.upstream, &name)?;
        hand.push(&name)?.success()?;
        hand.push(&name)?.success().context("the same again")?;
        let second = hand.stock(&world.maker, &world.upstream, &name)?;
        let begun = Instant::now();
        let said = hand.push(&name)?.failure()?;
        let took = begun.elapsed();
        // ctr shows nobody's sentences.
        let sentence = match pusher {
            Pusher::Ctr => "403 Forbidden",
            _ => "tags of this repository are not moved",
        };
        ensure!(said.contains(sentence), "{} does not say why: {said}", pusher.name());
        hand.pull(&name)?.success()?;
        still(&hand, &name, &first, &second)?;
        step(&format!("{:<8}is told after {took:.1?}: {sentence}", pusher.name()));
    }
    Ok(())
}

/// A chart is compared with the file that was packed last, so helm's pull must not bring that one.
fn still(hand: &Hand, name: &str, first: &Image, second: &Image) -> Outcome {
    match hand.pusher {
        Pusher::Helm => {
            ensure!(hand.check(name, second).is_err(), "helm has moved the tag");
            Ok(())
        }
        _ => hand.check(name, first),
    }
}

pub fn delete(world: &mut World) -> Outcome {
    world.serve()?;
    for pusher in [Pusher::Skopeo, Pusher::Crane, Pusher::Regctl, Pusher::Oras] {
        let hand = world.hand(pusher, &site())?;
        let name = format!("delete-{}", pusher.name());
        let image = hand.stock(&world.maker, &world.upstream, &name)?;
        let target = site().reference(&name);
        let plain = hand.plain();
        hand.push(&name)?.success()?;
        match pusher {
            Pusher::Skopeo => hand.program().arg("delete").args(plain).arg(format!("docker://{target}")),
            Pusher::Crane => hand.program().args(["delete", &target]),
            Pusher::Regctl => hand.program().args(["tag", "rm", &target]),
            _ => hand.program().args(["manifest", "delete", "--force"]).args(plain).arg(&target),
        }
        .success()?;
        let said = hand.pull(&name)?.failure()?.to_lowercase();
        let gone = ["not found", "unknown", "404", "there is no"].iter().any(|word| said.contains(word));
        ensure!(gone, "{} says of what it has deleted: {said}", pusher.name());
        hand.push(&name)?.success().context("pushed again")?;
        hand.pull(&name)?.success()?;
        hand.check(&name, &image)?;
        step(&format!("{:<8}deleted, gone, pushed again", pusher.name()));
    }
    Ok(())
}

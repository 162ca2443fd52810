//! Owns clients newer than a distribution has them: containerd 2, BuildKit, the library of podman and skopeo. Must not know: their ancestors.

use crate::images::{Family, Image, digest_of};
use crate::layout::{self, TAG};
use crate::process::{Run, Service, run};
use crate::pushers::VERSION;
use crate::trouble::{Context, Outcome, ensure};
use crate::world::{CLOSED, LOCAL, MEMBER, REMOTE, World, expect_cold, expect_warm, step};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const START: Duration = Duration::from_secs(120);
const CONTAINERD: &str = "/run/e2e-containerd-2/containerd.sock";
const BUILDKIT: &str = "unix:///run/e2e-buildkit.sock";
/// containerd asks for a layer in pieces of this size, several at once.
const PIECE: usize = 4 << 20;
const LAYER: usize = 48 << 20;

fn program(world: &World, name: &str) -> PathBuf {
    world.source.join("target/clients/nightly").join(name)
}

fn ctr(world: &World) -> Run {
    run(program(world, "ctr")).args(["--address", CONTAINERD])
}

/// Pieces of a layer that is not there yet, asked for at once; then a push, and a pull of what was pushed.
pub fn containerd(world: &mut World) -> Outcome {
    world.serve()?;
    let _daemon = start_containerd(world)?;
    let image = world.maker.image(Family::Oci, &[1024, LAYER]);
    world.upstream.publish("team/newer", VERSION, &image)?;
    let remote = format!("{REMOTE}/team/newer:{VERSION}");
    let pull = |world: &World, reference: &str| {
        let pull = ctr(world).args(["images", "pull", "--hosts-dir", "/etc/containerd/certs.d"]);
        let plain: &[&str] = if reference.starts_with("localhost") { &["--plain-http"] } else { &[] };
        pull.args(plain).arg(reference).success()
    };
    let (mark, pieces) = (world.front.mark(), pieces(world)?);
    pull(world, &remote)?;
    holds(world, &image)?;
    expect_cold(&world.front.since(mark), &[&image]).context("pieces of a cold layer")?;
    let pieces = self::pieces(world)? - pieces;
    ensure!(pieces as usize >= LAYER / PIECE, "only {pieces} ranges were asked for");
    step(&format!("one GET upstream for {pieces} ranges at once"));

    let local = format!("localhost:8081/{LOCAL}/team/newer:{VERSION}");
    ctr(world).args(["images", "push", "--plain-http", &local, &remote]).success()?;
    ctr(world).args(["images", "rm", "--sync", &remote]).success()?;
    let left = ctr(world).args(["content", "ls", "--quiet"]).success()?;
    ensure!(image.blobs().all(|blob| !left.contains(&blob.digest)), "containerd still holds {left}");
    let mark = world.front.mark();
    pull(world, &local)?;
    holds(world, &image)?;
    expect_warm(&world.front.since(mark))?;
    step("pushed, forgotten, pulled back");
    Ok(())
}

fn start_containerd(world: &World) -> Outcome<Service> {
    let config = world.dir.join("containerd-2.toml");
    let text = format!(
        "version = 3\nroot = '{}'\nstate = '/run/e2e-containerd-2/state'\n\
         disabled_plugins = ['io.containerd.cri.v1.images', 'io.containerd.cri.v1.runtime', \
         'io.containerd.grpc.v1.cri']\n[grpc]\naddress = '{CONTAINERD}'\n\
         [plugins.'io.containerd.transfer.v1.local']\nmax_concurrent_downloads = 4\n\
         concurrent_layer_fetch_buffer = {PIECE}\n",
        world.dir.join("containerd-2").display()
    );
    fs::write(&config, text)?;
    let mut command = Command::new(program(world, "containerd"));
    command.arg("--config").arg(&config);
    let mut service = Service::start("containerd 2", &mut command, &world.dir.join("containerd-2.log"))?;
    service.ready(START, || ctr(world).arg("version").success().is_ok())?;
    Ok(service)
}

/// How many ranges of blobs the remote has answered.
fn pieces(world: &World) -> Outcome<u64> {
    let metrics = world.server.as_ref().expect("serving").get("/metrics")?.text;
    let begin = "binaryrepo_requests_total{repository=\"docker-remote\",action=\"blob.get\",code=\"206\"} ";
    let count = metrics.lines().find_map(|line| line.strip_prefix(begin));
    Ok(count.unwrap_or("0").parse()?)
}

/// containerd hashes what it takes in.
fn holds(world: &World, image: &Image) -> Outcome {
    let held = ctr(world).args(["content", "ls", "--quiet"]).success()?;
    for blob in image.blobs().chain([&image.manifest]) {
        ensure!(held.contains(&blob.digest), "containerd does not hold {}", blob.digest);
    }
    Ok(())
}

/// BuildKit builds on an image from its mirror, pushes what it built with its provenance, and keeps its cache here.
pub fn buildkit(world: &mut World) -> Outcome {
    world.serve()?;
    world.docker()?;
    let base = world.maker.image(Family::Oci, &[1024, 3 << 20]);
    world.upstream.publish("team/buildkit", "1", &base)?;
    let context = world.dir.join("buildkit-context");
    fs::create_dir_all(&context)?;
    fs::write(context.join("Dockerfile"), "FROM team/buildkit:1\nRUN [\"/hello\", \"buildkit\"]\n")?;
    let _daemon = start_buildkit(world)?;
    let mark = world.front.mark();
    let said = build(world, &context)?;
    ensure!(said.contains("hello from buildkit"), "the build said {said}");
    expect_cold(&world.front.since(mark), &[&base]).context("the base image, through the mirror")?;
    step("built on an image from the mirror, pushed");

    let image = format!("localhost:8081/{LOCAL}/team/built:{VERSION}");
    let index = world
        .server
        .as_ref()
        .expect("serving")
        .get(&format!("/v2/{LOCAL}/team/built/manifests/{VERSION}"))?;
    ensure!(index.text.contains("attestation-manifest"), "no provenance was pushed: {}", index.text);
    let said = run("docker").args(["run", "--rm", &image, "pulled"]).success()?;
    ensure!(said.contains("hello from pulled"), "the built image said {said}");
    step("docker runs it");

    run(program(world, "buildctl")).args(["--addr", BUILDKIT, "prune", "--all"]).success()?;
    let said = build(world, &context)?;
    ensure!(said.contains("CACHED"), "the cache in the registry was of no use: {said}");
    step("and a builder that knows nothing finds its cache");
    Ok(())
}

/// What podman 5 and today's skopeo say to a registry: to one without users, and to one that wants a log-in.
pub fn containers(world: &mut World) -> Outcome {
    world.serve()?;
    let index = world.maker.index(Family::Oci, &[1024, 3 << 20]);
    let layout = world.dir.join("imagecopy");
    layout::write_index(&layout, &index)?;
    let copy = |world: &World, user: &[&str], from: &str, to: &str| {
        let program = world.source.join("target/clients/imagecopy/imagecopy");
        run(program).args(user).args(["-all", from, to]).done()
    };
    let made = format!("oci:{}:{TAG}", layout.display());
    let back = |world: &World, user: &[&str], from: &str| -> Outcome {
        let out = tempfile::TempDir::new()?;
        copy(world, user, from, &format!("oci:{}:{TAG}", out.path().display()))?.success()?;
        let parts = index.images.iter().flat_map(|image| image.blobs().chain([&image.manifest]));
        for blob in parts.chain([&index.manifest]) {
            let found = digest_of(&fs::read(layout::path_of(out.path(), blob)).context(&blob.digest)?);
            ensure!(found == blob.digest, "{found} came back for {}", blob.digest);
        }
        Ok(())
    };
    let open = format!("docker://localhost:8081/{LOCAL}/team/library:{VERSION}");
    copy(world, &[], &made, &open)?.success()?;
    back(world, &[], &open)?;
    step("an index went and came back");

    world.serve_users()?;
    let closed = format!("docker://localhost:8081/{CLOSED}/team/library:{VERSION}");
    let user = ["-user", &format!("{}:{}", MEMBER.0, MEMBER.1)];
    let said = copy(world, &[], &made, &closed)?.failure()?;
    // It asks first by HEAD, which has no sentence, and says it in its own.
    ensure!(said.contains("authentication required"), "without a log-in it says: {said}");
    copy(world, &user, &made, &closed)?.success()?;
    back(world, &user, &closed)?;
    step("the same with a log-in");
    Ok(())
}

fn build(world: &World, context: &Path) -> Outcome<String> {
    let local = |name: &str| format!("{name}={}", context.display());
    let cache = format!("type=registry,ref=localhost:8081/{LOCAL}/team/cache:1");
    let output = format!("type=image,name=localhost:8081/{LOCAL}/team/built:{VERSION},push=true");
    run(program(world, "buildctl"))
        .args(["--addr", BUILDKIT, "build", "--progress", "plain", "--frontend", "dockerfile.v0"])
        .args(["--local", &local("context"), "--local", &local("dockerfile")])
        .args(["--output", &output, "--opt", "attest:provenance=mode=min"])
        .args(["--export-cache", &format!("{cache},mode=max"), "--import-cache", &cache])
        .success()
}

fn start_buildkit(world: &World) -> Outcome<Service> {
    let config = world.dir.join("buildkitd.toml");
    fs::write(
        &config,
        "[registry.\"docker.io\"]\n  mirrors = [\"localhost:8081/docker-remote\"]\n\
         [registry.\"localhost:8081\"]\n  http = true\n",
    )?;
    let mut command = Command::new(program(world, "buildkitd"));
    command.args(["--addr", BUILDKIT, "--containerd-worker=false", "--oci-worker=true"]);
    command.args(["--oci-worker-net", "host", "--config"]).arg(&config);
    command.arg("--root").arg(world.dir.join("buildkit"));
    let mut service = Service::start("buildkitd", &mut command, &world.dir.join("buildkitd.log"))?;
    let workers = || run(program(world, "buildctl")).args(["--addr", BUILDKIT, "debug", "workers"]).success();
    service.ready(START, || workers().is_ok())?;
    Ok(service)
}

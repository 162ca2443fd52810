//! Owns how each real client pulls, forgets and shows an image. Must not know: what the upstream saw.

use crate::daemons::CONTAINERD;
use crate::images::{Image, digest_of};
use crate::process::{Done, Run, run};
use crate::trouble::{Context, Outcome, ensure};
use std::fs;
use std::path::{Path, PathBuf};

pub const ALL: [Client; 4] = [Client::Docker, Client::Podman, Client::Skopeo, Client::Ctr];

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Client {
    Docker,
    Podman,
    Skopeo,
    Ctr,
}

impl Client {
    pub fn name(self) -> &'static str {
        match self {
            Client::Docker => "docker",
            Client::Podman => "podman",
            Client::Skopeo => "skopeo",
            Client::Ctr => "ctr",
        }
    }
}

/// The clients with their stores in one directory.
#[derive(Clone)]
pub struct Clients {
    dir: PathBuf,
}

impl Clients {
    pub fn new(dir: &Path) -> Clients {
        Clients { dir: dir.join("clients") }
    }

    /// A pull into an empty store, and a look at what arrived.
    pub fn pull(&self, client: Client, reference: &str, image: &Image) -> Outcome {
        self.forget(client, reference)?;
        self.try_pull(client, reference)?.success()?;
        self.check(client, reference, image).context(format!("{} has pulled {reference}", client.name()))
    }

    /// A pull that is interrupted after some seconds, in the middle.
    pub fn interrupted(&self, client: Client, reference: &str, seconds: u64) -> Outcome {
        let whole = self.command(client, reference)?.limit(seconds).done();
        ensure!(whole.is_err(), "{} was done with {reference} before it was interrupted", client.name());
        Ok(())
    }

    pub fn try_pull(&self, client: Client, reference: &str) -> Outcome<Done> {
        self.command(client, reference)?.done()
    }

    fn command(&self, client: Client, reference: &str) -> Outcome<Run> {
        let pull = match client {
            Client::Docker => run("docker").args(["pull", reference]),
            Client::Podman => self.podman().args(["pull", reference]),
            Client::Skopeo => {
                let target = self.skopeo_dir(reference);
                fs::create_dir_all(&target)?;
                run("skopeo").args([
                    "copy",
                    &format!("docker://{reference}"),
                    &format!("dir:{}", target.display()),
                ])
            }
            Client::Ctr => {
                ctr().args(["images", "pull", "--hosts-dir", "/etc/containerd/certs.d", reference])
            }
        };
        Ok(pull.env("HOME", self.dir.join("home")))
    }

    pub fn forget(&self, client: Client, reference: &str) -> Outcome {
        match client {
            Client::Docker => drop(run("docker").args(["rmi", "--force", reference]).done()?),
            Client::Podman => drop(self.podman().args(["rmi", "--force", reference]).done()?),
            Client::Skopeo => {
                let target = self.skopeo_dir(reference);
                if target.exists() {
                    fs::remove_dir_all(target)?;
                }
            }
            // Waits until the content is collected too.
            Client::Ctr => drop(ctr().args(["images", "rm", "--sync", reference]).done()?),
        }
        Ok(())
    }

    pub fn check(&self, client: Client, reference: &str, image: &Image) -> Outcome {
        let (found, wanted) = match client {
            Client::Docker => {
                let id =
                    run("docker").args(["image", "inspect", "--format", "{{.Id}}", reference]).success()?;
                (id.trim().to_owned(), image.config.digest.clone())
            }
            Client::Podman => {
                let id =
                    self.podman().args(["image", "inspect", "--format", "{{.Id}}", reference]).success()?;
                (format!("sha256:{}", id.trim()), image.config.digest.clone())
            }
            Client::Skopeo => return check_dir(&self.skopeo_dir(reference), image),
            Client::Ctr => return check_content(image),
        };
        ensure!(found == wanted, "its id is {found} instead of {wanted}");
        Ok(())
    }

    pub fn skopeo_dir(&self, reference: &str) -> PathBuf {
        self.dir.join("skopeo").join(reference.replace(['/', ':'], "_"))
    }

    /// Podman with a store of its own.
    pub fn podman(&self) -> Run {
        self.on_store("podman").args(["--cgroup-manager", "cgroupfs", "--events-backend", "file"])
    }

    /// Buildah on podman's store, as the two are on a usual machine.
    pub fn buildah(&self) -> Run {
        self.on_store("buildah")
    }

    fn on_store(&self, program: &str) -> Run {
        let store = self.dir.join("podman");
        run(program)
            .args(["--root".as_ref(), store.as_os_str(), "--runroot".as_ref(), "/run/e2e-podman".as_ref()])
            .args(["--storage-driver", "overlay"])
    }
}

pub fn ctr() -> Run {
    run("ctr").args(["--address", CONTAINERD])
}

/// Every byte that skopeo has written.
pub fn check_dir(dir: &Path, image: &Image) -> Outcome {
    ensure!(fs::read(dir.join("manifest.json"))? == image.manifest.bytes, "the manifest has changed");
    for blob in image.blobs() {
        let file = dir.join(blob.digest.trim_start_matches("sha256:"));
        let bytes = fs::read(&file).context(file.display())?;
        ensure!(digest_of(&bytes) == blob.digest, "{} is wrong", blob.digest);
    }
    Ok(())
}

/// containerd hashes what it takes in, so it is enough that everything is there.
fn check_content(image: &Image) -> Outcome {
    let held = ctr().args(["content", "ls", "--quiet"]).success()?;
    for blob in image.blobs().chain([&image.manifest]) {
        ensure!(held.contains(&blob.digest), "containerd does not hold {}", blob.digest);
    }
    Ok(())
}

/// Tells every client, in the way that its own documentation names, to trust an authority for a host.
pub fn trust(host: &str, authority: &Path) -> Outcome {
    for certs in ["/etc/docker/certs.d", "/etc/containers/certs.d"] {
        let dir = Path::new(certs).join(host);
        fs::create_dir_all(&dir)?;
        fs::copy(authority, dir.join("ca.crt")).context(authority.display())?;
    }
    hosts_toml(host, &format!("https://{host}"), authority)
}

/// containerd: what concerns `registry` goes to `server`.
pub fn hosts_toml(registry: &str, server: &str, authority: &Path) -> Outcome {
    let dir = Path::new("/etc/containerd/certs.d").join(registry);
    fs::create_dir_all(&dir)?;
    let authority = authority.display();
    let text = format!(
        "[host.\"{server}\"]\n  capabilities = [\"pull\", \"resolve\", \"push\"]\n  ca = \"{authority}\"\n"
    );
    Ok(fs::write(dir.join("hosts.toml"), text)?)
}

/// Podman and skopeo: pulls of `registry` go to `mirror` first.
pub fn registries_conf(registry: &str, mirror: &str) -> Outcome {
    let text = format!(
        "[[registry]]\nprefix = \"{registry}\"\nlocation = \"{registry}\"\n[[registry.mirror]]\nlocation = \"{mirror}\"\n"
    );
    Ok(fs::write("/etc/containers/registries.conf", text)?)
}

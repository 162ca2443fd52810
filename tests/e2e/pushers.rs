//! Owns how each real client logs in, pushes, and pulls back what it pushed. Must not know: what the server did.

use crate::clients::{self, Client, Clients};
use crate::front::{self, REGISTRY};
use crate::images::{Blob, Family, Image, Maker, digest_of};
use crate::layout::{self, TAG};
use crate::process::{Done, Run, run};
use crate::trouble::{Context, Outcome, ensure};
use crate::upstream::Upstream;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub const ALL: [Pusher; 9] = [
    Pusher::Docker,
    Pusher::Podman,
    Pusher::Buildah,
    Pusher::Skopeo,
    Pusher::Ctr,
    Pusher::Crane,
    Pusher::Regctl,
    Pusher::Oras,
    Pusher::Helm,
];

/// The tag of everything that is pushed: one that a chart may have as its version.
pub const VERSION: &str = "1.0.0";
const SIZES: [usize; 3] = [1024, 64 * 1024, 3 << 20];
const FILE_TYPE: &str = "application/vnd.binaryrepo.test";

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pusher {
    Docker,
    Podman,
    Buildah,
    Skopeo,
    Ctr,
    Crane,
    Regctl,
    /// Pushes and pulls a file.
    Oras,
    /// Pushes and pulls a chart.
    Helm,
}

impl Pusher {
    pub fn name(self) -> &'static str {
        match self {
            Pusher::Docker => "docker",
            Pusher::Podman => "podman",
            Pusher::Buildah => "buildah",
            Pusher::Skopeo => "skopeo",
            Pusher::Ctr => "ctr",
            Pusher::Crane => "crane",
            Pusher::Regctl => "regctl",
            Pusher::Oras => "oras",
            Pusher::Helm => "helm",
        }
    }

    /// The client whose store its images lie in, if it has one.
    pub fn store(self) -> Option<Client> {
        match self {
            Pusher::Docker => Some(Client::Docker),
            // Both work on one store.
            Pusher::Podman | Pusher::Buildah => Some(Client::Podman),
            Pusher::Ctr => Some(Client::Ctr),
            Pusher::Skopeo | Pusher::Crane | Pusher::Regctl | Pusher::Oras | Pusher::Helm => None,
        }
    }
}

/// A registry's host as clients are told it, and the path on it where images go.
#[derive(Clone, Debug)]
pub struct Site {
    pub host: String,
    pub path: String,
    pub tls: bool,
}

impl Site {
    /// The server itself, without TLS.
    pub fn direct(path: &str) -> Site {
        Site { host: format!("localhost:{}", crate::server::PORT), path: path.to_owned(), tls: false }
    }

    pub fn nginx(host: &str, path: &str) -> Site {
        Site { host: host.to_owned(), path: path.to_owned(), tls: true }
    }

    /// Without a tag.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{}/{name}", self.host, self.path)
    }

    pub fn reference(&self, name: &str) -> String {
        format!("{}:{VERSION}", self.image(name))
    }
}

/// One client at work on one site, in a home of its own: nobody else's log-ins.
pub struct Hand {
    pub pusher: Pusher,
    pub site: Site,
    clients: Clients,
    home: TempDir,
    authority: PathBuf,
    /// Where the clients lie that are Go programs.
    programs: PathBuf,
    user: Option<(String, String)>,
}

impl Hand {
    pub fn new(
        pusher: Pusher,
        site: &Site,
        clients: &Clients,
        authority: &Path,
        source: &Path,
    ) -> Outcome<Hand> {
        let home = TempDir::with_prefix(format!("{}-", pusher.name()))?;
        // Podman and its like want a file that they are told about to be there.
        fs::write(home.path().join("auth.json"), "{}")?;
        let (clients, authority) = (clients.clone(), authority.to_owned());
        let programs = source.join("target/clients/everyday");
        Ok(Hand { pusher, site: site.clone(), clients, home, authority, programs, user: None })
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The client's own program, where it is at home.
    pub fn program(&self) -> Run {
        let command = match self.pusher {
            Pusher::Podman => self.clients.podman(),
            Pusher::Buildah => self.clients.buildah(),
            Pusher::Ctr => clients::ctr(),
            Pusher::Docker | Pusher::Skopeo => run(self.pusher.name()),
            Pusher::Crane | Pusher::Oras | Pusher::Helm => run(self.programs.join(self.pusher.name())),
            Pusher::Regctl => {
                let tls = if self.site.tls { "enabled" } else { "disabled" };
                run(self.programs.join("regctl"))
                    .args(["--host", &format!("reg={},tls={tls}", self.site.host)])
            }
        };
        command
            .env("HOME", self.home.path())
            .env("REGISTRY_AUTH_FILE", self.home.path().join("auth.json"))
            .env("SSL_CERT_FILE", &self.authority)
    }

    /// What the client must be told where there is no TLS; most know it of localhost.
    pub fn plain(&self) -> &'static [&'static str] {
        match self.pusher {
            _ if self.site.tls => &[],
            Pusher::Podman | Pusher::Buildah | Pusher::Skopeo => &["--tls-verify=false"],
            Pusher::Ctr | Pusher::Oras | Pusher::Helm => &["--plain-http"],
            Pusher::Docker | Pusher::Crane | Pusher::Regctl => &[],
        }
    }

    /// Makes something to push, in the client's own store.
    pub fn stock(&self, maker: &Maker, upstream: &Upstream, name: &str) -> Outcome<Image> {
        // docker writes its own media types whatever the image had.
        let family = if self.pusher == Pusher::Docker { Family::Docker } else { Family::Oci };
        let image = maker.image(family, &SIZES);
        match (self.pusher, self.pusher.store()) {
            (_, Some(store)) => {
                upstream.publish(&format!("stock/{name}"), "1", &image)?;
                self.clients.pull(store, &stocked(name), &image)?;
            }
            (Pusher::Oras, _) => fs::write(self.home().join(name), payload(&image))?,
            (Pusher::Helm, _) => self.package(name, &image)?,
            _ => layout::write_image(&self.home().join("layout"), &image)?,
        }
        Ok(image)
    }

    fn package(&self, name: &str, image: &Image) -> Outcome {
        let chart = self.home().join(name);
        fs::create_dir_all(&chart)?;
        fs::write(chart.join("Chart.yaml"), format!("apiVersion: v2\nname: {name}\nversion: {VERSION}\n"))?;
        fs::write(chart.join("payload"), payload(image))?;
        self.program().args(["package".as_ref(), chart.as_os_str()]).dir(self.home()).success().map(drop)
    }

    /// Asks the registry; `None` for a client that is given the password with each command.
    pub fn login_command(&self, user: &str, password: &str) -> Option<Run> {
        let words: &[&str] = match self.pusher {
            Pusher::Ctr => return None,
            Pusher::Docker | Pusher::Podman | Pusher::Buildah | Pusher::Skopeo | Pusher::Oras => &["login"],
            Pusher::Crane => &["auth", "login"],
            Pusher::Regctl | Pusher::Helm => &["registry", "login"],
        };
        let named = self.program().args(words).args(self.plain());
        Some(match self.pusher {
            Pusher::Regctl => named.args(["--user", user, "--pass", password, &self.site.host]),
            _ => named.args(["-u", user, "-p", password, &self.site.host]),
        })
    }

    pub fn login(&mut self, (user, password): (&str, &str)) -> Outcome {
        if let Some(command) = self.login_command(user, password) {
            command.success()?;
        }
        self.user = Some((user.to_owned(), password.to_owned()));
        Ok(())
    }

    pub fn logout(&mut self) -> Outcome {
        self.user = None;
        let words: &[&str] = match self.pusher {
            Pusher::Ctr => return Ok(()),
            Pusher::Docker | Pusher::Podman | Pusher::Buildah | Pusher::Skopeo | Pusher::Oras => &["logout"],
            Pusher::Crane => &["auth", "logout"],
            Pusher::Regctl | Pusher::Helm => &["registry", "logout"],
        };
        self.program().args(words).arg(&self.site.host).success().map(drop)
    }

    pub fn push(&self, name: &str) -> Outcome<Done> {
        let target = self.site.reference(name);
        let layout = self.home().join("layout");
        let plain = self.plain();
        match self.pusher {
            Pusher::Docker => {
                run("docker").args(["tag", &stocked(name), &target]).success()?;
                self.program().args(["push", &target])
            }
            Pusher::Podman | Pusher::Buildah => {
                self.program().arg("push").args(plain).args([stocked(name), format!("docker://{target}")])
            }
            Pusher::Skopeo => {
                let source = format!("oci:{}:{TAG}", layout.display());
                self.skopeo_copy().args([source, format!("docker://{target}")])
            }
            Pusher::Ctr => self.ctr("push").args([target, stocked(name)]),
            Pusher::Crane => self.program().arg("push").arg(layout).arg(target),
            Pusher::Regctl => self.program().args([
                "image",
                "copy",
                &format!("ocidir://{}:{TAG}", layout.display()),
                &target,
            ]),
            Pusher::Oras => {
                let file = format!("{name}:{FILE_TYPE}");
                self.program().arg("push").args(plain).args([target, file]).dir(self.home())
            }
            Pusher::Helm => {
                let (file, target) = (self.chart(self.home(), name), self.oci(""));
                self.program().arg("push").args(plain).arg(file).arg(target)
            }
        }
        .done()
    }

    /// A pull into a store that has nothing of it.
    pub fn pull(&self, name: &str) -> Outcome<Done> {
        self.forget(name)?;
        let source = self.site.reference(name);
        let out = self.out();
        let plain = self.plain();
        match self.pusher {
            Pusher::Docker => self.program().args(["pull", &source]),
            Pusher::Podman | Pusher::Buildah => self.program().arg("pull").args(plain).arg(source),
            Pusher::Skopeo => {
                self.skopeo_copy().args([format!("docker://{source}"), format!("dir:{}", out.display())])
            }
            Pusher::Ctr => self.ctr("pull").arg(source),
            Pusher::Crane => self.program().args(["pull", "--format=oci", &source]).arg(out),
            Pusher::Regctl => {
                let target = format!("ocidir://{}:{TAG}", out.display());
                self.program().args(["image", "copy", &source, &target])
            }
            Pusher::Oras => {
                self.program().arg("pull").args(plain).args(["-o".as_ref(), out.as_os_str()]).arg(source)
            }
            Pusher::Helm => self
                .program()
                .arg("pull")
                .args(plain)
                .args([&self.oci(name), "--version", VERSION, "-d"])
                .arg(out),
        }
        .done()
    }

    fn forget(&self, name: &str) -> Outcome {
        if let Some(store) = self.pusher.store() {
            // An image stays while it has one name left.
            self.clients.forget(store, &stocked(name))?;
            self.clients.forget(store, &self.site.reference(name))?;
        }
        // helm keeps charts that it has seen.
        for dir in [self.out(), self.home().join(".cache")] {
            if dir.exists() {
                fs::remove_dir_all(dir)?;
            }
        }
        Ok(fs::create_dir_all(self.out())?)
    }

    /// Whether the last pull brought what was stocked, byte for byte.
    pub fn check(&self, name: &str, image: &Image) -> Outcome {
        let out = self.out();
        match (self.pusher, self.pusher.store()) {
            (_, Some(store)) => self.clients.check(store, &self.site.reference(name), image),
            (Pusher::Oras, _) => same(&fs::read(out.join(name))?, payload(image)),
            (Pusher::Helm, _) => {
                let pushed = fs::read(self.chart(self.home(), name))?;
                same(&fs::read(self.chart(&out, name))?, &pushed)
            }
            (Pusher::Skopeo, _) => clients::check_dir(&out, image),
            _ => {
                let blobs = image.blobs().chain([&image.manifest]);
                blobs.map(|blob| (layout::path_of(&out, blob), blob)).try_for_each(whole)
            }
        }
        .context(format!("{} has pulled {name} back", self.pusher.name()))
    }

    fn out(&self) -> PathBuf {
        self.home().join("out")
    }

    /// skopeo has a flag for each end.
    pub fn skopeo_copy(&self) -> Run {
        let plain: &[&str] =
            if self.site.tls { &[] } else { &["--src-tls-verify=false", "--dest-tls-verify=false"] };
        self.program().arg("copy").args(plain)
    }

    pub fn ctr(&self, what: &str) -> Run {
        let command = self.program().args(["images", what, "--hosts-dir", "/etc/containerd/certs.d"]);
        let command = command.args(self.plain());
        match &self.user {
            Some((user, password)) => command.args(["--user", &format!("{user}:{password}")]),
            None => command,
        }
    }

    fn oci(&self, name: &str) -> String {
        format!("oci://{}", self.site.image(name)).trim_end_matches('/').to_owned()
    }

    fn chart(&self, dir: &Path, name: &str) -> PathBuf {
        dir.join(format!("{name}-{VERSION}.tgz"))
    }
}

/// Where the clients with a store find what they push.
pub fn stocked(name: &str) -> String {
    format!("{REGISTRY}:{}/stock/{name}:1", front::PORT)
}

/// What a client without images pushes: the largest layer.
fn payload(image: &Image) -> &[u8] {
    image.layers.last().map_or(&[], |layer| &layer.bytes)
}

fn same(found: &[u8], wanted: &[u8]) -> Outcome {
    ensure!(found == wanted, "{} bytes came back for {} that went", found.len(), wanted.len());
    Ok(())
}

fn whole((path, blob): (PathBuf, &Blob)) -> Outcome {
    let bytes = fs::read(&path).context(path.display())?;
    ensure!(digest_of(&bytes) == blob.digest, "{} is wrong", blob.digest);
    Ok(())
}

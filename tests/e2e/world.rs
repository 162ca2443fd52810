//! Owns everything that a scenario may use, each piece started when it is first needed.
//! Must not know: the scenarios.

use crate::clients::{self, Client, Clients};
use crate::daemons::{Containerd, Dockerd, Nginx};
use crate::front::{self, CDN, Front, REGISTRY, TOKEN_SERVER, Weather};
use crate::images::{Image, Maker};
use crate::log::Log;
use crate::process::run;
use crate::pushers::{Hand, Pusher, Site};
use crate::sandbox::UPSTREAM_IP;
use crate::server::{Door, Server};
use crate::trouble::{Context, Outcome, ensure};
use crate::upstream::Upstream;
use crate::wire::{Authority, Origin, client_tls};
use hyper::Method;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// The default remote, by its host behind nginx.
pub const REMOTE: &str = "docker-remote.binaryrepo.local";
/// A remote whose tags are fresh for a second only.
pub const SHORT: &str = "short.binaryrepo.local";
/// A remote that has the upstream's user and password.
pub const PRIVATE: &str = "private.binaryrepo.local";
/// A name that nginx maps to /repo/docker-remote.
pub const OWN_NAME: &str = "docker-remote.example.com";
/// A local repository; where there are users, anybody reads it.
pub const LOCAL: &str = "docker-local";
/// One that wants a log-in for everything, where there are users.
pub const CLOSED: &str = "closed";
/// One whose tags are not moved.
pub const FROZEN: &str = "frozen";
/// Who writes to the local repositories, where there are users.
pub const MEMBER: (&str, &str) = ("ben", "a member's own password");
pub const SHORT_TTL: Duration = Duration::from_secs(1);

pub struct World {
    // In the order in which they must stop.
    pub nginx: Option<Nginx>,
    pub server: Option<Server>,
    dockerd: Option<Dockerd>,
    containerd: Option<Containerd>,
    pub front: Front,
    pub upstream: Upstream,
    pub maker: Maker,
    pub clients: Clients,
    pub dir: PathBuf,
    pub source: PathBuf,
    pub runtime: Runtime,
}

impl World {
    pub fn new(dir: &Path, source: &Path) -> Outcome<World> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let upstream = Upstream::start(runtime.handle(), dir)?;
        let authority = Authority::new("upstream's authority", &[REGISTRY, TOKEN_SERVER, CDN])?;
        fs::write(dir.join("upstream-ca.crt"), &authority.ca)?;
        let address = format!("{UPSTREAM_IP}:{}", front::PORT).parse()?;
        let front = Front::start(runtime.handle(), address, &authority, Upstream::ADDRESS)?;
        let (maker, clients) = (Maker::new(dir)?, Clients::new(dir));
        fs::create_dir_all(dir.join("clients/home"))?;
        clients::trust(&format!("{REGISTRY}:{}", front::PORT), &dir.join("upstream-ca.crt"))?;
        let (dir, source) = (dir.to_owned(), source.to_owned());
        let mut world = World {
            nginx: None,
            server: None,
            dockerd: None,
            containerd: None,
            front,
            upstream,
            maker,
            clients,
            dir,
            source,
            runtime,
        };
        world.trust_nginx()?;
        Ok(world)
    }

    /// Certificates as a user makes them, trusted as the script says.
    fn trust_nginx(&mut self) -> Outcome {
        let script = self.source.join("ops/setup-certs.sh");
        run("bash").args([&script]).env("CERTS_DIR", self.certs()).success()?;
        let authority = self.nginx_authority();
        for host in [REMOTE, SHORT, PRIVATE, OWN_NAME, "docker-local.binaryrepo.local", "binaryrepo.local"] {
            clients::trust(host, &authority)?;
        }
        clients::hosts_toml("docker.io", "https://binaryrepo.local", &authority)?;
        clients::registries_conf("docker.io", REMOTE)
    }

    pub fn certs(&self) -> PathBuf {
        self.dir.join("certs")
    }

    pub fn nginx_authority(&self) -> PathBuf {
        self.certs().join("ca.crt")
    }

    pub fn docker(&mut self) -> Outcome<&Dockerd> {
        if self.dockerd.is_none() {
            self.dockerd = Some(Dockerd::start(&self.dir, &format!("https://{REMOTE}"))?);
        }
        Ok(self.dockerd.as_ref().expect("just started"))
    }

    /// Starts what a client needs of its own.
    pub fn ready(&mut self, client: Client) -> Outcome {
        match client {
            Client::Docker => self.docker().map(drop)?,
            Client::Ctr if self.containerd.is_none() => self.containerd = Some(Containerd::start(&self.dir)?),
            Client::Ctr | Client::Podman | Client::Skopeo => {}
        }
        Ok(())
    }

    /// A client that is to push, ready to.
    pub fn hand(&mut self, pusher: Pusher, site: &Site) -> Outcome<Hand> {
        if let Some(store) = pusher.store() {
            self.ready(store)?;
        }
        Hand::new(pusher, site, &self.clients, &self.nginx_authority(), &self.source)
    }

    /// Starts binaryrepo, with its remotes pointed at the upstream, and nginx before it.
    pub fn serve(&mut self) -> Outcome<&Server> {
        self.serve_behind(Door::Open)
    }

    /// The same with users: `MEMBER` writes to the local repositories, and `docker-local` is read by anybody.
    pub fn serve_users(&mut self) -> Outcome<&Server> {
        self.serve_behind(Door::Users)
    }

    fn serve_behind(&mut self, door: Door) -> Outcome<&Server> {
        if let Some(other) = self.server.take_if(|server| server.door != door) {
            other.stop()?;
        }
        if self.server.is_none() {
            let server = Server::start(self.runtime.handle(), &self.dir, door)?;
            self.furnish(&server)?;
            self.server = Some(server);
        }
        if self.nginx.is_none() {
            self.nginx = Some(Nginx::start(&self.dir, &self.source.join("nginx"), &self.certs())?);
        }
        Ok(self.server.as_ref().expect("just started"))
    }

    /// Points the remotes at the upstream, and makes what else the scenarios use, once for each data directory.
    fn furnish(&self, server: &Server) -> Outcome {
        let known = server.api(Method::GET, "/api/repository", &Value::Null)?;
        if known.text.contains(REGISTRY) {
            return Ok(());
        }
        let gone = server.api(Method::DELETE, "/api/repository/docker-remote", &Value::Null)?;
        ensure!(
            gone.status().is_success(),
            "deleting docker-remote was answered {}: {}",
            gone.status(),
            gone.text
        );
        let remote = |name: &str, more: Value| {
            let mut body = json!({
                "name": name, "repo_type": "remote", "package_type": "docker", "remote_url": upstream_url(),
                "ca_file": self.dir.join("upstream-ca.crt"), "allowed_hosts": [TOKEN_SERVER, CDN],
            });
            body.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
            body
        };
        server.add(&remote(
            "docker-remote",
            json!({ "upstream_namespace": "docker.io", "default_mirror": true }),
        ))?;
        server.add(&remote("short", json!({ "tag_ttl": "1s" })))?;
        let user = json!({ "username": front::USER, "password": front::PASSWORD, "anonymous_pull": true });
        server.add(&remote("private", user))?;
        let local = |name: &str| json!({ "name": name, "repo_type": "local", "package_type": "docker" });
        server.add(&local(CLOSED))?;
        let mut frozen = local(FROZEN);
        frozen["immutable_tags"] = json!(true);
        server.add(&frozen)?;
        if server.door == Door::Users { invite(server) } else { Ok(()) }
    }

    /// A client of nginx's for single requests.
    pub fn through_nginx(&self, host: &str) -> Outcome<Origin> {
        let authority = fs::read_to_string(self.nginx_authority())?;
        Ok(Origin { host: host.to_owned(), port: 443, tls: Some(client_tls(&[&authority])?) })
    }

    /// Pulls an image cold and then warm, and holds the upstream's log against both.
    pub fn cold_and_warm(&mut self, client: Client, reference: &str, image: &Image) -> Outcome {
        self.ready(client)?;
        let mark = self.front.mark();
        let begun = Instant::now();
        self.clients.pull(client, reference, image)?;
        let cold = begun.elapsed();
        expect_cold(&self.front.since(mark), &[image]).context(format!("{}, cold", client.name()))?;
        let mark = self.front.mark();
        let begun = Instant::now();
        self.clients.pull(client, reference, image)?;
        expect_warm(&self.front.since(mark)).context(format!("{}, warm", client.name()))?;
        step(&format!("{:<7}{reference}: cold {:.1?}, warm {:.1?}", client.name(), cold, begun.elapsed()));
        Ok(())
    }

    /// Brings the upstream back to what the next scenario expects.
    pub fn calm(&mut self) -> Outcome {
        self.front.set(Weather::Fair);
        if self.front.serving() { Ok(()) } else { self.front.resume() }
    }

    /// What to read when a scenario has failed.
    pub fn post_mortem(&self) -> String {
        let server = self
            .server
            .as_ref()
            .map_or_else(String::new, |server| format!("  binaryrepo's log ends with:\n{}", server.tail(25)));
        let docker = self
            .dockerd
            .as_ref()
            .map_or_else(String::new, |dockerd| format!("  dockerd's log ends with:\n{}", dockerd.tail()));
        let log = self.front.since(self.front.mark().saturating_sub(15)).lines();
        format!("{server}{docker}  the upstream saw at last:\n{log}")
    }
}

fn invite(server: &Server) -> Outcome {
    let (name, password) = MEMBER;
    server.post("/api/users", &json!({ "name": name, "password": password }))?;
    for (repository, images) in [(LOCAL, "team/*"), (CLOSED, "*")] {
        let grant = json!({ "user": name, "repository": repository, "images": images, "role": "write" });
        server.post("/api/grants", &grant)?;
    }
    let path = format!("/api/repository/{LOCAL}");
    let changed = server.api(Method::PUT, &path, &json!({ "anonymous_pull": true }))?;
    ensure!(changed.status() == 200, "PUT {path} was answered {}: {}", changed.status(), changed.text);
    Ok(())
}

pub fn upstream_url() -> String {
    format!("https://{REGISTRY}:{}", front::PORT)
}

/// One GET for each blob, one for the manifest, whether by tag or digest.
pub fn expect_cold(log: &Log, images: &[&Image]) -> Outcome {
    let (blobs, manifests) = (log.blob_gets(), log.manifest_gets());
    for blob in images.iter().flat_map(|image| image.blobs()) {
        let count = blobs.get(&blob.digest).copied().unwrap_or(0);
        ensure!(
            count == 1,
            "the upstream saw {count} GETs of {} instead of one:\n{}",
            blob.digest,
            log.lines()
        );
    }
    let wanted: usize = images.iter().map(|image| image.blobs().count()).sum();
    ensure!(blobs.len() == wanted, "the upstream was asked for other blobs too:\n{}", log.lines());
    let count: usize = manifests.values().sum();
    ensure!(count == 1, "the upstream saw {count} GETs of manifests instead of one:\n{}", log.lines());
    Ok(())
}

/// No GET at all; a HEAD of a tag is allowed, it asks whether the tag has moved.
pub fn expect_warm(log: &Log) -> Outcome {
    let gets = log.blob_gets().len() + log.manifest_gets().len();
    ensure!(gets == 0, "the upstream was asked again:\n{}", log.lines());
    Ok(())
}

/// Says how far a scenario is.
pub fn step(what: &str) {
    println!("      {what}");
}

pub fn eventually(
    limit: Duration,
    mut holds: impl FnMut() -> bool,
    sentence: impl FnOnce() -> String,
) -> Outcome {
    let deadline = Instant::now() + limit;
    while !holds() {
        ensure!(Instant::now() < deadline, "{}", sentence());
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

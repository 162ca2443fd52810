//! A running server with repositories of every kind, and users.
//!
//! | repository | kind | who reads it without a log-in, where there are users |
//! |---|---|---|
//! | `docker-remote` | remote, default mirror, `docker.io` | nobody |
//! | `open-remote` | remote with `anonymous_pull` | everybody |
//! | `vault` | remote with stored credentials | nobody |
//! | `docker-local` | local | nobody |
//! | `public-local` | local with `anonymous_pull` | everybody |

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use binaryrepo::config::{Config, ENV_ADMIN_TOKEN, FirstAdmin, Sources};
use binaryrepo::telemetry::{AccessLog, LogFormat, set_access_log};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::client::{Answer, Request};
use super::support::image::Image;
use super::support::upstream::Registry;

pub const ADMIN_TOKEN: &str = "canary-administrator";
/// Administrator.
pub const EVE: (&str, &str) = ("eve", "canary-password-of-eve");
/// Writes `docker-local/team/*`, reads `vault`.
pub const ADA: (&str, &str) = ("ada", "canary-password-of-ada");
/// Was granted nothing.
pub const BOB: (&str, &str) = ("bob", "canary-password-of-bob");
/// The registry's clients come from here, through a proxy that is trusted.
pub const CLIENT: &str = "203.0.113.7";

pub struct House {
    pub address: SocketAddr,
    pub registry: Registry,
    pub image: Image,
    pub dir: TempDir,
    more: String,
    /// Stops the server when dropped.
    stop: DropGuard,
    server: JoinHandle<()>,
}

impl House {
    /// Without users.
    pub async fn open() -> Self {
        Self::with("open_access = true", None).await
    }

    /// With eve, ada and bob.
    pub async fn new() -> Self {
        Self::with_users("").await
    }

    pub async fn with_users(more: &str) -> Self {
        let house = Self::with(more, Some(EVE)).await;
        for (name, password) in [ADA, BOB] {
            let body = json!({ "name": name, "password": password });
            assert_eq!(house.manage("POST", "/api/users", Some(&body)).await.status, 201);
        }
        house.grant("ada", "docker-local", "team/*", "write").await;
        house.grant("ada", "vault", "*", "read").await;
        house
    }

    /// `more` goes into the section `[server]`; `admin` is who the first start makes.
    async fn with(more: &str, admin: Option<(&str, &str)>) -> Self {
        record_the_log();
        let registry = Registry::open().await;
        let image = Image::new(7, &[2_000]);
        registry.add_image("library/redis", "7", &image);
        registry.add_image("team/app", "1", &image);
        let dir = tempfile::tempdir().unwrap();
        let (address, stop, server) = start(&dir, &registry, more, admin).await;
        Self { address, registry, image, dir, more: more.to_owned(), stop, server }
    }

    /// An orderly stop and a new start.
    pub async fn restart(self) -> Self {
        let Self { registry, image, dir, more, stop, server, .. } = self;
        drop(stop);
        server.await.unwrap();
        let (address, stop, server) = start(&dir, &registry, &more, None).await;
        Self { address, registry, image, dir, more, stop, server }
    }

    /// From elsewhere, to the plain host.
    pub fn request(&self, method: &str, path: &str) -> Request {
        Request::new(self.address, method, path).through_proxy(CLIENT)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.request("GET", path).send().await
    }

    /// With the administrator's token.
    pub async fn manage(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let request = self.api(method, path).bearer(ADMIN_TOKEN);
        match body {
            Some(body) => request.json(body).send().await,
            None => request.send().await,
        }
    }

    /// A request to the management API from elsewhere, with nothing in hand.
    pub fn api(&self, method: &str, path: &str) -> Request {
        self.request(method, path).host("api.binaryrepo.local")
    }

    pub async fn grant(&self, user: &str, repository: &str, images: &str, role: &str) {
        let body = json!({ "user": user, "repository": repository, "images": images, "role": role });
        let answer = self.manage("POST", "/api/grants", Some(&body)).await;
        assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
    }

    /// A ticket for one scope, from the token endpoint.
    pub async fn ticket(&self, user: Option<(&str, &str)>, scope: &str) -> String {
        let request = self.request("GET", &format!("/token?service=s&scope={scope}"));
        let request = match user {
            Some((user, password)) => request.basic(user, password),
            None => request,
        };
        request.send().await.token()
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

async fn start(
    dir: &TempDir,
    registry: &Registry,
    more: &str,
    admin: Option<(&str, &str)>,
) -> (SocketAddr, DropGuard, JoinHandle<()>) {
    let mut config = config(dir, &settings(registry, more));
    config.first_admin = admin.map(|(name, password)| {
        let password_file = dir.path().join("password");
        std::fs::write(&password_file, password).unwrap();
        FirstAdmin { name: name.parse().unwrap(), password_file }
    });
    let stop = CancellationToken::new();
    let (tell, told) = oneshot::channel();
    let shutdown = stop.clone();
    let server = tokio::spawn(async move {
        let started = |started: &binaryrepo::Started| tell.send(started.address).unwrap();
        binaryrepo::serve(config, shutdown, started).await.unwrap();
    });
    (told.await.expect("the server starts"), stop.drop_guard(), server)
}

/// The configuration with this file, and the data in this directory.
pub fn config(dir: &TempDir, text: &str) -> Config {
    let file = dir.path().join("config.toml");
    std::fs::write(&file, text).unwrap();
    let env = [
        (ENV_ADMIN_TOKEN, ADMIN_TOKEN.to_owned()),
        ("BINARYREPO_STORAGE__PATH", dir.path().join("data").display().to_string()),
    ];
    let env = env.map(|(name, value)| (name.to_owned(), value)).into();
    Config::load(&Sources { file: Some(file), env, ..Sources::default() }).unwrap()
}

fn settings(registry: &Registry, more: &str) -> String {
    let url = registry.url();
    format!(
        r#"
[server]
listen = "127.0.0.1:0"
trusted_proxies = ["127.0.0.1/32"]
{more}

[storage]
min_free = 0

[[repository]]
name = "docker-remote"
repo_type = "remote"
remote_url = "{url}"
upstream_namespace = "docker.io"
default_mirror = true

[[repository]]
name = "open-remote"
repo_type = "remote"
remote_url = "{url}"
upstream_namespace = "open.test"
anonymous_pull = true

[[repository]]
name = "vault"
repo_type = "remote"
remote_url = "{url}"
upstream_namespace = "vault.test"
username = "u"
password = "canary-of-the-vault"

[[repository]]
name = "public-local"
repo_type = "local"
anonymous_pull = true
"#
    )
}

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

fn log() -> MutexGuard<'static, Vec<u8>> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All that all servers of this process have logged.
pub fn logged() -> String {
    String::from_utf8_lossy(&log()).into_owned()
}

struct Recorder;

impl Write for Recorder {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        log().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn record_the_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing_subscriber::fmt()
            .with_env_filter("binaryrepo=trace,hyper=debug")
            .with_ansi(false)
            .with_writer(|| Recorder)
            .init();
        set_access_log(AccessLog::new(LogFormat::Text, |line| log().extend_from_slice(line)));
    });
}

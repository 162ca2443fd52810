//! binaryrepo: a binary repository manager. A pull-through cache of any OCI registry that fetches each thing
//! once, however many ask, and streams it to all of them while it comes.
//!
//! This file owns the wiring: from a configuration to a running server and back to nothing. It must not know
//! arguments, protocol details, or how anything is printed.
//!
//! The rooms, from the door inwards; an arrow may skip floors downwards and never runs up:
//!
//! ```text
//! main, cli ─> http ─> { docker | api } ─> reply ─> engine ─> { cache | store | meta | upstream } ─> names
//! ```
//!
//! - [`http`]: connections, the envelope around each request, who may manage.
//! - [`docker`]: the registry protocol; [`api`]: the management API; [`reply`]: what both answer with.
//! - [`engine`]: the one place where the four below meet, and where all tasks live.
//! - [`cache`]: the pure state machine that decides; [`store`]: blobs as files; [`meta`]: rows in redb;
//!   [`upstream`]: other registries.
//! - [`backup`]: a directory that a data directory can be made from again.
//! - [`names`]: values that are right if they exist. [`clock`], [`telemetry`], [`text`]: under everything;
//!   [`planted`]: bugs for tests to find.
//! - [`config`], [`form`]: what an administrator writes, in files and requests.

pub mod api;
pub mod backup;
pub mod cache;
pub mod clock;
pub mod config;
pub mod docker;
pub mod engine;
pub mod form;
pub mod http;
pub mod meta;
pub mod names;
pub mod planted;
pub mod reply;
pub mod store;
pub mod telemetry;
pub mod text;
pub mod upstream;

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::iter;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::clock::Clock;
use crate::config::{Config, ConfigError, FirstAdmin};
use crate::docker::{Site, bare_host};
use crate::engine::{
    Engine, EngineError, LocalSpec, MaxSize, NewAccount, OpenError, RemoteSpec, Repository, RepositorySpec,
    Secret, Settings, Taken,
};
use crate::http::{Gate, Limits, Listener, Pace, Service, Threads};
use crate::meta::{AccessTokenRow, AccountRow, MetaError, RepositoryRow, Row as _, Snapshots};
use crate::names::RepositoryName;
use crate::telemetry::Metrics;
use crate::text::Limit;

/// A server that listens, for the lines that it greets with.
#[derive(Clone, Debug)]
pub struct Started {
    /// With the real port where 0 was asked for.
    pub address: SocketAddr,
    pub data_dir: PathBuf,
    /// The data directory was made just now.
    pub created: bool,
    pub upgraded: Option<Upgraded>,
    pub free_bytes: u64,
    /// What cached content may take.
    pub limit_bytes: u64,
    pub repositories: Vec<StartedRepository>,
    /// Somebody can log in, so most pulls need it.
    pub users: bool,
    /// `None`: the token came from the environment.
    pub token_file: Option<PathBuf>,
    /// From the start of the process until it listened.
    pub took: Duration,
}

/// The layout of the metadata is another one now.
#[derive(Clone, Debug)]
pub struct Upgraded {
    pub from: u32,
    pub to: u32,
    /// Where it lies as it was.
    pub kept: PathBuf,
}

#[derive(Clone, Debug)]
pub struct StartedRepository {
    pub name: RepositoryName,
    /// `None` for a local one.
    pub upstream: Option<String>,
}

/// Why a server, or an engine without one, did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Unusable: not ours, of a newer version, damaged, full, not writable.
    #[error("the data directory {} cannot be used: {why}", path.display())]
    DataDir { path: PathBuf, why: String, hint: Option<String> },
    /// Another process works on it.
    #[error("the data directory {} is in use by another binaryrepo", .0.display())]
    InUse(PathBuf),
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    /// Open to strangers, and nobody said that it should be; or a repository that cannot be made.
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Failed(String),
}

/// Runs a server until `shutdown` is cancelled, then drains it. `started` is called once, when it listens.
pub async fn serve(
    config: Config,
    shutdown: CancellationToken,
    started: impl FnOnce(&Started),
) -> Result<(), StartError> {
    let clock = Clock::new();
    // Before the data directory is touched: an address in use is the likelier mistake.
    let address = config.server.listen;
    let listener = Listener::tcp(address).map_err(|source| StartError::Listen { address, source })?;
    let address = listener.local_address().unwrap_or(address);
    // They outlive the engine: connections to upstreams that were opened on them serve it too.
    let workers = Handle::current().metrics().num_workers();
    let threads = Threads::start(workers, "connections").map_err(|error| {
        StartError::Failed(format!("the threads of the connections cannot be started: {error}"))
    })?;
    let threads = Arc::new(threads);
    let created = is_new(&config);
    if created {
        // Nothing is made for a server that will not start.
        config.check_serving(false)?;
        config.check_repositories(&[])?;
    }
    let engine = open(&config, settings(&config)).await?;
    if let Err(error) = make_configured(&engine, &config).await {
        engine.shutdown().await;
        return Err(error);
    }
    let (token, token_file, admin) = match doors(&engine, &config).await {
        Ok(doors) => doors,
        Err(error) => {
            // In order, so that what is cached stays trusted.
            engine.shutdown().await;
            return Err(error);
        }
    };
    let status = engine.status().await;
    started(&Started {
        address,
        data_dir: config.storage.path.clone(),
        created,
        upgraded: engine.upgraded_from().map(|from| Upgraded {
            from,
            to: meta::SCHEMA,
            kept: config.storage.path.join(format!("{}.schema-{from}", meta::FILE)),
        }),
        free_bytes: status.free_bytes,
        limit_bytes: settings(&config).limit(0, status.free_bytes, status.total_bytes),
        repositories: engine.repositories().list().iter().map(|one| listed(one)).collect(),
        users: !engine.accounts().is_empty(),
        token_file,
        took: Duration::from_millis(clock.now().0),
    });
    let service = Service::new(engine.clone(), front(&config, token), clock);
    let limits = Limits {
        connections: config.server.max_connections,
        first_head: config.server.header_timeout,
        idle: config.server.idle_timeout,
        stalled_write: config.server.write_timeout,
        ..Limits::default()
    };
    let grace = config.server.shutdown_grace;
    let listeners = iter::once(listener).chain(admin).collect();
    let stopped = http::serve(listeners, service, limits, Arc::clone(&threads), shutdown, grace).await;
    if stopped.broken > 0 {
        tracing::warn!(connections = stopped.broken, "the grace was over: connections were broken");
    }
    engine.shutdown().await;
    tracing::info!("stopped");
    Ok(())
}

/// Who may come in, and the administrators' own ways: the token, the file that it lies in, the socket.
async fn doors(
    engine: &Engine,
    config: &Config,
) -> Result<(Secret, Option<PathBuf>, Option<Listener>), StartError> {
    let_somebody_in(engine, config).await?;
    let (token, token_file) = admin_token(config).map_err(|error| unusable(config, error))?;
    let admin = Listener::admin(&config.storage.socket()).map_err(|error| unusable(config, error))?;
    Ok((token, token_file, admin))
}

/// The engine without a server, for commands while none runs. Its user shuts it down.
pub async fn offline(config: &Config) -> Result<Engine, StartError> {
    // They are the server's, and belong to its user.
    let settings = Settings { snapshots: None, ..settings(config) };
    let engine = open(config, settings).await?;
    match make_configured(&engine, config).await {
        Ok(()) => Ok(engine),
        // The start of a server is refused; a command may be what mends it.
        Err(StartError::Config(error)) => {
            tracing::warn!(hint = error.hint(), "a configured repository is not made: {error}");
            Ok(engine)
        }
        Err(error) => {
            engine.shutdown().await;
            Err(error)
        }
    }
}

/// Makes the configured repositories that are not there yet, all or none.
async fn make_configured(engine: &Engine, config: &Config) -> Result<(), StartError> {
    let there = engine.repositories().list();
    config
        .check_repositories(&there.iter().map(|one| Taken::of(&one.name, &one.spec())).collect::<Vec<_>>())?;
    for entry in &config.repositories {
        if let Some(there) = engine.repositories().by_name(entry.name.as_str()) {
            if there.spec() != entry.spec {
                // What was changed by API or command while running must not be undone by a restart.
                tracing::warn!(repository = %entry.name, hint = "`binaryrepo repo update` changes it",
                    "a configured repository is there already, with other settings: those stay");
            }
            continue;
        }
        let made = engine.repositories().create(entry.name.clone(), entry.spec.clone()).await;
        made.map_err(|error| {
            StartError::Failed(format!("the configured repository {}: {error}", entry.name))
        })?;
    }
    Ok(())
}

/// What a data directory holds that a configuration has to go with.
#[derive(Clone, Debug, Default)]
pub struct Inside {
    /// Somebody can log in.
    pub users: bool,
    pub repositories: Vec<Taken>,
}

/// Looks into the data while no server runs. Changes nothing: a data directory of an older version stays one.
pub fn inside(config: &Config) -> Result<Inside, StartError> {
    let metadata = config.storage.path.join(meta::FILE);
    if !metadata.exists() {
        return Ok(Inside::default());
    }
    let read = || -> Result<Inside, MetaError> {
        let users = meta::has_rows(&metadata, &[AccountRow::TABLE, AccessTokenRow::TABLE])?;
        let rows = meta::rows::<RepositoryRow>(&metadata)?.into_iter().filter(|row| !row.retired);
        let repositories = rows.map(|row| Taken {
            name: row.name,
            upstream_namespace: row.upstream_namespace,
            default_mirror: row.default_mirror,
        });
        Ok(Inside { users, repositories: repositories.collect() })
    };
    read().map_err(|error| not_opened(config, &OpenError::Meta(error)))
}

async fn open(config: &Config, settings: Settings) -> Result<Engine, StartError> {
    if config.storage.path.join(backup::UNFINISHED).exists() {
        return Err(StartError::DataDir {
            path: config.storage.path.clone(),
            why: "a backup was being brought back into it, and that did not end".to_owned(),
            hint: Some("empty it, and run `binaryrepo restore` again".to_owned()),
        });
    }
    if let Some(taken) = newest_snapshot(&config.storage.path).filter(|_| is_new(config)) {
        // Made anew it would be empty, and snapshots of that would take the place of the last good ones.
        let dir = config.storage.path.display();
        return Err(StartError::DataDir {
            path: config.storage.path.clone(),
            why: format!("{} is missing, and there are snapshots of it", meta::FILE),
            hint: Some(format!(
                "`binaryrepo recover --data-dir {dir}` brings back the one of {taken}; to begin with nothing, remove {} \
                 as well",
                Snapshots::of(&config.storage.path).dir().display()
            )),
        });
    }
    let opened = Engine::open(&config.storage.path, settings, Metrics::new(), first(config)).await;
    opened.map_err(|error| match error {
        OpenError::Meta(MetaError::InUse(_)) => StartError::InUse(config.storage.path.clone()),
        error => not_opened(config, &error),
    })
}

/// Makes the first administrator where there is nobody, and refuses a server that would be open by mistake.
async fn let_somebody_in(engine: &Engine, config: &Config) -> Result<(), StartError> {
    if let Some(first) = config.first_admin.as_ref().filter(|_| engine.accounts().is_empty()) {
        let name = first.name.clone();
        let failed =
            |why: String| StartError::Failed(format!("the first administrator {}: {why}", first.name));
        let password = read_password(first)
            .map_err(|error| failed(format!("{}: {error}", first.password_file.display())))?;
        let made = engine.accounts().create(NewAccount { name, password, admin: true }).await;
        made.inspect_err(EngineError::report)
            .map_err(|error| failed(format!("the password {}", error.message)))?;
        tracing::info!(user = %first.name, "made the first administrator");
    }
    Ok(config.check_serving(!engine.accounts().is_empty())?)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the first administrator's password comes in a file of its own"
)]
fn read_password(first: &FirstAdmin) -> io::Result<Secret> {
    let text = std::fs::read_to_string(&first.password_file)?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

fn is_new(config: &Config) -> bool {
    !config.storage.path.join(meta::FILE).exists()
}

const HUB: &str = "https://registry-1.docker.io";

/// What a new data directory starts with, so that both kinds work without any configuration. What one repository alone
/// can have is left to a configured one that asks for it.
fn first(config: &Config) -> Vec<(RepositoryName, RepositorySpec)> {
    let mut hub = RemoteSpec::new(Url::parse(HUB).expect("a constant address"));
    let claimed = |claims: &dyn Fn(&RemoteSpec) -> bool| {
        config
            .repositories
            .iter()
            .any(|entry| matches!(&entry.spec, RepositorySpec::Remote(spec) if claims(spec)))
    };
    let namespace = RemoteSpec::DOCKER_HUB_NAMESPACE;
    hub.default_mirror = !claimed(&|spec| spec.default_mirror);
    hub.upstream_namespace = (!claimed(&|spec| spec.upstream_namespace.as_deref() == Some(namespace)))
        .then(|| namespace.to_owned());
    let all = [
        ("docker-remote", RepositorySpec::Remote(Box::new(hub))),
        ("docker-local", RepositorySpec::Local(LocalSpec::default())),
    ];
    let named = all.map(|(name, spec)| (name.parse::<RepositoryName>().expect("a constant name"), spec));
    let configured = |name: &RepositoryName| config.repositories.iter().any(|entry| entry.name == *name);
    named.into_iter().filter(|(name, _)| !configured(name)).collect()
}

fn settings(config: &Config) -> Settings {
    Settings {
        max_size: match config.storage.max_size {
            Limit::Bytes(bytes) => MaxSize::Bytes(bytes),
            Limit::Percent(percent) => MaxSize::Percent(percent),
        },
        min_free: config.storage.min_free,
        document_cap: config.storage.document_cap,
        copies: Some(config.storage.path.clone()),
        snapshots: Some(config.storage.snapshots).filter(|every| !every.is_zero()),
        collect_after: config.storage.gc_grace,
        collect_untagged: config.storage.gc_untagged,
        ..Settings::default()
    }
}

fn front(config: &Config, token: Secret) -> http::Settings {
    let public_host = config.server.public_url.as_ref().and_then(|url| url.host_str());
    let public_host = public_host.map(|host| bare_host(host).into_owned());
    let mut hosts: Vec<_> = config.server.api_hosts.iter().map(|host| bare_host(host).into_owned()).collect();
    hosts.extend(public_host.clone());
    http::Settings {
        site: Site {
            base_domains: config.server.base_domains.iter().map(|base| base.to_lowercase()).collect(),
            public_host,
        },
        trusted_proxies: config.server.trusted_proxies.clone(),
        gate: Gate { token: Some(token), hosts },
        public_origin: config
            .server
            .public_url
            .as_ref()
            .map(|url| url.as_str().trim_end_matches('/').to_owned()),
        strangers: config.server.lets_strangers_in(),
        open_access: config.server.open_access,
        pace: Pace::over(config.server.body_timeout),
        access_log: telemetry::access_log(),
    }
}

fn listed(repository: &Repository) -> StartedRepository {
    let upstream = repository.remote().map(|remote| remote.spec.remote_url.to_string());
    StartedRepository {
        name: repository.name.clone(),
        upstream: upstream.map(|url| url.trim_end_matches('/').to_owned()),
    }
}

/// From the environment, or from the file of mode 0600 that the first start makes.
#[expect(clippy::disallowed_methods, reason = "the administrator's token is the one file of its own")]
fn admin_token(config: &Config) -> io::Result<(Secret, Option<PathBuf>)> {
    if let Some(token) = &config.admin_token {
        return Ok((token.clone(), None));
    }
    let path = config.storage.token_file();
    match std::fs::read_to_string(&path) {
        Ok(token) if !token.trim().is_empty() => return Ok((Secret::new(token.trim()), Some(path))),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut random = [0_u8; 24];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    // A prefix: a token that begins with a hyphen would be taken for an option on a command line.
    let token = format!("bra_{}", URL_SAFE_NO_PAD.encode(random));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    file.write_all(format!("{token}\n").as_bytes())?;
    file.sync_all()?;
    Ok((Secret::new(token), Some(path)))
}

fn unusable(config: &Config, error: impl std::fmt::Display) -> StartError {
    StartError::DataDir { path: config.storage.path.clone(), why: error.to_string(), hint: None }
}

fn not_opened(config: &Config, error: &OpenError) -> StartError {
    let path = config.storage.path.clone();
    let hint = match error {
        OpenError::Meta(error) if backup::is_damage(error) => Some(way_back(&path)),
        _ => None,
    };
    StartError::DataDir { path, why: error.to_string(), hint }
}

/// What to do about damaged metadata.
fn way_back(dir: &Path) -> String {
    match newest_snapshot(dir) {
        Some(taken) => format!(
            "{} is the file; `binaryrepo recover --data-dir {}` keeps it, and puts the snapshot of {taken} in its place",
            dir.join(meta::FILE).display(),
            dir.display()
        ),
        None => only_backup(dir),
    }
}

/// The same where no snapshot is whole.
pub fn only_backup(dir: &Path) -> String {
    format!(
        "{} is the file; move {dir} aside, and bring the last backup into a new one: `binaryrepo restore <backup> \
         --data-dir {dir}`",
        dir.join(meta::FILE).display(),
        dir = dir.display()
    )
}

/// When it was taken.
fn newest_snapshot(dir: &Path) -> Option<String> {
    let newest = Snapshots::of(dir).list().ok()?.into_iter().next();
    newest.map(|newest| text::time_text(newest.taken_ms()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Setting, Sources};

    /// What can be seen of a server only after minutes, or not at all on a large disk.
    #[test]
    fn the_engine_is_told_what_storage_says() {
        let said = [
            ("path", "/data"),
            ("max_size", "7%"),
            ("min_free", "11KiB"),
            ("document_cap", "13KiB"),
            ("gc_grace", "17s"),
            ("gc_untagged", "true"),
            ("snapshots", "19s"),
        ];
        let flags = said.map(|(key, value)| Setting::new("the test", "storage", key, value)).to_vec();
        let config = Config::load(&Sources { flags, ..Sources::default() }).expect("all right");
        let told = settings(&config);
        assert_eq!((told.max_size, told.min_free), (MaxSize::Percent(7), Some(11 << 10)));
        assert_eq!((told.document_cap, told.copies), (13 << 10, Some(PathBuf::from("/data"))));
        assert_eq!(told.snapshots, Some(Duration::from_secs(19)));
        assert_eq!((told.collect_after, told.collect_untagged), (Duration::from_secs(17), true));
    }
}

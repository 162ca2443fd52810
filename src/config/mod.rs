//! Owns the settings of a server: defaults that work with none, then file, environment and flags, the later
//! over the earlier, checked and put into plain structs.
//! Must not know: tokio, and what is done with a setting.

mod check;
mod effective;
mod error;
mod raw;

pub use check::Warning;
pub use error::ConfigError;
pub use raw::Setting;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use error::Place;
use ipnet::IpNet;
use url::Url;

use crate::engine::{RepositorySpec, Secret};
use crate::names::{AccountName, RepositoryName};
use crate::telemetry::LogFormat;
use crate::text::Limit;

/// What every variable of ours begins with.
pub const ENV_PREFIX: &str = "BINARYREPO_";
/// Names the configuration file, where no flag does.
pub const ENV_CONFIG: &str = "BINARYREPO_CONFIG";
/// Holds the administrator's token, where it is not to lie in the data directory.
pub const ENV_ADMIN_TOKEN: &str = "BINARYREPO_ADMIN_TOKEN";
/// Names the first administrator, who is made where there is nobody yet; and the file that holds the password.
pub const ENV_ADMIN_USER: &str = "BINARYREPO_ADMIN_USER";
pub const ENV_ADMIN_PASSWORD_FILE: &str = "BINARYREPO_ADMIN_PASSWORD_FILE";

/// Everything that can be set.
#[derive(Clone, Debug)]
pub struct Config {
    pub server: Server,
    pub storage: Storage,
    pub log: Log,
    /// The entries of the file. Others live in the metadata store.
    pub repositories: Vec<ConfiguredRepository>,
    /// Instead of the one in the data directory.
    pub admin_token: Option<Secret>,
    /// Made at a start where there is nobody to log in as.
    pub first_admin: Option<FirstAdmin>,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// `section.key` of what is not a default -> where it came from.
    origins: BTreeMap<String, String>,
    /// Where the entries of repositories begin.
    places: BTreeMap<RepositoryName, Place>,
}

/// The administrator to begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstAdmin {
    pub name: AccountName,
    /// Read only where the user has to be made.
    pub password_file: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub listen: SocketAddr,
    /// Scheme and host that clients use, for token realms; otherwise the request tells.
    pub public_url: Option<Url>,
    /// `<repository>.<base>` chooses a repository.
    pub base_domains: Vec<String>,
    /// Whose `X-Forwarded-*` headers count.
    pub trusted_proxies: Vec<IpNet>,
    pub max_connections: usize,
    /// How long a connection may idle; keep it above the proxy's own (nginx: 60 s).
    pub idle_timeout: Duration,
    /// How long a request's head may take to arrive.
    pub header_timeout: Duration,
    /// The span over which a request's body must come at 1 KiB/s.
    pub body_timeout: Duration,
    /// How long a client may take nothing while there is something for it.
    pub write_timeout: Duration,
    /// How long a stop waits for bodies under way.
    pub shutdown_grace: Duration,
    /// Anyone who reaches the server may pull.
    pub open_access: bool,
    /// Hosts besides loopback and `api.*` under which `/api` answers.
    pub api_hosts: Vec<String>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8081)),
            public_url: None,
            base_domains: vec!["binaryrepo.local".to_owned(), "localhost".to_owned()],
            trusted_proxies: Vec::new(),
            max_connections: 10_000,
            idle_timeout: Duration::from_secs(75),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            shutdown_grace: Duration::from_secs(30),
            open_access: false,
            api_hosts: Vec::new(),
        }
    }
}

impl Server {
    /// Whether anyone who reaches the server may pull while there is nobody to log in as.
    pub fn lets_strangers_in(&self) -> bool {
        self.open_access || !self.is_reached_from_elsewhere()
    }

    /// A proxy on this machine listens for others: behind it loopback is no wall.
    fn is_reached_from_elsewhere(&self) -> bool {
        !self.listen.ip().is_loopback() || !self.trusted_proxies.is_empty()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    pub path: PathBuf,
    /// What cached content may take, of the file system or in bytes.
    pub max_size: Limit,
    /// What stays free; `None`: the default, which depends on the file system.
    pub min_free: Option<u64>,
    /// What remotes' manifests may take in the metadata store.
    pub document_cap: u64,
    /// How long pushed content that nothing names is kept.
    pub gc_grace: Duration,
    /// Whether cleanup takes manifests without a tag as well.
    pub gc_untagged: bool,
    /// How often a snapshot of the metadata is taken; zero: never.
    pub snapshots: Duration,
}

impl Storage {
    pub const MAX_SIZE: Limit = Limit::Percent(80);
    pub const MIN_FREE: u64 = 5 << 30;
    pub const DOCUMENT_CAP: u64 = 1 << 30;
    pub const GC_GRACE: Duration = Duration::from_secs(24 * 3600);
    pub const SNAPSHOTS: Duration = Duration::from_secs(3600);

    fn at(path: PathBuf) -> Self {
        Self {
            path,
            max_size: Self::MAX_SIZE,
            min_free: None,
            document_cap: Self::DOCUMENT_CAP,
            gc_grace: Self::GC_GRACE,
            gc_untagged: false,
            snapshots: Self::SNAPSHOTS,
        }
    }

    /// Where the administrator's token lies.
    pub fn token_file(&self) -> PathBuf {
        self.path.join("admin.token")
    }

    /// The socket through which commands on this machine reach the running server.
    pub fn socket(&self) -> PathBuf {
        self.path.join("admin.sock")
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::default(), level: "info".to_owned() }
    }
}

/// A `[[repository]]` entry.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfiguredRepository {
    pub name: RepositoryName,
    pub spec: RepositorySpec,
}

/// Where settings come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `None`: the file that the environment names, else none.
    pub file: Option<PathBuf>,
    pub env: BTreeMap<String, String>,
    pub flags: Vec<Setting>,
    /// Whether the data directory is the system's rather than a person's.
    pub root: bool,
}

impl Sources {
    /// This process's environment and user.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<Setting>) -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let env = std::env::vars_os().filter_map(text).collect();
        Self { file, env, flags, root: rustix::process::geteuid().is_root() }
    }

    /// A variable that is set to something: compose files leave empty ones behind.
    fn variable(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn default_data_dir(&self) -> Result<PathBuf, ConfigError> {
        if self.root {
            return Ok(PathBuf::from("/var/lib/binaryrepo"));
        }
        let absolute = |name| self.variable(name).map(Path::new).filter(|path| path.is_absolute());
        if let Some(data) = absolute("XDG_DATA_HOME") {
            return Ok(data.join("binaryrepo"));
        }
        match absolute("HOME") {
            Some(home) => Ok(home.join(".local/share/binaryrepo")),
            None => {
                Err(ConfigError::new("there is no place for the data: neither HOME nor XDG_DATA_HOME is set")
                    .with_hint("say where with --data-dir"))
            }
        }
    }
}

impl Config {
    /// Flags over environment over file over defaults.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let named = sources.variable(ENV_CONFIG).map(PathBuf::from);
        let file = sources.file.clone().or(named);
        let text = match &file {
            Some(path) => read(path)?,
            None => String::new(),
        };
        let path = file.clone().unwrap_or_default();
        let layers = raw::read(&path, &text, sources)?;
        let repositories =
            layers.repositories(&path, &text, |name| sources.variable(name).map(str::to_owned))?;
        let data_dir = match layers.data_dir() {
            Some(path) => path,
            None => sources.default_data_dir()?,
        };
        let data_dir = std::path::absolute(&data_dir)
            .map_err(|error| ConfigError::new(format!("storage.path {}: {error}", data_dir.display())))?;
        let places = layers.places(&path, &text);
        let (raw, origins) = layers.into_parts();
        let config = Self {
            server: raw.server.over(Server::default()),
            storage: raw.storage.over(Storage::at(data_dir)),
            log: raw.log.over(Log::default()),
            repositories,
            admin_token: sources.variable(ENV_ADMIN_TOKEN).map(Secret::new),
            first_admin: first_admin(sources)?,
            file,
            origins,
            places,
        };
        config.check()?;
        Ok(config)
    }

    /// Where `section.key` came from: a file, a variable, a flag; `None` for a default.
    pub fn origin(&self, key: &str) -> Option<&str> {
        self.origins.get(key).map(String::as_str)
    }
}

fn first_admin(sources: &Sources) -> Result<Option<FirstAdmin>, ConfigError> {
    match (sources.variable(ENV_ADMIN_USER), sources.variable(ENV_ADMIN_PASSWORD_FILE)) {
        (None, None) => Ok(None),
        (Some(name), Some(file)) => {
            let name = name
                .parse()
                .map_err(|error| ConfigError::new(format!("the first administrator's name: {error}")))?;
            Ok(Some(FirstAdmin { name, password_file: PathBuf::from(file) }))
        }
        _ => Err(ConfigError::new("a first administrator needs a name and a file with the password")
            .with_hint(format!("set both, {ENV_ADMIN_USER} and {ENV_ADMIN_PASSWORD_FILE}"))),
    }
}

#[expect(clippy::disallowed_methods, reason = "the configuration file is read once, before anything runs")]
fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| {
        ConfigError::new(format!("{}: {error}", path.display()))
            .with_hint(format!("--config and {ENV_CONFIG} name the configuration file; none is needed"))
    })
}

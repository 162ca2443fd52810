//! Owns the layers: what a file, a variable or a flag may say, its types, and which layer wins.
//! Must not know: whether the values go together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use toml::{Spanned, Table, Value};

use super::error::{ConfigError, Place};
use super::{ConfiguredRepository, ENV_PREFIX, Log, Server, Sources, Storage};
use crate::form::RepositoryForm;
use crate::names::RepositoryName;
use crate::telemetry::{LogFormat, check_level};
use crate::text::{ByteSize, Domain, Host, Limit, Parse, Text, WebUrl, closest};

/// A setting from outside the file, as a text: `server.listen` = `0.0.0.0:8081`, said by `--listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// What an error message calls it.
    pub origin: String,
    pub section: String,
    pub key: String,
    pub text: String,
}

impl Setting {
    pub fn new(origin: &str, section: &str, key: &str, text: impl Into<String>) -> Self {
        Self {
            origin: origin.to_owned(),
            section: section.to_owned(),
            key: key.to_owned(),
            text: text.into(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Raw {
    pub server: RawServer,
    pub storage: RawStorage,
    pub log: RawLog,
    repository: Vec<Spanned<RepositoryForm>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawServer {
    listen: Option<Text<SocketAddr>>,
    public_url: Option<Text<WebUrl>>,
    base_domains: Option<Vec<Text<Domain>>>,
    trusted_proxies: Option<Vec<Text<IpNet>>>,
    max_connections: Option<NonZeroU32>,
    idle_timeout: Option<Text<Timeout>>,
    header_timeout: Option<Text<Timeout>>,
    body_timeout: Option<Text<Timeout>>,
    write_timeout: Option<Text<Timeout>>,
    shutdown_grace: Option<Text<Duration>>,
    open_access: Option<bool>,
    api_hosts: Option<Vec<Text<Host>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawStorage {
    path: Option<Text<PathBuf>>,
    max_size: Option<Text<Limit>>,
    min_free: Option<Text<ByteSize>>,
    document_cap: Option<Text<ByteSize>>,
    gc_grace: Option<Text<Duration>>,
    gc_untagged: Option<bool>,
    snapshots: Option<Text<Duration>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawLog {
    format: Option<Text<LogFormat>>,
    level: Option<Text<Level>>,
}

impl RawServer {
    pub fn over(self, base: Server) -> Server {
        Server {
            listen: self.listen.map_or(base.listen, |Text(address)| address),
            public_url: self.public_url.map(|Text(WebUrl(url))| url).or(base.public_url),
            base_domains: list(self.base_domains, base.base_domains, |Domain(name)| name),
            trusted_proxies: list(self.trusted_proxies, base.trusted_proxies, |net| net),
            max_connections: self.max_connections.map_or(base.max_connections, |count| count.get() as usize),
            idle_timeout: self.idle_timeout.map_or(base.idle_timeout, |Text(Timeout(span))| span),
            header_timeout: self.header_timeout.map_or(base.header_timeout, |Text(Timeout(span))| span),
            body_timeout: self.body_timeout.map_or(base.body_timeout, |Text(Timeout(span))| span),
            write_timeout: self.write_timeout.map_or(base.write_timeout, |Text(Timeout(span))| span),
            shutdown_grace: self.shutdown_grace.map_or(base.shutdown_grace, |Text(span)| span),
            open_access: self.open_access.unwrap_or(base.open_access),
            api_hosts: list(self.api_hosts, base.api_hosts, |Host(host)| host),
        }
    }
}

impl RawStorage {
    pub fn over(self, base: Storage) -> Storage {
        Storage {
            path: base.path,
            max_size: self.max_size.map_or(base.max_size, |Text(limit)| limit),
            min_free: self.min_free.map(|Text(ByteSize(bytes))| bytes).or(base.min_free),
            document_cap: self.document_cap.map_or(base.document_cap, |Text(ByteSize(bytes))| bytes),
            gc_grace: self.gc_grace.map_or(base.gc_grace, |Text(span)| span),
            gc_untagged: self.gc_untagged.unwrap_or(base.gc_untagged),
            snapshots: self.snapshots.map_or(base.snapshots, |Text(span)| span),
        }
    }
}

impl RawLog {
    pub fn over(self, base: Log) -> Log {
        Log {
            format: self.format.map_or(base.format, |Text(format)| format),
            level: self.level.map_or(base.level, |Text(Level(level))| level),
        }
    }
}

fn list<T, U>(given: Option<Vec<Text<T>>>, default: Vec<U>, unwrap: impl Fn(T) -> U) -> Vec<U> {
    given.map_or(default, |items| items.into_iter().map(|Text(item)| unwrap(item)).collect())
}

/// The file's, the environment's and the flags' words in one.
pub(super) struct Layers {
    raw: Raw,
    entries: Vec<Spanned<RepositoryForm>>,
    origins: BTreeMap<String, String>,
}

/// Reads all layers. Each is checked alone first, so that an error can say where it comes from.
pub(super) fn read(path: &Path, text: &str, sources: &Sources) -> Result<Layers, ConfigError> {
    let in_file = |error: &toml::de::Error| ConfigError::in_file(path, text, error);
    let file: Raw = toml::from_str(text).map_err(|error| in_file(&error))?;
    let mut table: Table = toml::from_str(text).map_err(|error| in_file(&error))?;
    table.remove("repository");
    let mut origins = BTreeMap::new();
    for (section, keys) in &table {
        for key in keys.as_table().into_iter().flat_map(Table::keys) {
            origins.insert(format!("{section}.{key}"), path.display().to_string());
        }
    }
    for setting in from_env(&sources.env)?.iter().chain(&sources.flags) {
        let value = typed(setting)?;
        let section = table.entry(&setting.section).or_insert_with(|| Value::Table(Table::new()));
        if let Some(section) = section.as_table_mut() {
            section.insert(setting.key.clone(), value);
        }
        origins.insert(format!("{}.{}", setting.section, setting.key), setting.origin.clone());
    }
    let raw = Raw::deserialize(table).map_err(|error| ConfigError::new(error.message().to_owned()))?;
    Ok(Layers { raw, entries: file.repository, origins })
}

impl Layers {
    pub fn data_dir(&self) -> Option<PathBuf> {
        self.raw.storage.path.as_ref().map(|Text(path)| path.clone())
    }

    /// Where each entry begins. An entry without a name is refused by [`Self::repositories`].
    pub fn places(&self, path: &Path, text: &str) -> BTreeMap<RepositoryName, Place> {
        let named =
            self.entries.iter().filter_map(|entry| Some((entry.get_ref().name()?.clone(), entry.span())));
        named.map(|(name, span)| (name, Place::of(path, text, span))).collect()
    }

    pub fn repositories(
        &self,
        path: &Path,
        text: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Vec<ConfiguredRepository>, ConfigError> {
        let mut made: Vec<ConfiguredRepository> = Vec::new();
        for entry in &self.entries {
            let form = entry.get_ref().clone();
            let label = form.name().map_or_else(|| "a repository".to_owned(), ToString::to_string);
            let refuse = |message: String, hint: Option<String>| {
                ConfigError::at(path, text, entry.span(), format!("{label}: {message}"), hint)
            };
            let (name, spec) = form
                .resolve_env(&variable)
                .and_then(RepositoryForm::create)
                .map_err(|error| refuse(error.to_string(), error.hint))?;
            if made.iter().any(|other| other.name == name) {
                return Err(refuse("the name is given twice".to_owned(), None));
            }
            made.push(ConfiguredRepository { name, spec });
        }
        Ok(made)
    }

    pub fn into_parts(self) -> (Raw, BTreeMap<String, String>) {
        (self.raw, self.origins)
    }
}

/// `BINARYREPO_SERVER__LISTEN` -> `server.listen`. Variables without `__` are not settings: an orchestrator
/// makes some of its own under a service's name.
fn from_env(env: &BTreeMap<String, String>) -> Result<Vec<Setting>, ConfigError> {
    let mut settings = Vec::new();
    for (name, value) in env {
        let Some((section, key)) = name.strip_prefix(ENV_PREFIX).and_then(|rest| rest.split_once("__"))
        else {
            continue;
        };
        if value.is_empty() {
            continue;
        }
        if !["SERVER", "STORAGE", "LOG"].contains(&section) {
            return Err(ConfigError::new(format!("{name}: there is no section `{section}`"))
                .with_hint("variables set server, storage and log: BINARYREPO_SERVER__LISTEN=0.0.0.0:8081"));
        }
        settings.push(Setting::new(name, &section.to_lowercase(), &key.to_lowercase(), value.as_str()));
    }
    Ok(settings)
}

/// The value that the text stands for: a text, a number, a truth value, or a list with commas, whichever
/// the setting takes.
fn typed(setting: &Setting) -> Result<Value, ConfigError> {
    let Setting { origin, section, key, text } = setting;
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let candidates = [
        Some(Value::String(text.clone())),
        text.parse().ok().map(Value::Integer),
        text.parse().ok().map(Value::Boolean),
        Some(Value::Array(items.map(|item| Value::String(item.to_owned())).collect())),
    ];
    let mut best: Option<String> = None;
    for candidate in candidates.into_iter().flatten() {
        let alone = Table::from_iter([(key.clone(), candidate.clone())]);
        let whole = Table::from_iter([(section.clone(), Value::Table(alone))]);
        match Raw::deserialize(whole) {
            Ok(_) => return Ok(candidate),
            // Of the wrong types the first is what was written; any other error is to the point.
            Err(error) if best.is_none() || !error.message().starts_with("invalid type") => {
                let wrong_type = best.as_ref().is_none_or(|best| best.starts_with("invalid type"));
                if wrong_type {
                    best = Some(error.message().to_owned());
                }
            }
            Err(_) => {}
        }
    }
    let message = best.unwrap_or_default();
    let error = ConfigError::new(format!("{origin}: {message}"));
    let Some(meant) = meant(&message) else { return Err(error) };
    let hint = match origin.starts_with(ENV_PREFIX) {
        true => format!("did you mean {ENV_PREFIX}{}__{}?", section.to_uppercase(), meant.to_uppercase()),
        false => format!("did you mean {section}.{meant}?"),
    };
    Err(error.with_hint(hint))
}

/// serde lists the known fields after an unknown one; the nearest is what was meant.
pub(super) fn meant(message: &str) -> Option<&str> {
    let rest = message.strip_prefix("unknown field `")?;
    let (written, expected) = rest.split_once('`')?;
    closest(written, expected.split('`').skip(1).step_by(2))
}

/// A duration above zero.
#[derive(Debug)]
struct Timeout(Duration);

impl Parse for Timeout {
    const EXPECTED: &'static str = Duration::EXPECTED;

    fn parse(text: &str) -> Result<Self, String> {
        match Duration::parse(text)? {
            Duration::ZERO => Err(format!("must be longer than nothing: expected {}", Self::EXPECTED)),
            span => Ok(Self(span)),
        }
    }
}

#[derive(Debug)]
struct Level(String);

impl Parse for Level {
    const EXPECTED: &'static str = "a log level such as \"info\"";

    fn parse(text: &str) -> Result<Self, String> {
        check_level(text).map_err(|error| error.to_string())?;
        Ok(Self(text.to_owned()))
    }
}

impl Parse for LogFormat {
    const EXPECTED: &'static str = "\"auto\", \"text\" or \"json\"";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("unknown format `{text}`: expected {}", Self::EXPECTED))
    }
}

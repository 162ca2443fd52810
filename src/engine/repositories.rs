//! Owns the repositories there are: many readers, one writer at a time, every change in the metadata first.
//! Must not know: HTTP, JSON, what is cached.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use foldhash::fast::RandomState;
use secrecy::SecretString;
use tokio::sync::Mutex;
use url::Url;

use super::accounts::Accounts;
use super::model::{EngineError, ErrorKind};
use super::repository::{
    LocalSpec, Remote, RemoteSpec, Repository, RepositoryKind, RepositorySpec, Secret, Taken,
};
use crate::clock::{Clock, UnixMillis};
use crate::meta::{
    Batch, Durability, Meta, MetaExt as _, PackageType, RepositoryRow, RepositoryType, SettingKey, SettingRow,
};
use crate::names::{RepositoryId, RepositoryName};
use crate::upstream::{Settings, SettingsError, Timeouts, Upstream};

/// 0 is no repository.
const FIRST_ID: u64 = 1;

/// Given out once in a process, so that it also tells the repositories of one engine from those of another.
static VERSIONS: AtomicU64 = AtomicU64::new(0);

/// The repositories by name and by number.
pub struct Repositories {
    by_name: DashMap<RepositoryName, Arc<Repository>, RandomState>,
    by_id: DashMap<RepositoryId, Arc<Repository>>,
    version: AtomicU64,
    meta: Arc<dyn Meta>,
    clock: Clock,
    timeouts: Timeouts,
    /// Held by the one change under way.
    changing: Mutex<()>,
    /// Numbers whose content is still to be removed.
    retired: std::sync::Mutex<Vec<RepositoryId>>,
}

impl Repositories {
    /// Reads all repositories.
    pub(super) fn load(meta: &Arc<dyn Meta>, clock: &Clock, timeouts: Timeouts) -> Result<Self, EngineError> {
        let this = Self {
            by_name: DashMap::default(),
            by_id: DashMap::new(),
            version: AtomicU64::new(next_version()),
            meta: Arc::clone(meta),
            clock: clock.clone(),
            timeouts,
            changing: Mutex::new(()),
            retired: std::sync::Mutex::default(),
        };
        meta.each::<RepositoryRow, EngineError>(&(), |id, row| {
            if row.retired {
                this.retire(id);
                return Ok(());
            }
            let (name, created) = (row.name.clone(), UnixMillis(row.created_ms));
            let kind = this.revive(&name, from_row(row)?)?;
            this.enter(Repository { id, name, kind, created });
            Ok(())
        })?;
        Ok(this)
    }

    /// Makes the repositories that a data directory starts with, all in one step and at most once: where a repository
    /// was ever made, somebody may have removed them.
    pub(super) async fn make_first(
        &self,
        first: Vec<(RepositoryName, RepositorySpec)>,
    ) -> Result<(), EngineError> {
        let _one_at_a_time = self.changing.lock().await;
        let numbers = SettingKey::NEXT_REPOSITORY_ID;
        if first.is_empty() || self.meta.get::<SettingRow>(&numbers)?.is_some() {
            return Ok(());
        }
        let (mut batch, mut made) = (Batch::new(Durability::Durable), Vec::new());
        let mut next = FIRST_ID;
        for (name, spec) in first {
            let created = self.clock.wall();
            let repository = Repository { id: RepositoryId(next), name, kind: self.kind(spec)?, created };
            batch.put(&repository.id, &to_row(&repository, false));
            made.push(repository);
            next += 1;
        }
        batch.put(&numbers, &SettingRow { value: next.into() });
        self.meta.apply(batch).await?;
        for repository in made {
            self.enter(repository);
        }
        Ok(())
    }

    /// Another one after each change: what was found out before is not to be believed any more.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub fn by_name(&self, name: &str) -> Option<Arc<Repository>> {
        self.by_name.get(name).map(|entry| Arc::clone(&entry))
    }

    pub(super) fn by_id(&self, id: RepositoryId) -> Option<Arc<Repository>> {
        self.by_id.get(&id).map(|entry| Arc::clone(&entry))
    }

    /// The remote that `?ns=` names.
    pub fn by_namespace(&self, namespace: &str) -> Option<Arc<Repository>> {
        self.find(|spec| spec.upstream_namespace.as_deref() == Some(namespace))
    }

    /// The remote that answers for images without a repository.
    pub fn default_mirror(&self) -> Option<Arc<Repository>> {
        self.find(|spec| spec.default_mirror)
    }

    /// All, by name.
    pub fn list(&self) -> Vec<Arc<Repository>> {
        let mut all: Vec<_> = self.by_name.iter().map(|entry| Arc::clone(entry.value())).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    pub async fn create(
        &self,
        name: RepositoryName,
        spec: RepositorySpec,
    ) -> Result<Arc<Repository>, EngineError> {
        let _one_at_a_time = self.changing.lock().await;
        if self.by_name.contains_key(&name) {
            let message = format!("a repository named {name} exists already");
            return Err(EngineError::new(ErrorKind::Conflict, message));
        }
        self.check_unique(&name, &spec)?;
        let (id, mut batch) = self.next_id()?;
        let repository = Repository { id, name, kind: self.kind(spec)?, created: self.clock.wall() };
        batch.put(&id, &to_row(&repository, false));
        self.meta.apply(batch).await?;
        Ok(self.enter(repository))
    }

    /// A remote that is pointed elsewhere gets a new number, so that nothing of the old upstream is shown, and
    /// loses its stored password unless the change brings one. What was granted in it stays granted.
    pub(super) async fn update(
        &self,
        name: &RepositoryName,
        spec: RepositorySpec,
        accounts: &Accounts,
    ) -> Result<Arc<Repository>, EngineError> {
        let _one_at_a_time = self.changing.lock().await;
        let old = self.by_name(name.as_str()).ok_or_else(|| unknown(name))?;
        self.check_unique(name, &spec)?;
        let (spec, moved) = settle(&old, spec)?;
        let (id, mut batch) = if moved { self.next_id()? } else { (old.id, Batch::new(Durability::Durable)) };
        let repository = Repository { id, name: name.clone(), kind: self.kind(spec)?, created: old.created };
        batch.put(&id, &to_row(&repository, false));
        if !moved {
            self.meta.apply(batch).await?;
            return Ok(self.enter(repository));
        }
        batch.put(&old.id, &to_row(&old, true));
        let grants = accounts.renumber(old.id, Some(id), &mut batch).await;
        self.meta.apply(batch).await?;
        grants.done();
        self.by_id.remove(&old.id);
        self.retire(old.id);
        Ok(self.enter(repository))
    }

    /// Removes the repository, and what was granted in it; its content is unreachable at once and goes in the
    /// background.
    pub(super) async fn delete(
        &self,
        name: &RepositoryName,
        purge: bool,
        accounts: &Accounts,
    ) -> Result<(), EngineError> {
        let _one_at_a_time = self.changing.lock().await;
        let old = self.by_name(name.as_str()).ok_or_else(|| unknown(name))?;
        if old.local().is_some() && !purge && self.has_content(&old)? {
            let message = format!("{name} holds images; delete it with purge=true to delete them with it");
            return Err(EngineError::new(ErrorKind::Conflict, message));
        }
        let mut batch = Batch::new(Durability::Durable);
        batch.put(&old.id, &to_row(&old, true));
        let grants = accounts.renumber(old.id, None, &mut batch).await;
        self.meta.apply(batch).await?;
        grants.done();
        self.by_name.remove(name);
        self.by_id.remove(&old.id);
        self.changed();
        self.retire(old.id);
        Ok(())
    }

    /// The numbers whose content is to be removed; the caller does it.
    pub(super) fn take_retired(&self) -> Vec<RepositoryId> {
        std::mem::take(&mut *self.retired.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn retire(&self, id: RepositoryId) {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner).push(id);
    }

    fn has_content(&self, repository: &Repository) -> Result<bool, EngineError> {
        Ok(!self.meta.scan::<crate::meta::LinkRow>(&repository.id, None, 1)?.is_empty())
    }

    fn find(&self, wanted: impl Fn(&RemoteSpec) -> bool) -> Option<Arc<Repository>> {
        let matches = |repository: &Arc<Repository>| repository.remote().is_some_and(|r| wanted(&r.spec));
        self.by_name.iter().map(|entry| Arc::clone(entry.value())).find(matches)
    }

    /// Two remotes cannot both answer for one namespace, or for images without a repository.
    fn check_unique(&self, name: &RepositoryName, spec: &RepositorySpec) -> Result<(), EngineError> {
        let RepositorySpec::Remote(spec) = spec else { return Ok(()) };
        for other in self.list().iter().filter(|other| other.name != *name) {
            if let Some(field) = Taken::of(&other.name, &other.spec()).keeps_from(spec) {
                let message =
                    format!("{field}: {} has this already, and only one repository can", other.name);
                return Err(EngineError::new(ErrorKind::Invalid { field: field.to_owned() }, message));
            }
        }
        Ok(())
    }

    /// A number that was never given out, and the batch that marks it as given.
    fn next_id(&self) -> Result<(RepositoryId, Batch), EngineError> {
        let key = SettingKey::NEXT_REPOSITORY_ID;
        let next = self.meta.get::<SettingRow>(&key)?.and_then(|row| row.value.as_u64());
        let next = next.unwrap_or(FIRST_ID);
        let mut batch = Batch::new(Durability::Durable);
        batch.put(&key, &SettingRow { value: (next + 1).into() });
        Ok((RepositoryId(next), batch))
    }

    fn kind(&self, spec: RepositorySpec) -> Result<RepositoryKind, EngineError> {
        kind(spec, self.timeouts, &self.clock)
    }

    /// A remote as it was stored. Should a file that it names be gone meanwhile, it serves what it has: one
    /// repository's trouble does not keep the others from starting.
    fn revive(&self, name: &RepositoryName, spec: RepositorySpec) -> Result<RepositoryKind, EngineError> {
        match (self.kind(spec.clone()), spec) {
            (
                Err(EngineError { kind: ErrorKind::Invalid { field }, message, .. }),
                RepositorySpec::Remote(spec),
            ) => {
                tracing::error!(repository = %name, field, why = message,
                    "this remote cannot ask its upstream until its settings are mended; what it has cached is served");
                Ok(RepositoryKind::Remote(Box::new(Remote::new(*spec, Vec::new()))))
            }
            (kind, _) => kind,
        }
    }

    fn enter(&self, repository: Repository) -> Arc<Repository> {
        let repository = Arc::new(repository);
        self.by_id.insert(repository.id, Arc::clone(&repository));
        self.by_name.insert(repository.name.clone(), Arc::clone(&repository));
        self.changed();
        repository
    }

    fn changed(&self) {
        self.version.store(next_version(), Ordering::Release);
    }
}

fn next_version() -> u64 {
    VERSIONS.fetch_add(1, Ordering::Relaxed)
}

impl RepositorySpec {
    /// Why no repository can be made of this: a file that it names is missing or of another kind.
    pub fn check(&self) -> Result<(), EngineError> {
        kind(self.clone(), Timeouts::default(), &Clock::new()).map(drop)
    }
}

fn kind(spec: RepositorySpec, timeouts: Timeouts, clock: &Clock) -> Result<RepositoryKind, EngineError> {
    Ok(match spec {
        RepositorySpec::Local(spec) => RepositoryKind::Local(spec),
        RepositorySpec::Remote(spec) => {
            let mut origins = vec![origin(&spec, &spec.remote_url, true, timeouts, clock)?];
            for mirror in &spec.mirrors {
                origins.push(origin(&spec, mirror, false, timeouts, clock)?);
            }
            RepositoryKind::Remote(Box::new(Remote::new(*spec, origins)))
        }
    })
}

/// Credentials are for `remote_url` alone; a mirror is another party.
fn origin(
    spec: &RemoteSpec,
    base: &Url,
    main: bool,
    timeouts: Timeouts,
    clock: &Clock,
) -> Result<Upstream, EngineError> {
    let password = match (&spec.password, &spec.password_file) {
        _ if !main => None,
        (Some(password), _) => Some(password.expose().to_owned()),
        (None, Some(path)) => Some(read_password(path)?),
        (None, None) => None,
    };
    let settings = Settings {
        username: spec.username.clone().filter(|_| main),
        password: password.map(SecretString::from),
        ca_file: spec.ca_file.clone(),
        allowed_hosts: spec.allowed_hosts.clone(),
        timeouts,
        ..Settings::new(base.clone())
    };
    Upstream::new(settings, clock.clone()).map_err(|error| {
        let field = match error {
            SettingsError::CaFile { .. } => "ca_file",
            SettingsError::AllowedHost(_) => "allowed_hosts",
            SettingsError::HalfCredentials | SettingsError::Credentials => "username",
            SettingsError::Address | SettingsError::Extras | SettingsError::Tls(_) if main => "remote_url",
            SettingsError::Address | SettingsError::Extras | SettingsError::Tls(_) => "mirrors",
        };
        EngineError::new(ErrorKind::Invalid { field: field.to_owned() }, error.to_string())
    })
}

fn unknown(name: &RepositoryName) -> EngineError {
    EngineError::new(ErrorKind::NameUnknown, format!("there is no repository named {name}"))
}

/// What the change amounts to, and whether it points the remote elsewhere.
fn settle(old: &Repository, spec: RepositorySpec) -> Result<(RepositorySpec, bool), EngineError> {
    match (&old.kind, spec) {
        (RepositoryKind::Local(_), RepositorySpec::Local(spec)) => Ok((RepositorySpec::Local(spec), false)),
        (RepositoryKind::Remote(remote), RepositorySpec::Remote(mut spec)) => {
            let moved = remote.spec.remote_url != spec.remote_url;
            let same_user = spec.username == remote.spec.username;
            if !moved && same_user && spec.password.is_none() && spec.password_file.is_none() {
                spec.password.clone_from(&remote.spec.password);
            }
            Ok((RepositorySpec::Remote(spec), moved))
        }
        _ => Err(EngineError::new(
            ErrorKind::Invalid { field: "repo_type".to_owned() },
            "a repository cannot change between local and remote; delete it and make it anew",
        )),
    }
}

#[expect(clippy::disallowed_methods, reason = "the administrator keeps this secret in a file of their own")]
fn read_password(path: &std::path::Path) -> Result<String, EngineError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let field = "password_file".to_owned();
        EngineError::new(ErrorKind::Invalid { field }, format!("{}: {error}", path.display()))
    })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn to_row(repository: &Repository, retired: bool) -> RepositoryRow {
    let created_ms = repository.created.0;
    let millis = |span: Duration| u64::try_from(span.as_millis()).ok();
    let path = |path: &std::path::PathBuf| path.to_string_lossy().into_owned();
    let empty = RepositoryRow {
        name: repository.name.clone(),
        repo_type: RepositoryType::Local,
        package_type: PackageType::Docker,
        remote_url: None,
        username: None,
        password: None,
        password_file: None,
        ca_file: None,
        tag_ttl_ms: None,
        negative_ttl_ms: None,
        stale_if_error_ms: None,
        max_size: None,
        upstream_namespace: None,
        default_mirror: false,
        anonymous_pull: false,
        allowed_hosts: Vec::new(),
        mirrors: Vec::new(),
        immutable_tags: repository.local().is_some_and(|local| local.immutable_tags),
        sparse_manifests: repository.local().is_some_and(|local| local.sparse_manifests),
        created_ms,
        retired,
    };
    let spec = match &repository.kind {
        RepositoryKind::Local(spec) => return RepositoryRow { anonymous_pull: spec.anonymous_pull, ..empty },
        RepositoryKind::Remote(remote) => &remote.spec,
    };
    RepositoryRow {
        repo_type: RepositoryType::Remote,
        remote_url: Some(spec.remote_url.to_string()),
        username: spec.username.clone(),
        // A retired one is only there to be cleaned up.
        password: spec.password.as_ref().filter(|_| !retired).map(|secret| secret.expose().to_owned()),
        password_file: spec.password_file.as_ref().map(path),
        ca_file: spec.ca_file.as_ref().map(path),
        tag_ttl_ms: millis(spec.tag_ttl),
        negative_ttl_ms: millis(spec.negative_ttl),
        stale_if_error_ms: millis(spec.stale_if_error),
        max_size: spec.max_size,
        upstream_namespace: spec.upstream_namespace.clone(),
        default_mirror: spec.default_mirror,
        anonymous_pull: spec.anonymous_pull,
        allowed_hosts: spec.allowed_hosts.clone(),
        mirrors: spec.mirrors.iter().map(Url::to_string).collect(),
        ..empty
    }
}

fn from_row(row: RepositoryRow) -> Result<RepositorySpec, EngineError> {
    if row.repo_type == RepositoryType::Local {
        return Ok(RepositorySpec::Local(LocalSpec {
            anonymous_pull: row.anonymous_pull,
            immutable_tags: row.immutable_tags,
            sparse_manifests: row.sparse_manifests,
        }));
    }
    let name = row.name;
    let url = |text: &str| {
        Url::parse(text).map_err(|error| {
            EngineError::new(ErrorKind::Internal, format!("repository {name} has a bad address: {error}"))
        })
    };
    let base = RemoteSpec::new(url(row.remote_url.as_deref().unwrap_or_default())?);
    let span = |millis: Option<u64>, default: Duration| millis.map_or(default, Duration::from_millis);
    let mirrors = row.mirrors.iter().map(|mirror| url(mirror)).collect::<Result<_, _>>()?;
    Ok(RepositorySpec::Remote(Box::new(RemoteSpec {
        username: row.username,
        password: row.password.map(Secret::new),
        password_file: row.password_file.map(Into::into),
        ca_file: row.ca_file.map(Into::into),
        tag_ttl: span(row.tag_ttl_ms, RemoteSpec::TAG_TTL),
        negative_ttl: span(row.negative_ttl_ms, RemoteSpec::NEGATIVE_TTL),
        stale_if_error: span(row.stale_if_error_ms, RemoteSpec::STALE_IF_ERROR),
        max_size: row.max_size,
        upstream_namespace: row.upstream_namespace,
        default_mirror: row.default_mirror,
        anonymous_pull: row.anonymous_pull,
        allowed_hosts: row.allowed_hosts,
        mirrors,
        ..base
    })))
}

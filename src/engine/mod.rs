//! Owns the `Engine` handle: the one place where cache, store, metadata and upstreams meet, and where all
//! tasks live.
//! Must not know: HTTP, status codes, OCI error codes.

mod accounts;
mod actor;
mod announced;
mod answers;
mod attempts;
mod backup;
mod blobs;
mod boot;
mod bypass;
mod collect;
mod damage;
mod discovery;
mod documents;
mod drafts;
mod errors;
mod fill;
mod flight;
mod guards;
mod images;
mod inventory;
mod listings;
mod local;
mod manifests;
mod mentioned;
mod model;
mod pointer;
mod prune;
mod publish;
mod push;
mod reader;
mod remembered;
mod removal;
mod repositories;
mod repository;
mod resolutions;
mod room;
mod scrub;
mod settings;
mod shared;
mod snapshots;
mod sweep;
mod sweeps;
mod tags;
mod tidy;
mod touched;
mod turns;
mod unneeded;
mod upload;
mod uploads;
mod verify;

pub use crate::upstream::Timeouts;
pub use accounts::{
    Access, AccessToken, Account, AccountChange, Accounts, Grant, Identity, Limit, LogInFault, NewAccount,
    NewToken, Principal, TICKET_LIFETIME, Ticket, TicketFault,
};
pub use backup::{Counts, Snapshot};
pub use discovery::{MAX_PAGE, ReferrersQuery};
pub use images::NamedManifest;
pub use model::{
    BlobAnswer, BlobWant, Check, Collected, Damaged, EngineError, ErrorKind, Manifest, PageQuery, Purge,
    Purged, ReferrersPage, Remedy, Scope, ScrubReport, Status, StoredImage, StoredTag, TagsPage, Verdict,
    Want,
};
pub use push::{MAX_MANIFEST, ManifestPush, PushedManifest};
pub use reader::{Reader, Window};
pub use remembered::Remembered;
pub use repositories::Repositories;
pub use repository::{
    LocalSpec, Remote, RemoteSpec, Repository, RepositoryKind, RepositorySpec, Secret, Taken,
};
pub use settings::{MaxSize, Settings};
pub use upload::Upload;

use std::path::Path;
use std::sync::Arc;

use actor::Coordination;
use shared::{Parts, Shared};

use crate::clock::Clock;
use crate::meta::{
    self, Batch, Durability, Meta, MetaError, MetaExt as _, Opened, Options, RedbMeta, SCHEMA, SettingKey,
    SettingRow,
};
use crate::names::RepositoryName;
use crate::store::{FsStore, Store};
use crate::telemetry::Metrics;

/// The first epoch whose unsynced copies may be trusted.
const TRUSTED_SINCE: SettingKey = SettingKey::new("trusted_since");

/// What an engine stands on.
pub struct Ground {
    pub store: Arc<dyn Store>,
    pub meta: Arc<dyn Meta>,
    /// How the last stop was.
    pub opened: Opened,
}

/// The handle that requests are answered through. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    coordination: Coordination,
}

/// Why a data directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the file storage cannot be opened: {0}")]
    Store(std::io::Error),
    #[error(transparent)]
    Meta(#[from] MetaError),
    #[error("{0}")]
    Content(#[from] EngineError),
}

impl Engine {
    /// Opens a data directory, making it on first use, and starts the engine's tasks. `first` are the
    /// repositories that a new directory starts with.
    pub async fn open(
        data_dir: &Path,
        settings: Settings,
        metrics: Arc<Metrics>,
        first: Vec<(RepositoryName, RepositorySpec)>,
    ) -> Result<Self, OpenError> {
        let store = FsStore::open(data_dir).map_err(OpenError::Store)?;
        let (meta, opened) = RedbMeta::open(&data_dir.join(meta::FILE), Options::default())?;
        let ground = Ground { store: Arc::new(store), meta: Arc::new(meta), opened };
        Self::start(ground, settings, metrics, first).await
    }

    /// The same on a store and a metadata store that are open already.
    pub async fn start(
        ground: Ground,
        settings: Settings,
        metrics: Arc<Metrics>,
        first: Vec<(RepositoryName, RepositorySpec)>,
    ) -> Result<Self, OpenError> {
        let clock = Clock::new();
        let Ground { store, meta, opened } = ground;
        let trusted_since = trust(&meta, &opened).await?;
        let repositories = Repositories::load(&meta, &clock, settings.timeouts)?;
        let accounts = Accounts::load(&meta, &clock, &metrics).await?;
        let parts = Parts {
            clock,
            store,
            meta,
            metrics,
            repositories,
            accounts,
            settings,
            epoch: opened.epoch,
            upgraded_from: (opened.schema < SCHEMA).then_some(opened.schema),
            trusted_since,
        };
        let shared = Arc::new(Shared::new(parts));
        boot::take_stock_of_drafts(&shared).await;
        let coordination = Coordination::start(&shared);
        let engine = Self { shared: Arc::clone(&shared), coordination: coordination.clone() };
        shared.repositories.make_first(first).await?;
        shared.tasks.spawn(boot::load_index(Arc::clone(&shared), coordination.clone()));
        shared.tasks.spawn(sweep::housekeeping(Arc::clone(&shared), coordination.clone()));
        shared.tasks.spawn(tidy::tidy(Arc::clone(&shared), coordination));
        shared.tasks.spawn(snapshots::regularly(Arc::clone(&shared)));
        shared.tasks.spawn(collect::regularly(engine.clone()));
        Ok(engine)
    }

    /// As they are at this moment.
    pub fn metrics(&self) -> &Arc<Metrics> {
        self.shared.metrics.meta_commits(self.shared.meta.commits());
        &self.shared.metrics
    }

    /// The schema that the metadata had, if opening it upgraded it.
    pub fn upgraded_from(&self) -> Option<u32> {
        self.shared.upgraded_from
    }

    pub fn repositories(&self) -> &Repositories {
        &self.shared.repositories
    }

    /// Who may log in, and what was granted to whom.
    pub fn accounts(&self) -> &Accounts {
        &self.shared.accounts
    }

    /// Changes a repository. What was granted in it stays granted, also where it is pointed elsewhere.
    pub async fn update_repository(
        &self,
        name: &RepositoryName,
        spec: RepositorySpec,
    ) -> Result<Arc<Repository>, EngineError> {
        self.repositories().update(name, spec, self.accounts()).await
    }

    /// Removes a repository, and what was granted in it.
    pub async fn delete_repository(&self, name: &RepositoryName, purge: bool) -> Result<(), EngineError> {
        self.repositories().delete(name, purge, self.accounts()).await
    }

    /// Whether requests can be answered, and what the gauges show.
    pub async fn status(&self) -> Status {
        let counts = self.coordination.counts().await;
        let space =
            self.shared.read(|shared| Ok(shared.store.space()?)).await.inspect_err(EngineError::report);
        let meta = self.metadata().await;
        let check = |name, failed: Option<String>| Check {
            name,
            ok: failed.is_none(),
            detail: failed.unwrap_or_else(|| "ok".to_owned()),
        };
        let ended = match (self.shared.tasks.is_stopping(), self.coordination.is_running()) {
            (true, _) => Some("the server is stopping"),
            (false, false) => Some("the cache's task has ended: restart the server"),
            (false, true) => None,
        };
        let checks = vec![
            check("metadata", meta.err()),
            check("storage", space.as_ref().err().map(|error| error.message.clone())),
            check("running", ended.map(str::to_owned)),
        ];
        let (free_bytes, total_bytes) = space.map_or((0, 0), |space| (space.free, space.total));
        Status { ready: checks.iter().all(|check| check.ok), checks, counts, free_bytes, total_bytes }
    }

    /// Reads must work. That it takes no writes for a while is no reason to send pulls elsewhere; that it never will
    /// again is one.
    async fn metadata(&self) -> Result<(), String> {
        let read = self.shared.read(|shared| Ok(shared.meta.get::<SettingRow>(&SettingKey::EPOCH)?)).await;
        read.inspect_err(EngineError::report).map_err(|error| error.message)?;
        match self.shared.meta.apply(Batch::new(Durability::Relaxed)).await {
            Err(MetaError::Closed) => Err("the metadata store has closed: restart the server".to_owned()),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Puts down what is under way where the next start can take it up, and closes the metadata. To be called
    /// when no request is answered any more.
    pub async fn shutdown(&self) {
        sweep::note_uses(&self.shared, Durability::Relaxed).await;
        if !self.shared.tasks.end(self.shared.settings.stop_grace).await {
            // They may still publish behind the sync, so nothing may be said of what is on the disk.
            tracing::warn!("some tasks did not end in time: the stop is not clean");
            return;
        }
        // A clean stop means that what is cached may be trusted, so it must be on the disk.
        let synced = self.shared.read(|shared| Ok(shared.store.sync_all()?)).await;
        match synced {
            Ok(()) => {
                if let Err(error) = self.shared.meta.close().await {
                    tracing::error!(%error, "the metadata was not closed in order");
                }
            }
            Err(error) => tracing::error!(%error, "the file storage cannot be synced: the stop is not clean"),
        }
    }
}

/// After an unclean stop, copies that were not synced are suspect until they are hashed.
async fn trust(meta: &Arc<dyn Meta>, opened: &Opened) -> Result<u64, OpenError> {
    let stored = meta.get::<SettingRow>(&TRUSTED_SINCE)?.and_then(|row| row.value.as_u64());
    let since = match stored {
        Some(since) if opened.clean => since,
        _ => opened.epoch,
    };
    if stored != Some(since) {
        let mut batch = Batch::new(Durability::Durable);
        batch.put(&TRUSTED_SINCE, &SettingRow { value: since.into() });
        meta.apply(batch).await?;
    }
    Ok(since)
}

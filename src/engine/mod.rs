//! Owns the `Engine` handle: the one place where cache, store, metadata and upstreams meet, and where all
//! tasks live.
//! Must not know: HTTP, status codes, OCI error codes.

mod accounts;
mod actor;
mod answers;
mod attempts;
mod blobs;
mod boot;
mod bypass;
mod discovery;
mod documents;
mod drafts;
mod errors;
mod fill;
mod flight;
mod guards;
mod inventory;
mod listings;
mod local;
mod manifests;
mod model;
mod pointer;
mod publish;
mod push;
mod reader;
mod removal;
mod repositories;
mod repository;
mod resolutions;
mod settings;
mod shared;
mod sweep;
mod touched;
mod turns;
mod upload;
mod uploads;
mod verify;

pub use accounts::{
    Access, AccessToken, Account, AccountChange, Accounts, Grant, Identity, Limit, LogInFault, NewAccount,
    NewToken, Principal, TICKET_LIFETIME, Ticket, TicketFault,
};
pub use discovery::{MAX_PAGE, ReferrersQuery};
pub use model::{
    BlobAnswer, BlobWant, CachedImage, CachedTag, Check, EngineError, ErrorKind, Manifest, PageQuery, Purge,
    Purged, ReferrersPage, Scope, Status, TagsPage, Verdict, Want,
};
pub use push::{MAX_MANIFEST, ManifestPush, PushedManifest};
pub use reader::Reader;
pub use repositories::Repositories;
pub use repository::{LocalSpec, Remote, RemoteSpec, Repository, RepositoryKind, RepositorySpec, Secret};
pub use settings::{MaxSize, Settings};
pub use upload::Upload;

use std::path::Path;
use std::sync::Arc;

use actor::Coordination;
use shared::{Parts, Shared};

use crate::clock::Clock;
use crate::meta::{
    Batch, Durability, Meta, MetaError, MetaExt as _, Opened, Options, RedbMeta, SettingKey, SettingRow,
};
use crate::names::RepositoryName;
use crate::store::{FsStore, Store};
use crate::telemetry::Metrics;

/// The first epoch whose unsynced copies may be trusted.
const TRUSTED_SINCE: SettingKey = SettingKey::new("trusted_since");

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
        let clock = Clock::new();
        let store: Arc<dyn Store> = Arc::new(FsStore::open(data_dir).map_err(OpenError::Store)?);
        let (meta, opened) = RedbMeta::open(&data_dir.join("meta.redb"), Options::default())?;
        let meta: Arc<dyn Meta> = Arc::new(meta);
        let trusted_since = trust(&meta, &opened).await?;
        let repositories = Repositories::load(&meta, &clock)?;
        let accounts = Accounts::load(&meta, &clock).await?;
        let parts = Parts {
            clock,
            store,
            meta,
            metrics,
            repositories,
            accounts,
            settings,
            epoch: opened.epoch,
            trusted_since,
        };
        let shared = Arc::new(Shared::new(parts));
        boot::take_stock_of_drafts(&shared)?;
        let coordination = Coordination::start(&shared);
        let engine = Self { shared: Arc::clone(&shared), coordination: coordination.clone() };
        if opened.created {
            for (name, spec) in first {
                engine.shared.repositories.create(name, spec).await?;
            }
        }
        shared.tasks.spawn(boot::load_index(Arc::clone(&shared), coordination.clone()));
        shared.tasks.spawn(sweep::housekeeping(Arc::clone(&shared), coordination));
        Ok(engine)
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
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
        let (changed, old) = self.repositories().update(name, spec).await?;
        if changed.id != old {
            self.accounts().renumber(old, Some(changed.id)).await?;
        }
        Ok(changed)
    }

    /// Removes a repository, and what was granted in it.
    pub async fn delete_repository(&self, name: &RepositoryName, purge: bool) -> Result<(), EngineError> {
        let old = self.repositories().delete(name, purge).await?;
        self.accounts().renumber(old, None).await
    }

    /// Whether requests can be answered, and what the gauges show.
    pub async fn status(&self) -> Status {
        let counts = self.coordination.counts().await;
        let space = self.shared.read(|shared| Ok(shared.store.space()?)).await;
        let meta = self.shared.read(|shared| Ok(shared.meta.get::<SettingRow>(&SettingKey::EPOCH)?)).await;
        let check = |name, failed: Option<String>| Check {
            name,
            ok: failed.is_none(),
            detail: failed.unwrap_or_else(|| "ok".to_owned()),
        };
        let checks = vec![
            check("metadata", meta.err().map(|error| error.message)),
            check("storage", space.as_ref().err().map(|error| error.message.clone())),
            check("running", self.shared.tasks.is_stopping().then(|| "the server is stopping".to_owned())),
        ];
        let (free_bytes, total_bytes) = space.map_or((0, 0), |space| (space.free, space.total));
        Status { ready: checks.iter().all(|check| check.ok), checks, counts, free_bytes, total_bytes }
    }

    /// Puts down what is under way where the next start can take it up, and closes the metadata. To be called
    /// when no request is answered any more.
    pub async fn shutdown(&self) {
        sweep::note_uses(&self.shared, Durability::Relaxed).await;
        if !self.shared.tasks.end(self.shared.settings.stop_grace).await {
            tracing::warn!("some fetches did not end in time; their drafts are cut back at the next start");
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

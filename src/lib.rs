//! binaryrepo: a binary repository manager.

pub mod api;
pub mod cache;
pub mod clock;
pub mod config;
pub mod engine;
pub mod form;
pub mod names;
pub mod reply;
pub mod store;
pub mod telemetry;
pub mod text;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::engine::Engine;
use crate::names::RepositoryName;

/// A server that listens, for the lines that it greets with.
#[derive(Clone, Debug)]
pub struct Started {
    /// With the real port where 0 was asked for.
    pub address: SocketAddr,
    pub data_dir: PathBuf,
    /// The data directory was made just now.
    pub created: bool,
    pub free_bytes: u64,
    /// What cached content may take.
    pub limit_bytes: u64,
    pub repositories: Vec<StartedRepository>,
    /// `None`: the token came from the environment.
    pub token_file: Option<PathBuf>,
    /// From the start of the process until it listened.
    pub took: Duration,
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
    #[error("{0}")]
    Failed(String),
}

/// Runs a server until `shutdown` is cancelled, then drains it. `started` is called once, when it listens.
pub async fn serve(
    config: Config,
    _shutdown: CancellationToken,
    _started: impl FnOnce(&Started),
) -> Result<(), StartError> {
    Err(StartError::Failed(format!("nothing listens on {} in this build", config.server.listen)))
}

/// The engine without a server, for commands while none runs.
pub async fn offline(config: &Config) -> Result<Engine, StartError> {
    let path = config.storage.path.display();
    Err(StartError::Failed(format!("this build cannot open {path} without a running server")))
}

//! Owns `recover`: what a person is told of it, and what to do next.
//! Must not know: how anything is recovered.

use binaryrepo::StartError;
use binaryrepo::backup::{self, RecoverError};
use binaryrepo::clock::Clock;
use binaryrepo::text::time_text;
use serde_json::json;
use tokio::net::UnixStream;

use super::connect;
use super::error::{CliError, Exit};
use super::output;
use super::settings::Place;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  binaryrepo recover --data-dir /srv/binaryrepo     where a start says that the metadata is damaged

The server takes snapshots of its metadata (storage.snapshots). The newest that is whole takes the
place of the damaged file, which is kept beside it. Layers stay where they are, and each is hashed
before it is served again. What was pushed or changed after the snapshot has to be pushed or
changed again. `binaryrepo restore` is for a lost disk, and needs a backup.")]
pub struct Args {
    /// As JSON
    #[arg(long)]
    json: bool,
}

const NEXT: &str = "\
what came after that is not in it:
  - make changes to users, grants, tokens, repositories and tags again; who was removed is back
  - push again what was pushed; what was deleted is listed again: delete it, or push it if it is lost
next: start the server, then `binaryrepo scrub` hashes all that lies here and names what is lost
";

pub fn run(place: &Place, args: &Args) -> Result<(), CliError> {
    let storage = place.load()?.storage;
    connect::runtime()?.block_on(async {
        // A server whose file was removed under it holds no lock that could be met.
        if UnixStream::connect(storage.socket()).await.is_ok() {
            return Err(StartError::InUse(storage.path).into());
        }
        let now = Clock::new().wall().0 / 1_000;
        let recovered = backup::recover(&storage.path, now).await?;
        for newer in &recovered.passed_over {
            eprintln!("warning: a newer snapshot is passed over: {newer}");
        }
        let (taken, kept) = (time_text(recovered.taken_ms), recovered.kept);
        if args.json {
            return output::json(
                &json!({ "snapshot": taken, "kept": kept, "passed_over": recovered.passed_over }),
            );
        }
        output::line(format_args!("{} has the metadata of {taken}", storage.path.display()))?;
        if let Some(kept) = kept {
            output::line(format_args!("the damaged file is kept: {}", kept.display()))?;
        }
        output::text_block(NEXT)
    })
}

impl From<RecoverError> for CliError {
    fn from(error: RecoverError) -> Self {
        let told = Self::new(Exit::Config, error.to_string());
        match error {
            RecoverError::InUse(path) => StartError::InUse(path).into(),
            RecoverError::Sound(_) => told.with_hint("start the server"),
            RecoverError::NoSnapshot { dir, .. } => told.with_hint(binaryrepo::only_backup(&dir)),
            RecoverError::Failed { .. } => told,
        }
    }
}

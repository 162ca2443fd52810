//! Owns `backup` and `restore`: where from, where to, and how far it is.
//! Must not know: what a backup looks like.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use binaryrepo::backup::{self, BackupError, How, Progress, Summary, Whole};
use binaryrepo::clock::{Clock, Millis};
use binaryrepo::text::human_bytes;
use http::Method;

use super::connect::{self, Target};
use super::error::{CliError, Exit};
use super::output::{self, counted};
use super::settings::Place;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  binaryrepo backup /srv/backup/binaryrepo            also while the server runs and takes pushes
  binaryrepo backup /srv/data/backup --link           on the same file system: nothing is copied
  binaryrepo restore /srv/backup/binaryrepo --check   whether all of it is whole

Saved are repositories with their settings and passwords, users, tokens, grants, and all that was
pushed. What is cached is not, since it can be fetched again, and neither are the configuration and
admin.token. The next backup into the same directory brings only what is new, and removes what is
gone; until it is finished the last one stays whole. Run it on the server's machine, as the user
that the server runs as.

Exit code 1: no backup was taken, or something that was pushed is missing in it, since it is
damaged here.")]
pub struct Args {
    /// Directory of the backup; made where it is not there
    #[arg(value_name = "DIR")]
    dir: PathBuf,

    /// Link blobs instead of copying them; safe from deletion, not from the loss of the disk
    #[arg(long)]
    link: bool,

    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  binaryrepo restore /srv/backup/binaryrepo --data-dir /srv/binaryrepo
  binaryrepo restore /srv/backup/binaryrepo --check

The data directory must be empty or not there, and no server may use it. Every byte is compared
with its digest on the way. Start the server as the user that owns the directory then.")]
pub struct RestoreArgs {
    /// Directory that `binaryrepo backup` wrote
    #[arg(value_name = "DIR")]
    dir: PathBuf,

    /// Only read the backup, and say whether it is whole
    #[arg(long)]
    check: bool,

    /// As JSON
    #[arg(long)]
    json: bool,
}

pub fn run(place: &Place, args: &Args) -> Result<(), CliError> {
    let data = place.load()?.storage.path;
    let how = if args.link { How::Link } else { How::Copy };
    // The server's files are needed, so it must be on this machine: no other can be named.
    connect::run(place, &Target::default(), async |connection| {
        let ask = async || {
            let answer = connection.call(Method::POST, "/api/backup", None).await?;
            let unknown = |error| CliError::failed("the server's answer is unknown").with_cause(error);
            serde_json::from_value(answer).map_err(unknown)
        };
        let mut meter = Meter::new();
        let summary = backup::take(&data, &args.dir, how, ask, |now| meter.show(now)).await;
        meter.end();
        let summary = summary?;
        if args.json {
            output::json(&json(&summary)?)?;
        } else {
            let (copied, bytes) = (summary.copied, human_bytes(summary.copied_bytes));
            output::line(format_args!("{}; {copied} of the blobs were new, {bytes}", contents(&summary)))?;
            output::line(format_args!("the backup in {} is whole and on the disk", args.dir.display()))?;
        }
        if summary.missing.is_empty() { Ok(()) } else { Err(lost(&summary.missing)) }
    })
}

pub fn restore(place: &Place, args: &RestoreArgs) -> Result<(), CliError> {
    let data = place.load()?.storage.path;
    connect::runtime()?.block_on(async {
        let whole = Whole::read(&args.dir)?;
        let mut meter = Meter::new();
        let summary = match args.check {
            true => whole.check(|now| meter.show(now)).await,
            false => whole.restore(&data, |now| meter.show(now)).await,
        };
        meter.end();
        let summary = summary?;
        if args.json {
            output::json(&json(&summary)?)?;
        } else {
            output::line(format_args!("{}; taken {}", contents(&summary), summary.taken))?;
            match args.check {
                true => output::line(format_args!("the backup is whole"))?,
                false => {
                    output::line(format_args!("brought back into {}: start the server", data.display()))?;
                }
            }
        }
        for missing in &summary.missing {
            eprintln!("warning: it was missing already when the backup was taken: {missing}");
        }
        Ok(())
    })
}

fn json(summary: &Summary) -> Result<serde_json::Value, CliError> {
    serde_json::to_value(summary)
        .map_err(|error| CliError::failed("the summary cannot be written").with_cause(error))
}

fn contents(summary: &Summary) -> String {
    let Summary { repositories, tags, manifests, blobs, bytes, .. } = summary;
    let size = human_bytes(*bytes);
    let repositories = match repositories {
        1 => "1 repository".to_owned(),
        more => format!("{more} repositories"),
    };
    let [tags, manifests, blobs] =
        [(tags, "tag"), (manifests, "manifest"), (blobs, "blob")].map(|(count, word)| counted(*count, word));
    format!("{repositories}, {tags}, {manifests}, {blobs}, {size}")
}

fn lost(missing: &[String]) -> CliError {
    let what = match missing.len() {
        1 => "1 blob that was pushed here is lost".to_owned(),
        more => format!("{more} blobs that were pushed here are lost"),
    };
    CliError::failed(format!("{what}, and so not in the backup"))
        .with_cause(missing.join("; "))
        .with_hint("push them again, or take them from an earlier backup")
}

impl From<BackupError> for CliError {
    fn from(error: BackupError) -> Self {
        let text = error.to_string();
        match error {
            BackupError::None { .. } | BackupError::Damaged { .. } => {
                Self::failed(text).with_hint("take another backup, if the server is still there")
            }
            BackupError::NotEmpty { .. } => Self::new(Exit::Config, text)
                .with_hint("name another directory, or empty this one if nothing in it is needed"),
            BackupError::InUse(_) => Self::failed(text).with_hint("wait for its end"),
            BackupError::Io { ref error, .. } if error.kind() == std::io::ErrorKind::CrossesDevices => {
                Self::failed(text).with_hint("--link needs the file system of the data directory")
            }
            BackupError::Io { .. } | BackupError::Snapshot(_) => Self::failed(text),
        }
    }
}

/// A line for a person who watches, written over itself.
struct Meter {
    clock: Clock,
    watched: bool,
    shown: Option<Millis>,
}

impl Meter {
    const EVERY: Duration = Duration::from_millis(200);

    fn new() -> Self {
        Self { clock: Clock::new(), watched: std::io::stderr().is_terminal(), shown: None }
    }

    fn show(&mut self, now: &Progress) {
        let due = self.shown.is_none_or(|shown| self.clock.now().since(shown) >= Self::EVERY);
        if !self.watched || !due {
            return;
        }
        self.shown = Some(self.clock.now());
        let Progress { blobs, bytes, all_blobs, all_bytes } = now;
        let (bytes, all) = (human_bytes(*bytes), human_bytes(*all_bytes));
        Self::write(&format!("\r\x1b[K{blobs} of {all_blobs} blobs, {bytes} of {all}"));
    }

    fn end(&self) {
        if self.shown.is_some() {
            Self::write("\r\x1b[K");
        }
    }

    fn write(text: &str) {
        // Nobody is left to tell when stderr is closed.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

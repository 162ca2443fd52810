//! Owns `image`: what lies here, for people, and removing what was pushed. One file per command.
//! Must not know: how it is found out, what goes with what.

pub mod list;
mod remove;
mod show;

use clap::Subcommand;

use super::error::CliError;
use super::settings::Place;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List images with their tags, sizes and dates
    Ls(list::Args),
    /// Show the tags of one image
    Show(show::Args),
    /// Remove a tag, a manifest or an image that was pushed here
    Rm(remove::Args),
}

pub fn run(place: &Place, command: &Command) -> Result<(), CliError> {
    match command {
        Command::Ls(args) => list::run(place, args),
        Command::Show(args) => show::run(place, args),
        Command::Rm(args) => remove::run(place, args),
    }
}

/// `2026-11-21T19:20:37Z` to the minute, as people write it.
fn date(moment: &str) -> String {
    moment.chars().take(16).collect::<String>().replace('T', " ")
}

//! Owns `image`: what lies here, for people, and removing what was pushed. One file per command.
//! Must not know: how it is found out, what goes with what.

pub mod list;
mod remove;
mod show;

use clap::Subcommand;
use serde_json::Value;

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

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or("?")
}

fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or_default()
}

fn tags_of(image: &Value) -> &[Value] {
    image.get("tags").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// `2026-11-21T19:20:37Z` to the minute, as people write it.
fn date(moment: &str) -> String {
    moment.chars().take(16).collect::<String>().replace('T', " ")
}

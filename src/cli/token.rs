//! Owns `token show`.
//! Must not know: how a token is made or checked.

use std::io;

use super::error::{CliError, Exit};
use super::output;
use super::settings::Place;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Print the administrator's token
    #[command(after_help = "\
Examples:
  curl -H \"Authorization: Bearer $(binaryrepo token show)\" https://api.example.com/api/repository
  docker exec binaryrepo binaryrepo token show")]
    Show,
}

#[expect(clippy::disallowed_methods, reason = "printing this file is the whole command")]
pub fn run(place: &Place, command: &Command) -> Result<(), CliError> {
    let Command::Show = command;
    let config = place.load()?;
    if let Some(token) = &config.admin_token {
        return output::line(format_args!("{}", token.expose()));
    }
    let file = config.storage.token_file();
    let token = std::fs::read_to_string(&file).map_err(|error| {
        let failed = CliError::new(Exit::Config, format!("{} cannot be read", file.display()));
        let failed = failed.with_cause(&error);
        match error.kind() {
            io::ErrorKind::NotFound => {
                failed.with_hint("the first start makes it; --data-dir says where to look")
            }
            io::ErrorKind::PermissionDenied => {
                failed.with_hint("only the user that the server runs as may read it")
            }
            _ => failed,
        }
    })?;
    output::line(format_args!("{}", token.trim()))
}

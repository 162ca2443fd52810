//! Owns the command line: which commands there are, and what their end looks like. One file per command.
//! Must not know: protocol, how anything is stored.

mod backup;
mod bench;
mod connect;
mod error;
mod fields;
mod gc;
mod health;
mod image;
mod named;
mod output;
mod password;
mod people;
mod purge;
mod recover;
mod repo;
mod scrub;
mod serve;
mod settings;
mod wire;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use error::CliError;
use settings::{Place, SettingFlags};

const EXAMPLES: &str = "\
Examples:
  binaryrepo serve                                     on 127.0.0.1:8081; it says where its data is
  docker pull localhost:8081/docker-remote/alpine      the first pull fetches, the next ones do not
  binaryrepo repo add quay https://quay.io             another upstream
  binaryrepo ls                                        which images there are

Exit codes: 0 done, 1 failed, 2 usage, 3 configuration or data directory, 4 server unreachable";

/// A pull-through cache and registry for container images.
#[derive(Debug, Parser)]
#[command(name = "binaryrepo", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    place: Place,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(SettingFlags),
    /// Check the configuration and show what is in force
    CheckConfig(SettingFlags),
    /// Ask the running server whether it is well; for containers
    Healthcheck(health::Args),
    /// Make, list, show, change and remove repositories
    #[command(subcommand, visible_alias = "repository")]
    Repo(Box<repo::Command>),
    /// Images, cached and pushed: list, show, remove
    #[command(subcommand)]
    Image(image::Command),
    /// List images with their tags, sizes and dates; short for `image ls`
    Ls(image::list::Args),
    /// Remove cached content; the next pull fetches it again
    Purge(purge::Args),
    /// Save all that was pushed, and the settings, into a directory
    Backup(backup::Args),
    /// Make a data directory from a backup
    Restore(backup::RestoreArgs),
    /// Put the last snapshot in the place of damaged metadata
    Recover(recover::Args),
    /// Remove pushed content that no image needs any more
    Gc(gc::Args),
    /// Hash everything that lies here, and heal what is damaged
    Scrub(scrub::Args),
    /// Make, list, change and remove users
    #[command(subcommand)]
    User(people::user::Command),
    /// Say who may do what with which images
    #[command(subcommand)]
    Grant(people::grant::Command),
    /// The administrator's token, and access tokens for users and robots
    #[command(subcommand)]
    Token(people::token::Command),
    /// Measure a running registry
    #[command(subcommand)]
    Bench(bench::Command),
    /// Show the version
    Version(VersionArgs),
}

#[derive(Debug, clap::Args)]
struct VersionArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    // Wrong usage ends here, with code 2.
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Serve(flags) => serve::run(&cli.place, &flags),
        Command::CheckConfig(flags) => settings::check(&cli.place, &flags),
        Command::Healthcheck(args) => health::run(&cli.place, &args),
        Command::Repo(command) => repo::run(&cli.place, *command),
        Command::Image(command) => image::run(&cli.place, &command),
        Command::Ls(args) => image::list::run(&cli.place, &args),
        Command::Purge(args) => purge::run(&cli.place, &args),
        Command::Backup(args) => backup::run(&cli.place, &args),
        Command::Restore(args) => backup::restore(&cli.place, &args),
        Command::Recover(args) => recover::run(&cli.place, &args),
        Command::Gc(args) => gc::run(&cli.place, &args),
        Command::Scrub(args) => scrub::run(&cli.place, &args),
        Command::User(command) => people::user::run(&cli.place, command),
        Command::Grant(command) => people::grant::run(&cli.place, command),
        Command::Token(command) => people::token::run(&cli.place, &command),
        Command::Bench(command) => bench::run(&command),
        Command::Version(args) => version(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

fn version(args: &VersionArgs) -> Result<(), CliError> {
    let version = env!("CARGO_PKG_VERSION");
    match args.json {
        true => output::json(&serde_json::json!({ "version": version })),
        false => output::line(format_args!("binaryrepo {version}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Cli;

    /// clap breaks a longer line anew, wherever a word ends, and the next one stays as it was.
    const WIDTH: usize = 100;

    /// What is wrong with the help of a command and those below it.
    fn look(command: &clap::Command, wrong: &mut Vec<String>) {
        let name = command.get_name();
        let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let long = examples.lines().filter(|line| line.chars().count() > WIDTH);
        wrong.extend(long.map(|line| format!("{name}: too long: {line}")));
        let silent = command.get_arguments().filter(|argument| argument.get_help().is_none());
        wrong.extend(silent.map(|argument| format!("{name}: nothing is said of {}", argument.get_id())));
        command.get_subcommands().for_each(|command| look(command, wrong));
    }

    #[test]
    fn help_fits_its_width_and_explains_every_argument() {
        let mut wrong = Vec::new();
        look(&Cli::command(), &mut wrong);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

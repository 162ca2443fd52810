//! Owns `grant add|list|remove`: arguments to requests, answers to tables.
//! Must not know: what a role allows.

use binaryrepo::names::{AccountName, RepositoryName, Role};
use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::super::connect;
use super::super::error::CliError;
use super::super::fields::{rows, text};
use super::super::output::{self, Align, Table};
use super::super::settings::Place as Installation;
use super::{Output, Place, path_with, place_text};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Let a user read, write, delete or administrate images
    Add(AddArgs),
    /// List what was granted
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Take a grant back
    #[command(visible_alias = "rm")]
    Remove(RemoveArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  binaryrepo grant add ada write docker-local             all images of a repository
  binaryrepo grant add ada read 'docker-local/team/*'     those whose names begin with team/
  binaryrepo grant add ada read '*'                       every repository, those to come as well

Each role includes those before it: read, write, delete, admin. An admin of all images of a
repository may also grant roles in it and remove what is cached.")]
pub struct AddArgs {
    /// Who may
    user: AccountName,

    /// read, write, delete or admin
    role: Role,

    /// REPOSITORY, REPOSITORY/IMAGES, or * ; a * in IMAGES stands for any text
    #[arg(value_name = "WHERE")]
    place: Place,

    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Only of this user
    #[arg(long, value_name = "NAME")]
    user: Option<AccountName>,

    /// Only in this repository
    #[arg(long, value_name = "NAME")]
    repository: Option<RepositoryName>,

    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub struct RemoveArgs {
    /// Who may no longer
    user: AccountName,

    /// As it was granted: REPOSITORY, REPOSITORY/IMAGES, or *
    #[arg(value_name = "WHERE")]
    place: Place,

    #[command(flatten)]
    output: Output,
}

pub fn run(place: &Installation, command: Command) -> Result<(), CliError> {
    match command {
        Command::Add(args) => add(place, &args),
        Command::List(args) => list(place, &args),
        Command::Remove(args) => remove(place, &args),
    }
}

fn add(place: &Installation, args: &AddArgs) -> Result<(), CliError> {
    let mut body = json!({ "user": args.user.as_str(), "role": args.role.as_str() });
    args.place.put_into(&mut body);
    connect::run(place, &args.output.target, async |to| {
        let made = to.call(Method::POST, "/api/grants", Some(&body)).await?;
        match args.output.json {
            true => output::json(&made),
            false => output::line(format_args!("{}: {} {}", args.user, args.role, place_text(&made))),
        }
    })
}

fn remove(place: &Installation, args: &RemoveArgs) -> Result<(), CliError> {
    let Place { repository, images } = &args.place;
    let parameters =
        [("user", Some(args.user.as_str())), ("repository", Some(repository)), ("images", Some(images))];
    let path = path_with("/api/grants", &parameters);
    connect::run(place, &args.output.target, async |to| {
        to.call(Method::DELETE, &path, None).await?;
        match args.output.json {
            true => output::json(&json!({ "removed": { "user": args.user.as_str(), "repository": repository,
                "images": images } })),
            false => output::line(format_args!("taken back from {}", args.user)),
        }
    })
}

fn list(place: &Installation, args: &ListArgs) -> Result<(), CliError> {
    let user = args.user.as_ref().map(AccountName::as_str);
    let repository = args.repository.as_ref().map(RepositoryName::as_str);
    let path = path_with("/api/grants", &[("user", user), ("repository", repository)]);
    connect::run(place, &args.output.target, async |to| {
        let answer = to.get(&path).await?;
        match rows(&answer, "grants") {
            _ if args.output.json => output::json(&answer),
            [] => output::line(format_args!("nothing was granted; administrators may do everything")),
            grants => output::text_block(&table(grants).to_string()),
        }
    })
}

fn table(grants: &[Value]) -> Table<3> {
    let mut table = Table::new([("USER", Align::Left), ("ROLE", Align::Left), ("WHERE", Align::Left)]);
    for grant in grants {
        table.push([text(grant, "user").to_owned(), text(grant, "role").to_owned(), place_text(grant)]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_lined_up() {
        let grants = [
            json!({ "user": "ada", "repository": "docker-local", "images": "team/*", "role": "write" }),
            json!({ "user": "bob", "repository": "*", "images": "*", "role": "read" }),
        ];
        let expected = "\
USER  ROLE   WHERE
ada   write  docker-local/team/*
bob   read   *
";
        assert_eq!(table(&grants).to_string(), expected);
    }
}

//! Owns `user add|list|update|passwd|remove`: arguments to requests, answers to tables.
//! Must not know: what is right for a field; the server says.

use binaryrepo::names::AccountName;
use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::super::connect;
use super::super::error::CliError;
use super::super::fields::{flag, rows, text};
use super::super::output::{self, Align, Table};
use super::super::settings::Place as Installation;
use super::{Output, PasswordSource, user_path};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a user
    Add(AddArgs),
    /// List all users
    #[command(visible_alias = "ls")]
    List(Output),
    /// Make a user an administrator, or shut one out for a while
    Update(UpdateArgs),
    /// Set another password
    Passwd(PasswdArgs),
    /// Remove a user with all grants and tokens
    #[command(visible_alias = "rm")]
    Remove(OneArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  binaryrepo user add --admin ada                        asks for the password
  binaryrepo user add ci --password-stdin < password
  binaryrepo grant add ci write docker-local             and what the user may do

As soon as there is a user, pulls need a log-in too, except from repositories with anonymous_pull.")]
pub struct AddArgs {
    /// Lower-case letters, digits, dots, hyphens, underscores, plus and at signs
    name: AccountName,

    /// May do everything, manage this server too
    #[arg(long)]
    admin: bool,

    #[command(flatten)]
    password: PasswordSource,

    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub struct UpdateArgs {
    /// The user
    name: AccountName,

    /// May do everything, manage this server too
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    admin: Option<bool>,

    /// May not log in; tokens do not work either
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    disabled: Option<bool>,

    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub struct PasswdArgs {
    /// The user
    name: AccountName,

    #[command(flatten)]
    password: PasswordSource,

    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub struct OneArgs {
    /// The user
    name: AccountName,

    #[command(flatten)]
    output: Output,
}

pub fn run(place: &Installation, command: Command) -> Result<(), CliError> {
    match command {
        Command::Add(args) => add(place, &args),
        Command::List(output) => list(place, &output),
        Command::Update(args) => update(place, &args),
        Command::Passwd(args) => passwd(place, &args),
        Command::Remove(args) => remove(place, &args),
    }
}

fn add(place: &Installation, args: &AddArgs) -> Result<(), CliError> {
    let password = args.password.read()?;
    let body = json!({ "name": args.name.as_str(), "password": password, "admin": args.admin });
    connect::run(place, &args.output.target, async |to| {
        let before = to.get("/api/users").await?;
        let made = to.call(Method::POST, "/api/users", Some(&body)).await?;
        if rows(&before, "users").is_empty() {
            eprintln!(
                "the first user: from now on pulls need a log-in as well, except from repositories with \
                 anonymous_pull (`binaryrepo repo update docker-remote --anonymous-pull`)"
            );
        }
        print(&made, &format!("made {}", args.name), args.output.json)
    })
}

fn update(place: &Installation, args: &UpdateArgs) -> Result<(), CliError> {
    let mut body = json!({});
    for (name, value) in [("admin", args.admin), ("disabled", args.disabled)] {
        if let Some(value) = value {
            body[name] = json!(value);
        }
    }
    if body == json!({}) {
        return Err(CliError::usage("nothing to change was named")
            .with_hint("for example: binaryrepo user update ada --disabled"));
    }
    connect::run(place, &args.output.target, async |to| {
        let changed = to.call(Method::PUT, &user_path(&args.name), Some(&body)).await?;
        print(&changed, &format!("changed {}", args.name), args.output.json)
    })
}

fn passwd(place: &Installation, args: &PasswdArgs) -> Result<(), CliError> {
    let body = json!({ "password": args.password.read()? });
    connect::run(place, &args.output.target, async |to| {
        let changed = to.call(Method::PUT, &user_path(&args.name), Some(&body)).await?;
        print(&changed, &format!("changed the password of {}", args.name), args.output.json)
    })
}

fn remove(place: &Installation, args: &OneArgs) -> Result<(), CliError> {
    connect::run(place, &args.output.target, async |to| {
        to.call(Method::DELETE, &user_path(&args.name), None).await?;
        let removed = json!({ "removed": args.name.as_str() });
        print(&removed, &format!("removed {}", args.name), args.output.json)
    })
}

fn list(place: &Installation, output: &Output) -> Result<(), CliError> {
    connect::run(place, &output.target, async |to| {
        let answer = to.get("/api/users").await?;
        match rows(&answer, "users") {
            _ if output.json => output::json(&answer),
            [] => output::line(format_args!("there is no user; `binaryrepo user add --help` tells how")),
            users => output::text_block(&table(users).to_string()),
        }
    })
}

fn table(users: &[Value]) -> Table<3> {
    let mut table = Table::new([("NAME", Align::Left), ("CREATED", Align::Left), ("NOTES", Align::Left)]);
    for user in users {
        let notes = [("admin", "administrator"), ("disabled", "disabled")];
        let notes: Vec<&str> =
            notes.into_iter().filter(|(name, _)| flag(user, name)).map(|(_, word)| word).collect();
        table.push([text(user, "name").to_owned(), text(user, "created").to_owned(), notes.join(", ")]);
    }
    table
}

fn print(answer: &Value, sentence: &str, as_json: bool) -> Result<(), CliError> {
    if as_json { output::json(answer) } else { output::line(format_args!("{sentence}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_lined_up() {
        let users = [
            json!({ "name": "ada", "admin": true, "disabled": false, "created": "2026-01-02T03:04:05Z" }),
            json!({ "name": "ci", "admin": false, "disabled": true, "created": "2026-01-02T03:04:06Z" }),
        ];
        let expected = "\
NAME  CREATED               NOTES
ada   2026-01-02T03:04:05Z  administrator
ci    2026-01-02T03:04:06Z  disabled
";
        assert_eq!(table(&users).to_string(), expected);
    }
}

//! Owns `token show|create|list|revoke`: the administrator's token, and the access tokens of users and robots.
//! Must not know: how a token is made or checked.

use std::io;

use binaryrepo::names::{AccountName, Role};
use http::Method;
use serde_json::{Value, json};

use super::super::connect;
use super::super::error::{CliError, Exit};
use super::super::fields::{rows, text, text_or};
use super::super::output::{self, Align, Table};
use super::super::settings::Place as Installation;
use super::{Output, Place, path_with, place_text};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Print the administrator's token
    #[command(after_help = "\
Examples:
  curl -H \"Authorization: Bearer $(binaryrepo token show)\" https://api.example.com/api/repository
  docker exec binaryrepo binaryrepo token show")]
    Show,
    /// Make an access token, and print it this once
    Create(CreateArgs),
    /// List access tokens
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Make an access token worthless
    #[command(visible_alias = "rm")]
    Revoke(RevokeArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  binaryrepo token create laptop --user ada --expires 90d
  binaryrepo token create ci --robot --scope 'write:docker-local/team/*' --scope read:docker-remote
  binaryrepo token create ci --robot --scope 'read:*' |
      docker login --username ci --password-stdin HOST

A token stands in a password's place; the user name that is sent with it does not matter.")]
pub struct CreateArgs {
    /// What it is for
    name: String,

    /// Whose it is: it may what the user may
    #[arg(long, value_name = "NAME", required_unless_present = "robot", conflicts_with = "robot")]
    user: Option<AccountName>,

    /// Nobody's: it may what its scopes say
    #[arg(long, requires = "scopes")]
    robot: bool,

    /// What it is good for, no more than its user may; may be repeated
    #[arg(long = "scope", value_name = "ROLE:WHERE", value_parser = parse_scope)]
    scopes: Vec<Scope>,

    /// How long it lasts: 90d [default: until it is revoked]
    #[arg(long, value_name = "DURATION")]
    expires: Option<String>,

    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Only of this user
    #[arg(long, value_name = "NAME")]
    user: Option<AccountName>,

    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub struct RevokeArgs {
    /// As `token list` shows it
    id: String,

    #[command(flatten)]
    output: Output,
}

#[derive(Clone, Debug)]
struct Scope {
    role: Role,
    place: Place,
}

fn parse_scope(text: &str) -> Result<Scope, String> {
    let (role, place) = text
        .split_once(':')
        .ok_or_else(|| "write ROLE:WHERE, such as write:docker-local/team/*".to_owned())?;
    let role = role.parse().map_err(|error: binaryrepo::names::AccountError| error.to_string())?;
    Ok(Scope { role, place: place.parse()? })
}

pub fn run(place: &Installation, command: &Command) -> Result<(), CliError> {
    match command {
        Command::Show => show(place),
        Command::Create(args) => create(place, args),
        Command::List(args) => list(place, args),
        Command::Revoke(args) => revoke(place, args),
    }
}

#[expect(clippy::disallowed_methods, reason = "printing this file is the whole command")]
fn show(place: &Installation) -> Result<(), CliError> {
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

fn create(place: &Installation, args: &CreateArgs) -> Result<(), CliError> {
    let mut body = json!({ "name": args.name, "robot": args.robot });
    if let Some(user) = &args.user {
        body["user"] = json!(user.as_str());
    }
    if let Some(expires) = &args.expires {
        body["expires"] = json!(expires);
    }
    let scope = |scope: &Scope| {
        let mut value = json!({ "role": scope.role.as_str() });
        scope.place.put_into(&mut value);
        value
    };
    body["scopes"] = args.scopes.iter().map(scope).collect();
    connect::run(place, &args.output.target, async |to| {
        let made = to.call(Method::POST, "/api/tokens", Some(&body)).await?;
        if args.output.json {
            return output::json(&made);
        }
        // Only the token goes to stdout, for a pipe.
        eprintln!("token {} ({}); it is shown this once", text(&made, "id"), args.name);
        output::line(format_args!("{}", text(&made, "token")))
    })
}

fn revoke(place: &Installation, args: &RevokeArgs) -> Result<(), CliError> {
    if args.id.is_empty() || !args.id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(CliError::usage(format!("`{}` is no token's id", args.id))
            .with_hint("`binaryrepo token list` shows the ids"));
    }
    connect::run(place, &args.output.target, async |to| {
        to.call(Method::DELETE, &format!("/api/tokens/{}", args.id), None).await?;
        match args.output.json {
            true => output::json(&json!({ "revoked": args.id })),
            false => output::line(format_args!("revoked {}", args.id)),
        }
    })
}

fn list(place: &Installation, args: &ListArgs) -> Result<(), CliError> {
    let path = path_with("/api/tokens", &[("user", args.user.as_ref().map(AccountName::as_str))]);
    connect::run(place, &args.output.target, async |to| {
        let answer = to.get(&path).await?;
        match rows(&answer, "tokens") {
            _ if args.output.json => output::json(&answer),
            [] => output::line(format_args!("there is no access token")),
            tokens => output::text_block(&table(tokens).to_string()),
        }
    })
}

fn table(tokens: &[Value]) -> Table<5> {
    let mut table = Table::new([
        ("ID", Align::Left),
        ("NAME", Align::Left),
        ("USER", Align::Left),
        ("EXPIRES", Align::Left),
        ("SCOPES", Align::Left),
    ]);
    for token in tokens {
        let scopes: Vec<String> = rows(token, "scopes")
            .iter()
            .map(|scope| format!("{}:{}", text(scope, "role"), place_text(scope)))
            .collect();
        let user = text_or(token, "user", "(robot)");
        let expires = text_or(token, "expires", "never");
        table.push([
            text(token, "id").to_owned(),
            text(token, "name").to_owned(),
            user.to_owned(),
            expires.to_owned(),
            scopes.join(", "),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_lined_up() {
        let tokens = [
            json!({ "id": "0123456789ab", "name": "laptop", "user": "ada", "scopes": [], "expires": null }),
            json!({ "id": "ba9876543210", "name": "ci", "user": null, "expires": "2027-01-02T03:04:05Z",
                "scopes": [{ "repository": "docker-local", "images": "team/*", "role": "write" }] }),
        ];
        let expected = "\
ID            NAME    USER     EXPIRES               SCOPES
0123456789ab  laptop  ada      never
ba9876543210  ci      (robot)  2027-01-02T03:04:05Z  write:docker-local/team/*
";
        assert_eq!(table(&tokens).to_string(), expected);
    }

    #[test]
    fn a_scope_is_a_role_and_a_place() {
        let scope = parse_scope("write:docker-local/team/*").expect("a scope");
        assert_eq!((scope.role, scope.place.images.as_str()), (Role::Write, "team/*"));
        for bad in ["write", "own:docker-local", "write:", ":docker-local"] {
            assert!(parse_scope(bad).is_err(), "{bad}");
        }
    }
}

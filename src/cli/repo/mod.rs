//! Owns `repo add|list|show|update|remove`: arguments to requests, answers to tables.
//! Must not know: what is right for a field; the server says.

mod fields;

use binaryrepo::names::RepositoryName;
use binaryrepo::text::human_bytes;
use clap::Subcommand;
use http::Method;
use serde_json::{Map, Value, json};

use fields::{Changes, RemoteFields};

use super::connect::{self, Connection, Output};
use super::error::CliError;
use super::fields::{flag, rows, text};
use super::output::{self, Align, Table};
use super::settings::Place;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a repository
    Add(AddArgs),
    /// List all repositories
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show one repository with all its settings
    Show(OneArgs),
    /// Change settings; those not named stay
    Update(UpdateArgs),
    /// Remove a repository and what it has cached
    #[command(visible_alias = "rm")]
    Remove(RemoveArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  binaryrepo repo add quay https://quay.io
  binaryrepo repo add hub https://registry-1.docker.io --username ada --password-stdin < token
  binaryrepo repo add corp https://registry.corp.example --ca-file /etc/ssl/corp.pem --tag-ttl 5m
  binaryrepo repo add team --local")]
pub struct AddArgs {
    /// Lower-case letters, digits and hyphens: part of the names that clients pull
    name: RepositoryName,

    /// The registry that it is a cache of
    #[arg(value_name = "URL", required_unless_present = "local", conflicts_with = "local")]
    remote_url: Option<String>,

    /// A repository of its own, for pushes
    #[arg(long)]
    local: bool,

    /// What it holds
    #[arg(long, value_name = "TYPE", default_value = "docker")]
    package_type: String,

    #[command(flatten)]
    output: Output,

    #[command(flatten)]
    fields: RemoteFields,
}

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub struct OneArgs {
    /// The repository
    name: RepositoryName,

    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  binaryrepo repo update docker-remote --tag-ttl 10m --mirror https://mirror.gcr.io
  binaryrepo repo update docker-remote --reset tag_ttl --reset mirrors
  binaryrepo repo update hub --url https://registry-1.docker.io --username ada --password-env HUB

Another URL drops the stored user name and password unless they are given again.")]
pub struct UpdateArgs {
    /// The repository
    name: RepositoryName,

    /// The registry that it is a cache of; what was cached from another one is dropped
    #[arg(long = "url", value_name = "URL")]
    remote_url: Option<String>,

    #[command(flatten)]
    output: Output,

    #[command(flatten)]
    changes: Changes,
}

#[derive(Debug, clap::Args)]
pub struct RemoveArgs {
    /// The repository
    name: RepositoryName,

    /// Also where it holds what was pushed, which cannot be fetched again
    #[arg(long)]
    purge: bool,

    #[command(flatten)]
    output: Output,
}

pub fn run(place: &Place, command: Command) -> Result<(), CliError> {
    match command {
        Command::Add(args) => add(place, args),
        Command::List(args) => list(place, &args),
        Command::Show(args) => {
            let path = path_of(&args.name);
            connect::run(place, &args.output.target, async |to| {
                print(&to.get(&path).await?, args.output.json)
            })
        }
        Command::Update(args) => update(place, args),
        Command::Remove(args) => remove(place, &args),
    }
}

fn path_of(name: &RepositoryName) -> String {
    format!("/api/repository/{name}")
}

fn add(place: &Place, args: AddArgs) -> Result<(), CliError> {
    let mut body = args.fields.into_json(args.output.target.is_elsewhere())?;
    body.insert("name".to_owned(), json!(args.name.as_str()));
    body.insert("repo_type".to_owned(), json!(if args.local { "local" } else { "remote" }));
    body.insert("package_type".to_owned(), json!(args.package_type));
    if let Some(url) = args.remote_url {
        body.insert("remote_url".to_owned(), json!(url));
    }
    let body = Value::Object(body);
    connect::run(place, &args.output.target, async |to| {
        let made = to.call(Method::POST, "/api/repository", Some(&body)).await?;
        print(&made, args.output.json)
    })
}

fn update(place: &Place, args: UpdateArgs) -> Result<(), CliError> {
    let mut body = args.changes.into_json(args.output.target.is_elsewhere())?;
    if let Some(url) = args.remote_url {
        body.insert("remote_url".to_owned(), json!(url));
    }
    if body.is_empty() {
        return Err(CliError::usage("nothing to change was named")
            .with_hint("for example: binaryrepo repo update docker-remote --tag-ttl 10m"));
    }
    let (path, body) = (path_of(&args.name), Value::Object(body));
    connect::run(place, &args.output.target, async |to| {
        let changed = to.call(Method::PUT, &path, Some(&body)).await?;
        print(&changed, args.output.json)
    })
}

fn remove(place: &Place, args: &RemoveArgs) -> Result<(), CliError> {
    let path = if args.purge { format!("{}?purge=true", path_of(&args.name)) } else { path_of(&args.name) };
    connect::run(place, &args.output.target, async |to| {
        to.call(Method::DELETE, &path, None).await?;
        match args.output.json {
            true => output::json(&json!({ "removed": args.name.as_str() })),
            false => output::line(format_args!("removed {}", args.name)),
        }
    })
}

fn list(place: &Place, args: &ListArgs) -> Result<(), CliError> {
    connect::run(place, &args.output.target, async |to: Connection| {
        let answer = to.get("/api/repository").await?;
        if args.output.json {
            return output::json(&answer);
        }
        let repositories = rows(&answer, "repositories");
        match repositories {
            [] => {
                output::line(format_args!("there is no repository; `binaryrepo repo add --help` tells how"))
            }
            _ => output::text_block(&table(repositories).to_string()),
        }
    })
}

fn table(repositories: &[Value]) -> Table<5> {
    let mut table = Table::new([
        ("NAME", Align::Left),
        ("TYPE", Align::Left),
        ("UPSTREAM", Align::Left),
        ("TAG TTL", Align::Right),
        ("NOTES", Align::Left),
    ]);
    for repository in repositories {
        let mut notes = Vec::new();
        if let Some(user) = repository.get("username").and_then(Value::as_str) {
            notes.push(format!("as {user}"));
        }
        if flag(repository, "default_mirror") {
            notes.push("default mirror".to_owned());
        }
        if let Some(namespace) = repository.get("upstream_namespace").and_then(Value::as_str) {
            notes.push(format!("ns={namespace}"));
        }
        if flag(repository, "anonymous_pull") {
            notes.push("anonymous pull".to_owned());
        }
        if flag(repository, "immutable_tags") {
            notes.push("immutable tags".to_owned());
        }
        if flag(repository, "sparse_manifests") {
            notes.push("sparse manifests".to_owned());
        }
        table.push([
            text(repository, "name").to_owned(),
            text(repository, "repo_type").to_owned(),
            text(repository, "remote_url").to_owned(),
            text(repository, "tag_ttl").to_owned(),
            notes.join(", "),
        ]);
    }
    table
}

fn print(repository: &Value, as_json: bool) -> Result<(), CliError> {
    if as_json {
        return output::json(repository);
    }
    output::text_block(&details(repository.as_object().unwrap_or(&Map::new())))
}

/// Every field on a line of its own, the name first.
fn details(repository: &Map<String, Value>) -> String {
    let mut lines = String::new();
    let known = binaryrepo::form::FIELDS;
    let rest = repository.keys().map(String::as_str).filter(|name| !known.contains(name));
    for name in known.into_iter().chain(rest) {
        let Some(value) = repository.get(name) else { continue };
        let shown = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) if name == "max_size" => {
                number.as_u64().map_or_else(|| number.to_string(), human_bytes)
            }
            Value::Bool(flag) => if *flag { "yes" } else { "no" }.to_owned(),
            Value::Array(items) if items.is_empty() => "none".to_owned(),
            Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
            other => other.to_string(),
        };
        lines.push_str(&format!("{name:<19} {shown}\n"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{details, table};

    #[test]
    fn repositories_are_lined_up() {
        let repositories = [
            json!({ "name": "docker-local", "repo_type": "local", "package_type": "docker" }),
            json!({ "name": "docker-remote", "repo_type": "remote", "remote_url": "https://registry-1.docker.io",
                "username": "ada", "password_set": true, "tag_ttl": "60s", "default_mirror": true }),
        ];
        let expected = "\
NAME           TYPE    UPSTREAM                      TAG TTL  NOTES
docker-local   local   -                                   -
docker-remote  remote  https://registry-1.docker.io      60s  as ada, default mirror
";
        assert_eq!(table(&repositories).to_string(), expected);
    }

    #[test]
    fn one_repository_is_shown_field_by_field() {
        let repository = json!({ "repo_type": "remote", "name": "r", "max_size": 10_737_418_240_u64,
            "default_mirror": false, "mirrors": [], "allowed_hosts": ["a", "b"], "password_set": true });
        let expected = "\
name                r
repo_type           remote
max_size            10.0 GiB
default_mirror      no
allowed_hosts       a, b
mirrors             none
password_set        yes
";
        assert_eq!(details(repository.as_object().expect("an object")), expected);
    }
}

//! Owns `ls`: what is cached, as a table.
//! Must not know: how it is found out.

use binaryrepo::names::RepositoryName;
use binaryrepo::text::{human_age, human_bytes};
use serde_json::Value;

use super::connect::{self, Target};
use super::error::CliError;
use super::output::{self, Align, Table};
use super::settings::Place;

/// Tags that one line names.
const TAGS_PER_LINE: usize = 4;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  binaryrepo ls                            every repository
  binaryrepo ls docker-remote --tags       one line a tag, with digest and age
  binaryrepo ls --json | jq '.images[] | select(.bytes > 1e9) | .image'")]
pub struct Args {
    /// Only this repository
    #[arg(value_name = "REPOSITORY")]
    repository: Option<RepositoryName>,

    /// One line for each tag
    #[arg(long)]
    tags: bool,

    /// As JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    target: Target,
}

pub fn run(place: &Place, args: &Args) -> Result<(), CliError> {
    let path = match &args.repository {
        Some(name) => format!("/api/cached?repository={name}"),
        None => "/api/cached".to_owned(),
    };
    connect::run(place, &args.target, async |connection| {
        let answer = connection.get(&path).await?;
        let images = answer.get("images").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        match (args.json, images, args.tags) {
            (true, _, _) => output::json(&answer),
            (false, [], _) => output::line(format_args!("nothing is cached yet")),
            (false, _, true) => output::text_block(&tags(images).to_string()),
            (false, _, false) => output::text_block(&summary(images)),
        }
    })
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

fn full_name(image: &Value) -> String {
    format!("{}/{}", text(image, "repository"), text(image, "image"))
}

fn summary(images: &[Value]) -> String {
    let mut table = Table::new([
        ("IMAGE", Align::Left),
        ("SIZE", Align::Right),
        ("BLOBS", Align::Right),
        ("CHECKED", Align::Right),
        ("TAGS", Align::Left),
    ]);
    let mut bytes = 0_u64;
    for image in images {
        bytes = bytes.saturating_add(number(image, "bytes"));
        let tags = tags_of(image);
        let youngest = tags.iter().map(|tag| number(tag, "age_s")).min();
        let mut named: Vec<&str> = tags.iter().take(TAGS_PER_LINE).map(|tag| text(tag, "tag")).collect();
        let more = format!("and {} more", tags.len().saturating_sub(TAGS_PER_LINE));
        if tags.len() > TAGS_PER_LINE {
            named.push(&more);
        }
        table.push([
            full_name(image),
            human_bytes(number(image, "bytes")),
            number(image, "blobs").to_string(),
            youngest.map_or_else(|| "-".to_owned(), |age| format!("{} ago", human_age(age))),
            named.join(", "),
        ]);
    }
    // Content that two images share counts in both lines.
    format!("{table}{} images, at most {}\n", images.len(), human_bytes(bytes))
}

fn tags(images: &[Value]) -> Table<3> {
    let mut table = Table::new([("IMAGE", Align::Left), ("CHECKED", Align::Right), ("DIGEST", Align::Left)]);
    for image in images {
        for tag in tags_of(image) {
            table.push([
                format!("{}:{}", full_name(image), text(tag, "tag")),
                format!("{} ago", human_age(number(tag, "age_s"))),
                text(tag, "digest").to_owned(),
            ]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{summary, tags};

    #[test]
    fn images_and_tags_are_lined_up() {
        let tag = |name: &str, age: u64| json!({ "tag": name, "digest": "sha256:ab", "age_s": age });
        let images = [
            json!({ "repository": "docker-remote", "image": "library/redis", "manifests": 2, "blobs": 8,
                "bytes": 50_000_000, "tags": [tag("7", 30), tag("latest", 4000)] }),
            json!({ "repository": "quay", "image": "a/b", "manifests": 1, "blobs": 1, "bytes": 7, "tags": [] }),
        ];
        let expected = "\
IMAGE                            SIZE  BLOBS   CHECKED  TAGS
docker-remote/library/redis  47.7 MiB      8  30 s ago  7, latest
quay/a/b                          7 B      1         -
2 images, at most 47.7 MiB
";
        assert_eq!(summary(&images), expected);
        let expected = "\
IMAGE                                  CHECKED  DIGEST
docker-remote/library/redis:7         30 s ago  sha256:ab
docker-remote/library/redis:latest  66 min ago  sha256:ab
";
        assert_eq!(tags(&images).to_string(), expected);
    }
}

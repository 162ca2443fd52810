//! Owns `ls` and `image ls`: what lies here by image, as a table.
//! Must not know: how it is found out.

use binaryrepo::names::RepositoryName;
use binaryrepo::text::human_bytes;
use serde_json::Value;

use super::super::connect::{self, Target};
use super::super::error::CliError;
use super::super::fields::{number, rows, text};
use super::super::output::{self, Align, Table, counted};
use super::super::settings::Place;
use super::date;

/// Tags that one line names.
const TAGS_PER_LINE: usize = 4;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  binaryrepo ls                            every repository
  binaryrepo ls docker-remote --tags       one line a tag, with size, date and digest
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
        Some(name) => format!("/api/images?repository={name}"),
        None => "/api/images".to_owned(),
    };
    connect::run(place, &args.target, async |connection| {
        let answer = connection.get(&path).await?;
        let images = rows(&answer, "images");
        match (args.json, images, args.tags) {
            (true, _, _) => output::json(&answer),
            (false, [], _) => output::line(format_args!("there are no images yet")),
            (false, _, true) => output::text_block(&tags(images).to_string()),
            (false, _, false) => output::text_block(&summary(images)),
        }
    })
}

fn full_name(image: &Value) -> String {
    format!("{}/{}", text(image, "repository"), text(image, "image"))
}

fn summary(images: &[Value]) -> String {
    let mut table = Table::new([
        ("IMAGE", Align::Left),
        ("SIZE", Align::Right),
        ("BLOBS", Align::Right),
        ("UPDATED", Align::Left),
        ("TAGS", Align::Left),
    ]);
    let mut bytes = 0_u64;
    for image in images {
        bytes = bytes.saturating_add(number(image, "bytes"));
        let tags = rows(image, "tags");
        // Written so that texts sort as moments do.
        let youngest = tags.iter().map(|tag| text(tag, "updated")).max();
        let mut named: Vec<&str> = tags.iter().take(TAGS_PER_LINE).map(|tag| text(tag, "tag")).collect();
        let more = format!("and {} more", tags.len().saturating_sub(TAGS_PER_LINE));
        if tags.len() > TAGS_PER_LINE {
            named.push(&more);
        }
        table.push([
            full_name(image),
            human_bytes(number(image, "bytes")),
            number(image, "blobs").to_string(),
            youngest.map_or_else(|| "-".to_owned(), date),
            named.join(", "),
        ]);
    }
    // Content that two images share counts in both lines.
    format!("{table}{}, at most {}\n", counted(images.len() as u64, "image"), human_bytes(bytes))
}

fn tags(images: &[Value]) -> Table<4> {
    let mut table = Table::new([
        ("IMAGE", Align::Left),
        ("SIZE", Align::Right),
        ("UPDATED", Align::Left),
        ("DIGEST", Align::Left),
    ]);
    for image in images {
        for tag in rows(image, "tags") {
            table.push([
                format!("{}:{}", full_name(image), text(tag, "tag")),
                human_bytes(number(tag, "bytes")),
                date(text(tag, "updated")),
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
        let tag = |name: &str, day: u64| {
            json!({ "tag": name, "digest": "sha256:ab", "bytes": 7_000,
            "updated": format!("2026-11-{day}T19:20:37Z") })
        };
        let images = [
            json!({ "repository": "docker-remote", "image": "library/redis", "manifests": 2, "blobs": 8,
                "bytes": 50_000_000, "tags": [tag("7", 30), tag("latest", 21)] }),
            json!({ "repository": "quay", "image": "a/b", "manifests": 1, "blobs": 1, "bytes": 7, "tags": [] }),
        ];
        let expected = "\
IMAGE                            SIZE  BLOBS  UPDATED           TAGS
docker-remote/library/redis  47.7 MiB      8  2026-11-30 19:20  7, latest
quay/a/b                          7 B      1  -
2 images, at most 47.7 MiB
";
        assert_eq!(summary(&images), expected);
        let expected = "\
IMAGE                                   SIZE  UPDATED           DIGEST
docker-remote/library/redis:7       6.84 KiB  2026-11-30 19:20  sha256:ab
docker-remote/library/redis:latest  6.84 KiB  2026-11-21 19:20  sha256:ab
";
        assert_eq!(tags(&images).to_string(), expected);
    }
}

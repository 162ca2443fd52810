//! Owns `image show`: one image with all its tags.
//! Must not know: how it is found out.

use binaryrepo::text::human_bytes;
use serde_json::Value;

use super::super::connect::{self, Target};
use super::super::error::CliError;
use super::super::fields::{number, rows, text};
use super::super::named::Named;
use super::super::output::{self, Align, Table, counted};
use super::super::settings::Place;
use super::date;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  binaryrepo image show docker-local/team/app
  binaryrepo image show docker-remote/library/redis --json

SIZE is what a pull of the tag needs, also where some of it is missing here; for several platforms,
all of them together, as far as they are here. UPDATED is when it was last pushed or, in a remote,
confirmed with the upstream; in UTC.")]
pub struct Args {
    /// REPOSITORY/IMAGE
    #[arg(value_name = "IMAGE")]
    image: Named,

    /// As JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    target: Target,
}

pub fn run(place: &Place, args: &Args) -> Result<(), CliError> {
    if args.image.reference.is_some() {
        return Err(CliError::usage(format!("`{}`: say the image, without a tag or digest", args.image))
            .with_hint("its tags are listed"));
    }
    connect::run(place, &args.target, async |connection| {
        let image = connection.get(&args.image.path()).await?;
        if args.json {
            return output::json(&image);
        }
        output::text_block(&shown(&image))
    })
}

fn shown(image: &Value) -> String {
    let mut table = Table::new([
        ("TAG", Align::Left),
        ("SIZE", Align::Right),
        ("UPDATED", Align::Left),
        ("TYPE", Align::Left),
        ("DIGEST", Align::Left),
    ]);
    for tag in rows(image, "tags") {
        table.push([
            text(tag, "tag").to_owned(),
            human_bytes(number(tag, "bytes")),
            date(text(tag, "updated")),
            kind(text(tag, "media_type")).to_owned(),
            text(tag, "digest").to_owned(),
        ]);
    }
    let here = human_bytes(number(image, "bytes"));
    let manifests = counted(number(image, "manifests"), "manifest");
    let blobs = counted(number(image, "blobs"), "blob");
    format!(
        "{}/{}: {here} lie here, in {manifests} and {blobs}\n\n{table}",
        text(image, "repository"),
        text(image, "image")
    )
}

fn kind(media_type: &str) -> &str {
    match media_type {
        "application/vnd.oci.image.index.v1+json"
        | "application/vnd.docker.distribution.manifest.list.v2+json" => "index",
        "application/vnd.oci.image.manifest.v1+json"
        | "application/vnd.docker.distribution.manifest.v2+json" => "image",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::shown;

    #[test]
    fn an_image_and_its_tags_are_lined_up() {
        let tag = |name: &str, media_type: &str, bytes: u64| {
            json!({ "tag": name, "digest": "sha256:ab",
            "media_type": media_type, "bytes": bytes, "updated": "2026-11-21T19:20:37Z" })
        };
        let image = json!({ "repository": "docker-local", "image": "team/app", "manifests": 3, "blobs": 4, "bytes": 6_000,
            "tags": [
                tag("1.0", "application/vnd.oci.image.manifest.v1+json", 5_000),
                tag("latest", "application/vnd.oci.image.index.v1+json", 10_000),
            ] });
        let expected = "\
docker-local/team/app: 5.86 KiB lie here, in 3 manifests and 4 blobs

TAG         SIZE  UPDATED           TYPE   DIGEST
1.0     4.88 KiB  2026-11-21 19:20  image  sha256:ab
latest  9.77 KiB  2026-11-21 19:20  index  sha256:ab
";
        assert_eq!(shown(&image), expected);
    }
}

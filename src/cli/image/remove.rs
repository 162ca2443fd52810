//! Owns `image rm`: removing what was pushed, and saying what that means for the rest.
//! Must not know: what goes with what, when bytes are freed.

use binaryrepo::names::Reference;
use binaryrepo::text::human_bytes;
use http::Method;
use serde_json::Value;

use super::super::connect::{self, Target};
use super::super::error::CliError;
use super::super::fields::{number, rows, text, texts};
use super::super::named::Named;
use super::super::output::{self, counted};
use super::super::settings::Place;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  binaryrepo image rm docker-local/team/app:1.0          the tag; its digest can still be pulled
  binaryrepo image rm docker-local/team/app@sha256:...   a manifest, with all its tags
  binaryrepo image rm docker-local/team/app --all        the image with everything in it

Nobody else has what was pushed here. Of a remote, `binaryrepo purge` throws away what is cached.")]
pub struct Args {
    /// REPOSITORY/IMAGE:TAG, REPOSITORY/IMAGE@DIGEST, or REPOSITORY/IMAGE with --all
    #[arg(value_name = "WHAT")]
    what: Named,

    /// The image with all its tags
    #[arg(long)]
    all: bool,

    /// As JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    target: Target,
}

pub fn run(place: &Place, args: &Args) -> Result<(), CliError> {
    let query = match (&args.what.reference, args.all) {
        (Some(Reference::Tag(tag)), false) => format!("?tag={tag}"),
        (Some(Reference::Digest(digest)), false) => format!("?digest={digest}"),
        (None, true) => String::new(),
        (None, false) => {
            return Err(CliError::usage(format!("`{}`: the whole image?", args.what))
                .with_hint("say which tag or digest, or --all"));
        }
        (Some(_), true) => {
            return Err(CliError::usage(format!(
                "`{}`: --all takes an image without tag and digest",
                args.what
            )));
        }
    };
    let path = format!("{}{query}", args.what.path());
    connect::run(place, &args.target, async |connection| {
        let answer = connection.call(Method::DELETE, &path, None).await?;
        if args.json {
            return output::json(&answer);
        }
        output::text_block(&told(&args.what, &answer))
    })
}

fn told(what: &Named, answer: &Value) -> String {
    let removed = answer.get("removed").unwrap_or(&Value::Null);
    match &what.reference {
        None => {
            let tags = counted(rows(removed, "tags").len() as u64, "tag");
            let manifests = counted(number(removed, "manifests"), "manifest");
            let blobs = counted(number(removed, "blobs"), "blob");
            let size = human_bytes(number(removed, "bytes"));
            format!("removed {what}: {tags}, {manifests}, {blobs}, at most {size}\n")
        }
        Some(Reference::Digest(_)) => match texts(removed, "tags").join(", ").as_str() {
            "" => format!("removed {what}, which had no tags\n"),
            tags => format!("removed {what}, and its tags {tags}\n"),
        },
        Some(Reference::Tag(_)) => {
            let by_digest = format!("{}@{}", what.image_name(), text(removed, "digest"));
            match texts(answer, "other_tags").join(", ").as_str() {
                "" => format!(
                    "removed the tag {what}\nno tag names {by_digest} now: `binaryrepo image rm` takes that, too\n"
                ),
                others => format!("removed the tag {what}\nits manifest stays: {others}\n"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::told;

    #[test]
    fn what_stays_is_told_with_what_goes() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let told = |what: &str, answer| told(&what.parse().expect("a name"), &answer);
        let tag = |others| json!({ "removed": { "tag": "1", "digest": digest }, "other_tags": others });
        assert_eq!(
            told("r/a:1", tag(json!(["2", "latest"]))),
            "removed the tag r/a:1\nits manifest stays: 2, latest\n"
        );
        assert!(told("r/a:1", tag(json!([]))).contains(&format!("no tag names r/a@{digest} now")));
        let by_digest = format!("r/a@{digest}");
        let answer = json!({ "removed": { "digest": digest, "tags": ["1"] } });
        assert_eq!(told(&by_digest, answer), format!("removed {by_digest}, and its tags 1\n"));
        let all = json!({ "removed": { "tags": [{}, {}], "manifests": 3, "blobs": 4, "bytes": 2048 } });
        assert_eq!(told("r/a", all), "removed r/a: 2 tags, 3 manifests, 4 blobs, at most 2.00 KiB\n");
    }
}

//! Owns `purge`: what is to go, as people write it.
//! Must not know: how content is removed.

use binaryrepo::names::Reference;
use binaryrepo::text::human_bytes;
use http::Method;
use serde_json::{Value, json};

use super::connect::{self, Target};
use super::error::CliError;
use super::fields::number;
use super::named::Named;
use super::output::{self, counted};
use super::settings::Place;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  binaryrepo purge docker-remote/redis            every tag of an image
  binaryrepo purge docker-remote/redis:7          one tag
  binaryrepo purge sha256:9f86d081...             a digest, in every repository
  binaryrepo purge docker-remote --all            all that a repository has cached")]
pub struct Args {
    /// REPOSITORY/IMAGE[:TAG], [REPOSITORY/IMAGE@]DIGEST, or REPOSITORY with --all
    #[arg(value_name = "WHAT")]
    what: String,

    /// All that the repository has cached
    #[arg(long)]
    all: bool,

    /// As JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    target: Target,
}

pub fn run(place: &Place, args: &Args) -> Result<(), CliError> {
    let body = body(&args.what, args.all)?;
    connect::run(place, &args.target, async |connection| {
        let answer = connection.call(Method::POST, "/api/purge", Some(&body)).await?;
        if args.json {
            return output::json(&answer);
        }
        let manifests = counted(number(&answer, "documents"), "manifest");
        let blobs = counted(number(&answer, "blobs"), "blob");
        output::line(format_args!(
            "removed {manifests} and {blobs}, {}",
            human_bytes(number(&answer, "bytes"))
        ))
    })
}

/// What the API is asked, from what was written.
fn body(what: &str, all: bool) -> Result<Value, CliError> {
    let refuse = |message: &str| {
        CliError::usage(format!("`{what}`: {message}"))
            .with_hint("write docker-remote/redis, docker-remote/redis:7, a digest, or docker-remote --all")
    };
    if all {
        return match what.contains(['/', ':', '@']) {
            true => Err(refuse("--all takes the name of a repository alone")),
            false => Ok(json!({ "repository": what, "all": true })),
        };
    }
    if !what.contains('/') {
        return match (what.contains('@'), what.contains(':')) {
            (true, _) => Err(refuse("the part before @ names no repository and image")),
            (false, true) => Ok(json!({ "digest": what })),
            (false, false) => Err(refuse("a repository's name alone needs --all")),
        };
    }
    let Named { repository, image, reference } = what.parse().map_err(|error: String| refuse(&error))?;
    let (repository, image) = (repository.as_str(), image.as_str());
    Ok(match reference {
        // What another image has as well goes there, too.
        Some(Reference::Digest(digest)) => json!({ "repository": repository, "digest": digest.to_string() }),
        Some(Reference::Tag(tag)) => json!({ "repository": repository, "image": image, "tag": tag.as_str() }),
        None => json!({ "repository": repository, "image": image }),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::body;

    #[test]
    fn what_is_written_is_understood() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let by_digest = format!("r/a@{digest}");
        for (what, all, expected) in [
            ("r/redis", false, json!({ "repository": "r", "image": "redis" })),
            ("r/a/b:7", false, json!({ "repository": "r", "image": "a/b", "tag": "7" })),
            ("sha256:ab", false, json!({ "digest": "sha256:ab" })),
            (&by_digest, false, json!({ "repository": "r", "digest": digest })),
            ("r", true, json!({ "repository": "r", "all": true })),
        ] {
            assert_eq!(body(what, all).ok(), Some(expected), "{what}");
        }
        for (what, all) in [("r", false), ("r/redis", true), ("a@sha256:ab", false), ("r/a@sha256:ab", false)]
        {
            assert!(body(what, all).is_err(), "{what}");
        }
    }
}

//! Owns `gc`: asks for a cleanup, and says what it freed.
//! Must not know: what is needed and what is not.

use binaryrepo::text::human_bytes;
use http::Method;
use serde_json::Value;

use super::connect::{self, Target};
use super::error::CliError;
use super::fields::number;
use super::output;
use super::settings::Place;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  binaryrepo gc --dry-run        what would go, and how much room that makes
  binaryrepo gc                  now rather than within the hour

It runs beside pushes and pulls. What was pushed, mounted or asked for within `gc_grace` stays.")]
pub struct Args {
    /// Remove nothing, only say what would go
    #[arg(long)]
    dry_run: bool,

    /// As JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    target: Target,
}

pub fn run(place: &Place, args: &Args) -> Result<(), CliError> {
    let path = if args.dry_run { "/api/gc?dry_run=true" } else { "/api/gc" };
    connect::run(place, &args.target, async |connection| {
        let answer = connection.call(Method::POST, path, None).await?;
        match args.json {
            true => output::json(&answer),
            false => output::line(format_args!("{}", sentence(&answer, args.dry_run))),
        }
    })
}

fn sentence(answer: &Value, dry_run: bool) -> String {
    let [uploads, links, manifests, blobs] =
        ["uploads", "links", "manifests", "blobs"].map(|name| number(answer, name));
    if uploads + links + manifests + blobs == 0 {
        return "nothing to remove: everything is needed, or younger than the grace".to_owned();
    }
    let verb = if dry_run { "would remove" } else { "removed" };
    let bytes = human_bytes(number(answer, "bytes"));
    format!(
        "{verb} {bytes}: manifests {manifests}, blobs {blobs}, unfinished uploads {uploads}, unneeded entries of images \
         {links}"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::sentence;

    #[test]
    fn it_says_what_went() {
        let answer = json!({ "uploads": 1, "links": 3, "manifests": 1, "blobs": 2, "bytes": 2048 });
        let text = sentence(&answer, false);
        let expected =
            "removed 2.00 KiB: manifests 1, blobs 2, unfinished uploads 1, unneeded entries of images 3";
        assert_eq!(text, expected);
        assert!(sentence(&answer, true).starts_with("would remove 2.00 KiB"));
        assert!(sentence(&json!({}), false).starts_with("nothing to remove"));
    }
}

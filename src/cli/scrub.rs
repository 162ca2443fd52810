//! Owns `scrub`: begins one, shows how far it is, and says what it found.
//! Must not know: how anything is checked.

use std::time::Duration;

use binaryrepo::text::human_bytes;
use http::Method;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use super::connect::{self, Connection, Target};
use super::error::CliError;
use super::fields::{flag, number, rows, text, texts};
use super::output::{self, counted};
use super::settings::Place;

const LOOK_EVERY: Duration = Duration::from_millis(200);
const KEPT: &str = "a scrub is under way already, and keeps its rate";
const BAR: &str = "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left{msg}";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  binaryrepo scrub                      hash everything that lies here, while the server serves
  binaryrepo scrub --rate 20MiB         more gently
  binaryrepo scrub --stop               end the one under way

A damaged cached blob is set aside and fetched again. One that was pushed is set aside, and no
longer served: push it again. Interrupted, the command leaves the scrub running; called again it
shows how far that one is.

Exit codes: 0 all is whole again, 1 something must be pushed again")]
pub struct Args {
    /// Bytes a second; 100MiB unless told
    #[arg(long, value_name = "SIZE")]
    rate: Option<String>,

    /// End the scrub under way
    #[arg(long, conflicts_with = "rate")]
    stop: bool,

    /// As JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    target: Target,
}

pub fn run(place: &Place, args: &Args) -> Result<(), CliError> {
    connect::run(place, &args.target, async |connection| {
        if args.stop {
            connection.call(Method::DELETE, "/api/scrub", None).await?;
            return Ok(());
        }
        let report = connection.get("/api/scrub").await?;
        if flag(&report, "running") {
            if args.rate.is_some() {
                eprintln!("warning: {KEPT}\nhint: `binaryrepo scrub --stop` ends it");
            }
        } else {
            connection.call(Method::POST, &path(args.rate.as_deref()), None).await?;
        }
        let report = follow(&connection).await?;
        if args.json {
            output::json(&report)?;
        } else {
            output::text_block(&summary(&report))?;
        }
        verdict(&report)
    })
}

fn path(rate: Option<&str>) -> String {
    let encode = |rate: &str| url::form_urlencoded::byte_serialize(rate.as_bytes()).collect::<String>();
    rate.map_or_else(|| "/api/scrub".to_owned(), |rate| format!("/api/scrub?rate={}", encode(rate)))
}

/// Until it has ended. The bar is for a terminal; elsewhere nothing is drawn.
async fn follow(connection: &Connection) -> Result<Value, CliError> {
    let mut report = connection.get("/api/scrub").await?;
    let bar = bar(number(&report, "bytes"));
    while flag(&report, "running") {
        tokio::time::sleep(LOOK_EVERY).await;
        report = connection.get("/api/scrub").await?;
        // How much there is, is counted first: until then the bar would be full.
        let total @ 1.. = number(&report, "total_bytes") else { continue };
        bar.update(|state| {
            state.set_len(total);
            state.set_pos(number(&report, "bytes"));
        });
        if let damaged @ 1.. = rows(&report, "damaged").len() {
            bar.set_message(format!(", {damaged} damaged"));
        }
    }
    bar.finish_and_clear();
    Ok(report)
}

/// One that begins where the scrub is. What was hashed before somebody watched says nothing of the rate: it is taken
/// note of unseen, and then forgotten.
fn bar(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()).with_position(bytes);
    if let Ok(style) = ProgressStyle::with_template(BAR) {
        bar.set_style(style);
    }
    bar.tick();
    bar.reset_eta();
    bar.set_draw_target(ProgressDrawTarget::stderr());
    bar
}

fn summary(report: &Value) -> String {
    let mut out = String::new();
    for one in rows(report, "damaged") {
        let what = match text(one, "remedy") {
            "fetched" => "set aside and fetched again",
            "next_pull" => "set aside; the next pull fetches it",
            _ => "LOST: push it again",
        };
        let images = texts(one, "images");
        let of = if images.is_empty() { "no image".to_owned() } else { images.join(", ") };
        let (kind, digest) = (text(one, "kind"), text(one, "digest"));
        out.push_str(&format!("{kind} {digest}, {}: {what}\n  of {of}\n", human_bytes(number(one, "bytes"))));
    }
    let all = rows(report, "damaged").len() as u64 + number(report, "unnamed");
    let blobs = counted(number(report, "blobs"), "blob");
    let manifests = counted(number(report, "manifests"), "manifest");
    let bytes = human_bytes(number(report, "bytes"));
    let ended = if flag(report, "finished") { "checked" } else { "stopped after" };
    out.push_str(&format!("{ended} {blobs} and {manifests}, {bytes}: {all} damaged\n"));
    out
}

fn verdict(report: &Value) -> Result<(), CliError> {
    if let Some(why) = report.get("failed").and_then(Value::as_str) {
        return Err(CliError::failed("the scrub did not come to its end").with_cause(why));
    }
    let lost = match number(report, "lost") {
        0 => return Ok(()),
        1 => "a pushed blob or manifest is lost".to_owned(),
        lost => format!("{lost} pushed blobs or manifests are lost"),
    };
    let hint = "push the images named above again; until then the damaged files stay in quarantine/";
    Err(CliError::failed(lost).with_hint(hint))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{path, summary, verdict};

    #[test]
    fn what_was_found_is_said_with_the_images() {
        let one = |remedy: &str| json!({ "digest": "sha256:ab", "kind": "blob", "bytes": 2048, "remedy": remedy, "images": ["r/a", "r/b"] });
        let report = json!({ "finished": true, "blobs": 3, "manifests": 2, "bytes": 4096, "lost": 1,
            "damaged": [one("fetched"), one("push_again")] });
        let expected = "\
blob sha256:ab, 2.00 KiB: set aside and fetched again
  of r/a, r/b
blob sha256:ab, 2.00 KiB: LOST: push it again
  of r/a, r/b
checked 3 blobs and 2 manifests, 4.00 KiB: 2 damaged
";
        assert_eq!(summary(&report), expected);
        assert!(verdict(&report).is_err());
        assert!(verdict(&json!({ "finished": true, "lost": 0 })).is_ok());
        assert!(verdict(&json!({ "failed": "the disk" })).is_err());
        assert_eq!(path(Some("1.5 MiB")), "/api/scrub?rate=1.5+MiB");
    }
}

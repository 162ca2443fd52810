//! Owns what the commands about users, grants and access tokens share: how a place is written, and how a password
//! comes in. Must not know: what is right for a field; the server says.

pub mod grant;
pub mod token;
pub mod user;

use std::io::{IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use binaryrepo::names::AccountName;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use serde_json::{Value, json};

use super::connect::Output;
use super::error::CliError;
use super::fields::text;
use super::password;

/// Repository and images, as people write them: `docker-local`, `docker-local/team/*`, `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    repository: String,
    images: String,
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (repository, images) = text.split_once('/').unwrap_or((text, "*"));
        if repository.is_empty() || images.is_empty() {
            return Err("write REPOSITORY, REPOSITORY/IMAGES such as docker-local/team/*, or *".to_owned());
        }
        Ok(Self { repository: repository.to_owned(), images: images.to_owned() })
    }
}

impl Place {
    fn put_into(&self, body: &mut Value) {
        body["repository"] = json!(self.repository);
        body["images"] = json!(self.images);
    }
}

/// `docker-local/team/*` from an answer.
fn place_text(value: &Value) -> String {
    match (text(value, "repository"), text(value, "images")) {
        (repository, "*") => repository.to_owned(),
        (repository, images) => format!("{repository}/{images}"),
    }
}

/// A path with the parameters that are given.
fn path_with(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let given = parameters.iter().filter_map(|(name, value)| value.map(|value| (name, value)));
    let pairs: Vec<String> = given
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
        .collect();
    if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
}

fn user_path(name: &AccountName) -> String {
    format!("/api/users/{}", utf8_percent_encode(name.as_str(), USER))
}

/// What stands in a path as it is.
const USER: &percent_encoding::AsciiSet =
    &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'_').remove(b'@').remove(b'+');

#[derive(Debug, clap::Args)]
pub struct PasswordSource {
    /// Read the password from stdin; there is no flag for the password itself, since flags are public
    #[arg(long, conflicts_with = "password_file")]
    password_stdin: bool,

    /// Read the password from this file
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl PasswordSource {
    /// From where the flags say, else from whoever sits at the terminal.
    fn read(&self) -> Result<String, CliError> {
        if let Some(file) = &self.password_file {
            let failed =
                |error| CliError::usage(format!("{} cannot be read", file.display())).with_cause(error);
            return cleaned(&read_file(file).map_err(failed)?);
        }
        if self.password_stdin {
            return password::from_stdin("binaryrepo user add ada");
        }
        if !std::io::stdin().is_terminal() {
            return Err(CliError::usage("nobody is there to type a password")
                .with_hint("for example: binaryrepo user add ada --password-stdin < file"));
        }
        let password = cleaned(&ask("Password: ")?)?;
        if password::without_line_end(&ask("Once more: ")?) != password {
            return Err(CliError::usage("the two passwords differ"));
        }
        Ok(password)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "whoever gives the command keeps the password in a file of their own"
)]
fn read_file(file: &std::path::Path) -> std::io::Result<String> {
    std::fs::read_to_string(file)
}

fn cleaned(text: &str) -> Result<String, CliError> {
    match password::without_line_end(text) {
        "" => Err(CliError::usage("the password is empty")),
        password => Ok(password.to_owned()),
    }
}

/// Reads a line that is not shown.
fn ask(prompt: &str) -> Result<String, CliError> {
    let failed = |error: std::io::Error| CliError::failed("no password can be typed here").with_cause(error);
    // First: what is typed at the sight of the prompt would be shown, and thrown away.
    let silence = Silence::new().map_err(|error| failed(error.into()))?;
    eprint!("{prompt}");
    std::io::stderr().flush().map_err(failed)?;
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    drop(silence);
    eprintln!();
    read.map_err(failed)?;
    Ok(line)
}

/// A terminal that shows nothing of what is typed, as long as this lives.
struct Silence(Termios);

impl Silence {
    fn new() -> rustix::io::Result<Self> {
        let before = tcgetattr(std::io::stdin().as_fd())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin().as_fd(), OptionalActions::Flush, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // A terminal that is gone needs no echo.
        let _ = tcsetattr(std::io::stdin().as_fd(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_shown_alike() {
        for (text, repository, images) in [
            ("docker-local", "docker-local", "*"),
            ("docker-local/team/*", "docker-local", "team/*"),
            ("*", "*", "*"),
            ("*/base", "*", "base"),
        ] {
            let place: Place = text.parse().expect("a place");
            assert_eq!((place.repository.as_str(), place.images.as_str()), (repository, images));
            let mut body = json!({});
            place.put_into(&mut body);
            assert_eq!(place_text(&body), text);
        }
        assert!(
            "".parse::<Place>().is_err() && "/a".parse::<Place>().is_err() && "a/".parse::<Place>().is_err()
        );
    }

    #[test]
    fn parameters_are_encoded() {
        assert_eq!(path_with("/api/grants", &[("user", None)]), "/api/grants");
        let path = path_with("/api/grants", &[("user", Some("a+b@c")), ("images", Some("team/*"))]);
        assert_eq!(path, "/api/grants?user=a%2Bb%40c&images=team%2F%2A");
        assert_eq!(user_path(&"ada.l@x".parse().expect("a name")), "/api/users/ada.l@x");
    }
}

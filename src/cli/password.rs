//! Owns reading a password that comes by stdin, for every command that takes one so.
//! Must not know: whose password it is.

use std::io::Read as _;

use super::error::CliError;

/// Longest password that is read.
const MAX_PASSWORD: u64 = 16 * 1024;

/// All of stdin. `example` is a command that gives one.
pub fn from_stdin(example: &str) -> Result<String, CliError> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(MAX_PASSWORD).read_to_string(&mut text);
    read.map_err(|error| CliError::failed("no password came from stdin").with_cause(error))?;
    match without_line_end(&text) {
        "" => Err(CliError::usage("no password came from stdin")
            .with_hint(format!("for example: {example} --password-stdin < file"))),
        password => Ok(password.to_owned()),
    }
}

/// Editors and `echo` end a line that was not meant.
pub fn without_line_end(text: &str) -> &str {
    text.trim_end_matches(['\r', '\n'])
}

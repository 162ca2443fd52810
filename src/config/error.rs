//! Owns how a wrong configuration is told: file, line, a mark under the place, what was expected, a hint.
//! Must not know: which settings there are. Never shows a line that may hold a password.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use super::raw::meant;

/// Why a configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    place: Option<Place>,
    message: String,
    hint: Option<String>,
}

/// Where something stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// `/etc/binaryrepo.toml, line 3, column 1`
    name: String,
    /// The line and the mark under it.
    excerpt: String,
    /// The line may hold a password, and is not in the excerpt.
    hidden: bool,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Place { name, excerpt, .. }) = &self.place {
            writeln!(f, "{name}\n{excerpt}")?;
        }
        f.write_str(&self.message)
    }
}

impl ConfigError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { place: None, message: message.into(), hint: None }
    }

    /// About something that has its place in the file.
    pub(super) fn with_place(mut self, place: Option<&Place>) -> Self {
        self.place = place.cloned();
        self
    }

    pub(super) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// What the parser found wrong.
    pub(super) fn in_file(path: &Path, text: &str, error: &toml::de::Error) -> Self {
        let span = error.span().unwrap_or(0..0);
        let hint = meant(error.message()).map(|meant| format!("did you mean `{meant}`?"));
        Self::at(path, text, span, error.message().to_owned(), hint)
    }

    /// Something wrong at `span` of the file.
    pub(super) fn at(
        path: &Path,
        text: &str,
        span: Range<usize>,
        message: String,
        hint: Option<String>,
    ) -> Self {
        let place = Place::of(path, text, span);
        let repeats_value = message.starts_with("invalid type") || message.starts_with("invalid value");
        let message = match place.hidden && repeats_value {
            true => "the value is of the wrong type: expected a text".to_owned(),
            false => message,
        };
        Self { place: Some(place), message, hint }
    }
}

impl Place {
    pub(super) fn of(path: &Path, text: &str, span: Range<usize>) -> Self {
        let start = span.start.min(text.len());
        let before = text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = text.get(line_start..).unwrap_or_default().lines().next().unwrap_or_default();
        let number = before.matches('\n').count() + 1;
        let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
        let name = format!("{}, line {number}, column {column}", path.display());
        let hidden = may_hold_secret(before, line);
        let width =
            text.get(start..span.end.min(line_start + line.len())).map_or(1, |part| part.chars().count());
        let margin = " ".repeat(number.to_string().len());
        let excerpt = if hidden {
            format!("{margin} |\n{number} | (not shown: this line may hold a password)\n{margin} |")
        } else {
            let mark = format!("{}{}", " ".repeat(column - 1), "^".repeat(width.max(1)));
            format!("{margin} |\n{number} | {}\n{margin} | {mark}", line.replace('\t', " "))
        };
        Self { name, excerpt, hidden }
    }
}

/// Whether the line may hold a password: under that name, inside a URL, or within a text of many lines.
fn may_hold_secret(before: &str, line: &str) -> bool {
    let in_long_text = ["\"\"\"", "'''"].iter().any(|quote| before.matches(quote).count() % 2 == 1);
    in_long_text || line.to_lowercase().contains("password") || (line.contains("://") && line.contains('@'))
}

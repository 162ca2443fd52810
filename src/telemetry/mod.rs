//! Owns what the outside sees of a running server: the log's form, and every metric's name in one place.
//! Must not know: who reports, and why.

mod metrics;

pub use metrics::{CacheGauges, Held, Metrics};

use std::fmt;
use std::io::{self, IsTerminal};
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::TryInitError;

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text, with colours where a terminal reads it.
    #[default]
    Auto,
    /// Text without colours.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("expected auto, text or json"),
        }
    }
}

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("`{level}` is not a log level: {why}")]
    Level { level: String, why: String },
    #[error("the log is set up already")]
    Twice(#[source] TryInitError),
}

/// Whether `level` says which lines are logged: `info`, or `warn,binaryrepo=debug`.
pub fn check_level(level: &str) -> Result<(), InitError> {
    filter(level).map(drop)
}

/// Sets up the log of this process, once. It goes to stderr: stdout belongs to commands' answers.
pub fn init(format: LogFormat, level: &str) -> Result<(), InitError> {
    use tracing_subscriber::util::SubscriberInitExt as _;

    let builder = tracing_subscriber::fmt().with_env_filter(filter(level)?).with_writer(io::stderr);
    let set = match format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).finish().try_init(),
        LogFormat::Text => builder.with_ansi(false).finish().try_init(),
        LogFormat::Auto => builder.with_ansi(io::stderr().is_terminal()).finish().try_init(),
    };
    set.map_err(InitError::Twice)
}

fn filter(level: &str) -> Result<EnvFilter, InitError> {
    // The filter's parser takes any unknown word for a module's name: `inof` would silence everything.
    let refuse = |why: &str| InitError::Level { level: level.to_owned(), why: why.to_owned() };
    let is_level = |word: &str| {
        ["off", "error", "warn", "info", "debug", "trace"]
            .iter()
            .any(|known| word.eq_ignore_ascii_case(known))
    };
    for directive in level.split(',').map(str::trim) {
        if directive.is_empty() || (!directive.contains(['=', '[']) && !is_level(directive)) {
            return Err(refuse(
                "expected off, error, warn, info, debug, trace, or `module=level` with commas",
            ));
        }
    }
    EnvFilter::builder().parse(level.replace(' ', "")).map_err(|error| refuse(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::{LogFormat, check_level};

    #[test]
    fn levels_are_words_or_directives() {
        for good in ["info", "WARN", "off", "warn,binaryrepo=debug", "info, binaryrepo::http=trace"] {
            assert!(check_level(good).is_ok(), "{good}");
        }
        for bad in ["", "inof", "info,", "binaryrepo=loud"] {
            assert!(check_level(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn formats_round_trip() {
        for format in [LogFormat::Auto, LogFormat::Text, LogFormat::Json] {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert!("yaml".parse::<LogFormat>().is_err());
    }
}

//! Owns what the outside sees of a running server: the log's form, and every metric's name in one place.
//! Must not know: who reports, and why.

mod access;
mod format;
mod log;
mod metrics;
mod tally;

pub use access::{AccessLog, Client, Entry};
pub use log::LogThread;
pub use metrics::{Answer, CacheGauges, Downloads, Held, Metrics, Told};

use std::fmt;
use std::io::{self, IsTerminal};
use std::str::FromStr;
use std::sync::OnceLock;

use access::Form;
use format::Plain;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

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

    fn form(self) -> Form {
        match self {
            Self::Auto => Form::Text { colours: io::stderr().is_terminal() },
            Self::Text => Form::Text { colours: false },
            Self::Json => Form::Json,
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
    #[error("the log's thread cannot be started")]
    Thread(#[from] io::Error),
}

/// Whether `level` says which lines are logged: `info`, or `warn,binaryrepo=debug`.
pub fn check_level(level: &str) -> Result<(), InitError> {
    filter(level).map(drop)
}

/// Sets up the log of a command, once, line by line. It goes to stderr: stdout belongs to commands' answers.
pub fn init(format: LogFormat, level: &str) -> Result<(), InitError> {
    set_up(format.form(), level, io::stderr)
}

/// The same for a server, whose requests do not wait until their line is written. The last lines are written when
/// what this returns is dropped.
pub fn init_server(format: LogFormat, level: &str) -> Result<LogThread, InitError> {
    let (lines, thread) = log::start(io::stderr())?;
    set_up(format.form(), level, lines.clone())?;
    if tracing::enabled!(target: access::TARGET, tracing::Level::INFO) {
        set_access_log(AccessLog::new(format, move |line| lines.put(line)));
    }
    Ok(thread)
}

/// The log is one for the whole process.
static ACCESS_LOG: OnceLock<AccessLog> = OnceLock::new();

/// Says where lines about requests go. Like the rest of the log that is said once; later words are not heard.
pub fn set_access_log(log: AccessLog) {
    let _ = ACCESS_LOG.set(log);
}

/// Where lines about requests go, if anybody wants them.
pub fn access_log() -> Option<AccessLog> {
    ACCESS_LOG.get().cloned()
}

fn set_up<W>(form: Form, level: &str, writer: W) -> Result<(), InitError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_env_filter(filter(level)?).with_writer(writer);
    let set = match form {
        Form::Json => builder.json().flatten_event(true).with_current_span(false).finish().try_init(),
        Form::Text { colours } => builder.event_format(Plain { colours }).finish().try_init(),
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

//! Owns how a command ends badly: `error: / cause: / hint:` and the exit code.
//! Must not know: which command it was.

use std::io::Write;
use std::process::ExitCode;

use binaryrepo::StartError;
use binaryrepo::config::ConfigError;

/// What the exit code tells a script. Code 2, wrong usage, is shared with the argument parser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Failed = 1,
    Usage = 2,
    Config = 3,
    Unreachable = 4,
    /// A second signal: ended without waiting.
    Killed = 130,
}

/// Why a command failed, for a person.
#[derive(Debug)]
pub struct CliError {
    exit: Exit,
    message: String,
    cause: Option<String>,
    hint: Option<String>,
}

impl CliError {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), cause: None, hint: None }
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub fn with_cause(mut self, cause: impl ToString) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn with_hint_if(mut self, hint: Option<&str>) -> Self {
        self.hint = hint.map(str::to_owned);
        self
    }

    pub fn with_exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    /// Tells the person, and gives the code for the script.
    pub fn report(&self) -> ExitCode {
        let mut text = format!("error: {}\n", self.message);
        if let Some(cause) = &self.cause {
            text.push_str(&format!("cause: {cause}\n"));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("hint: {hint}\n"));
        }
        // Nobody is left to tell when stderr is closed.
        let _ = std::io::stderr().write_all(text.as_bytes());
        ExitCode::from(self.exit as u8)
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Config, "the configuration cannot be used")
            .with_cause(&error)
            .with_hint_if(error.hint())
    }
}

impl From<StartError> for CliError {
    fn from(error: StartError) -> Self {
        let text = error.to_string();
        match error {
            StartError::DataDir { hint, .. } => Self::new(Exit::Config, text).with_hint_if(hint.as_deref()),
            StartError::InUse(_) => Self::new(Exit::Config, text).with_hint(
                "stop the other one, reach it with --server, or choose another directory with --data-dir",
            ),
            StartError::Listen { source, .. } => {
                let error = Self::failed(text);
                match source.kind() {
                    std::io::ErrorKind::AddrInUse => {
                        error.with_hint("choose another port with --listen 127.0.0.1:8082")
                    }
                    std::io::ErrorKind::PermissionDenied => {
                        error.with_hint("ports below 1024 need a privilege")
                    }
                    std::io::ErrorKind::AddrNotAvailable => {
                        error.with_hint("no interface of this machine has that address")
                    }
                    _ => error,
                }
            }
            StartError::Config(error) => error.into(),
            StartError::Failed(_) => Self::failed(text),
        }
    }
}

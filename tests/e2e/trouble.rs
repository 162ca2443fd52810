//! Owns what a scenario fails with: one sentence for a person. Must not know: any scenario.

pub type Trouble = Box<dyn std::error::Error + Send + Sync>;
pub type Outcome<T = ()> = Result<T, Trouble>;

/// Fails the scenario with a sentence unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($sentence:tt)+) => {
        if !$condition {
            return Err(format!($($sentence)+).into());
        }
    };
}
pub(crate) use ensure;

/// Says what was being done when something failed.
pub trait Context<T> {
    fn context(self, doing: impl std::fmt::Display) -> Outcome<T>;
}

impl<T, E: Into<Trouble>> Context<T> for Result<T, E> {
    fn context(self, doing: impl std::fmt::Display) -> Outcome<T> {
        self.map_err(|error| format!("{doing}: {}", error.into()).into())
    }
}

//! How figures are shown: the median of several rounds with their spread, beside what is promised.

use std::fmt;

/// Every figure is taken so often.
pub const ROUNDS: usize = 5;

/// One figure in several rounds.
#[derive(Clone, Debug, Default)]
pub struct Figure(Vec<f64>);

impl Figure {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub fn rounds(&self) -> usize {
        self.0.len()
    }

    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }

    /// Round by round, so that what disturbs a round disturbs both sides of it.
    pub fn ratio(&self, baseline: &Self) -> Self {
        Self(self.0.iter().zip(&baseline.0).map(|(own, other)| own / other).collect())
    }
}

/// `0.93 (0.91-0.95)`, with the digits that the formatter asks for.
impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        write!(f, "{:.digits$} ({least:.digits$}-{most:.digits$})", self.median())
    }
}

/// What a figure must keep.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// A list of promises and whether they were kept.
#[derive(Debug, Default)]
pub struct Verdicts {
    missed: usize,
}

impl Verdicts {
    pub fn judge(&mut self, what: &str, figure: &Figure, bound: Bound) {
        if figure.rounds() == 0 {
            self.missed += 1;
            println!("MISSED  {what}: not measured");
            return;
        }
        let (kept, text) = match bound {
            Bound::AtLeast(least) => (figure.median() >= least, format!("at least {least}")),
            Bound::AtMost(most) => (figure.median() <= most, format!("at most {most}")),
        };
        self.missed += usize::from(!kept);
        println!("{:<7} {what}: {figure:.2}, {text}", if kept { "kept" } else { "MISSED" });
    }

    /// Fewer rounds than were wanted show less than is promised.
    pub fn judge_rounds(&mut self, counted: usize) {
        if counted < ROUNDS {
            self.missed += 1;
            println!("MISSED  {counted} of {ROUNDS} rounds count: this machine is too slow to show more");
        }
    }

    /// With `--strict` a missed bound fails the bench; on a machine with neighbours it may be theirs.
    pub fn end(self) -> std::process::ExitCode {
        let strict = std::env::args().any(|arg| arg == "--strict");
        std::process::ExitCode::from(u8::from(strict && self.missed > 0))
    }
}

//! What a cell's servers counted and logged: an administrator must be able to see what went wrong.
//!
//! Cells run beside each other in one process. Each has threads of its own, which bear its name, so a line of the log
//! is known by the thread that wrote it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use binaryrepo::telemetry::Metrics;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::cells::{Cell, Phase};

/// By which a fault is told.
#[derive(Clone, Copy, Debug)]
pub enum Sign {
    /// A counter of the server's, without prefix and suffix, that stood at nought before.
    Counted(&'static str),
    /// `binaryrepo_upstream_errors_total` with this reason.
    Failed(&'static str),
    /// `binaryrepo_verdicts_total` with this kind and result.
    Verdict(&'static str, &'static str),
    /// How a line of the log begins.
    Logged(&'static str),
}

/// In every cell of these phases that runs.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    pub phases: &'static [Phase],
    pub signs: &'static [Sign],
}

pub const fn told(phases: &'static [Phase], signs: &'static [Sign]) -> Told {
    Told { phases, signs }
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Counted(name) => write!(f, "`{name}_total`"),
            Self::Failed(reason) => write!(f, "`upstream_errors_total{{reason=\"{reason}\"}}`"),
            Self::Verdict(kind, result) => {
                write!(f, "`verdicts_total{{kind=\"{kind}\",result=\"{result}\"}}`")
            }
            Self::Logged(words) => write!(f, "log \"{words}\""),
        }
    }
}

/// What the cells of this row and phase must show.
pub fn due(told: &'static [Told], phase: Phase) -> impl Iterator<Item = &'static Sign> {
    told.iter().filter(move |told| told.phases.contains(&phase)).flat_map(|told| told.signs)
}

#[derive(Default)]
struct Heard {
    servers: Vec<Arc<Metrics>>,
    lines: BTreeSet<String>,
}

fn heard() -> MutexGuard<'static, BTreeMap<String, Heard>> {
    static HEARD: Mutex<BTreeMap<String, Heard>> = Mutex::new(BTreeMap::new());
    HEARD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The cell that this thread works for.
pub fn cell() -> String {
    std::thread::current().name().unwrap_or_default().to_owned()
}

/// The counters of one more server of this cell.
pub fn watch(metrics: &Arc<Metrics>) {
    heard().entry(cell()).or_default().servers.push(Arc::clone(metrics));
}

/// Hears the log of all servers of this process.
pub fn listen(aloud: bool) {
    let aloud = aloud.then(|| tracing_subscriber::fmt::layer().with_writer(std::io::stderr));
    let ear = Ear.with_filter(LevelFilter::INFO);
    tracing_subscriber::registry().with(ear).with(aloud.with_filter(LevelFilter::INFO)).init();
}

/// Compares what was heard of a cell with what must have been.
pub fn check(cell: &Cell) -> Result<(), String> {
    let heard = heard().remove(&cell.id()).unwrap_or_default();
    let counted: Vec<String> = heard.servers.iter().map(|metrics| metrics.encode()).collect();
    // `labels` as they stand behind that of the repository.
    let counts = |name: &str, labels: &str| {
        let value = |line: &str| {
            let line = line.strip_prefix("binaryrepo_")?.strip_prefix(name)?.strip_prefix("_total")?;
            let (found, value) = line.split_once(' ')?;
            (found.ends_with(labels) && value.parse::<u64>().ok()? > 0).then_some(())
        };
        counted.iter().flat_map(|text| text.lines()).any(|line| value(line).is_some())
    };
    let shows = |sign: &&Sign| match sign {
        Sign::Counted(name) => counts(name, ""),
        Sign::Failed(reason) => counts("upstream_errors", &format!(",reason=\"{reason}\"}}")),
        Sign::Verdict(kind, result) => counts("verdicts", &format!(",kind=\"{kind}\",result=\"{result}\"}}")),
        Sign::Logged(words) => heard.lines.iter().any(|line| line.starts_with(words)),
    };
    match due(cell.row.told, cell.phase).find(|sign| !shows(sign)) {
        None => Ok(()),
        Some(missing) => Err(format!("nobody is told: no {missing}; the log has {:?}", heard.lines)),
    }
}

struct Ear;

impl<S: Subscriber> Layer<S> for Ear {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Message::default();
        event.record(&mut message);
        heard().entry(cell()).or_default().lines.insert(message.0);
    }
}

#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

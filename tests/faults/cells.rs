//! Rows, phases, cells.

use std::pin::Pin;

use super::signs::Told;
use super::{client_rows, local_rows, upstream_rows};

/// When it goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Before the upstream's head came.
    Head,
    /// Behind the head, before the first byte of the body.
    First,
    Middle,
    /// When only the last byte is missing.
    Last,
    /// When the blob lies here.
    After,
}

impl Phase {
    pub const ALL: [Self; 5] = [Self::Head, Self::First, Self::Middle, Self::Last, Self::After];

    /// Before it lies here.
    pub const BEFORE: &'static [Self] = &[Self::Head, Self::First, Self::Middle, Self::Last];
    /// While the body comes.
    pub const BODY: &'static [Self] = &[Self::First, Self::Middle, Self::Last];
    /// When a part is here.
    pub const PART: &'static [Self] = &[Self::Middle, Self::Last];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::First => "first",
            Self::Middle => "middle",
            Self::Last => "last",
            Self::After => "after",
        }
    }

    /// How much of the body is through by then.
    pub fn at(self, size: u64) -> u64 {
        match self {
            Self::Head | Self::First => 0,
            Self::Middle => size / 2,
            Self::Last => size - 1,
            Self::After => size,
        }
    }
}

pub const WAITERS: [usize; 3] = [1, 2, 500];

#[derive(Clone, Copy)]
pub struct Row {
    pub id: &'static str,
    pub fault: &'static str,
    /// What of it an administrator sees.
    pub told: &'static [Told],
    pub plan: fn(Cell) -> Plan,
}

#[derive(Clone, Copy)]
pub struct Cell {
    pub row: Row,
    /// Of the row in the table.
    number: usize,
    pub phase: Phase,
    pub waiters: usize,
}

impl Cell {
    pub fn id(&self) -> String {
        format!("{}.{}.{}", self.row.id, self.phase.name(), self.waiters)
    }

    pub fn place(&self) -> (usize, Phase, usize) {
        (self.number, self.phase, self.waiters)
    }

    /// How many clients there really are.
    pub fn clients(&self) -> usize {
        let many = || std::env::var("FAULTS_MANY").map_or(500, |many| many.parse().unwrap());
        if self.waiters == 500 { many() } else { self.waiters }
    }
}

/// Runs where it was made, on the cell's own thread.
pub type Work = Pin<Box<dyn Future<Output = std::result::Result<String, String>>>>;

pub enum Plan {
    /// Answers what was seen, or what should not have been.
    Run(Work),
    Impossible(&'static str),
}

pub fn run(work: impl Future<Output = std::result::Result<String, String>> + 'static) -> Plan {
    Plan::Run(Box::pin(work))
}

#[derive(Clone, Debug)]
pub enum Outcome {
    Ran(String),
    Impossible(&'static str),
    Failed(String),
}

pub struct Result {
    pub cell: Cell,
    pub outcome: Outcome,
}

pub fn rows() -> impl Iterator<Item = Row> {
    upstream_rows::ROWS.into_iter().chain(local_rows::ROWS).chain(client_rows::ROWS)
}

pub fn all() -> impl Iterator<Item = Cell> {
    rows().enumerate().flat_map(|(number, row)| {
        let of_phase = move |phase| WAITERS.map(|waiters| Cell { row, number, phase, waiters });
        Phase::ALL.into_iter().flat_map(of_phase)
    })
}

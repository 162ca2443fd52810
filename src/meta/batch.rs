//! Owns the batch: requirements and changes that are one atomic step.
//! Must not know: the database that carries it out.

use super::Table;
use super::record::{self, Prefix, Row};

/// What an applied batch survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// A crash, from the moment of the answer on.
    Durable,
    /// The end of the process in good order; a crash only about a second later.
    Relaxed,
}

/// Changes that happen together, once all requirements hold. It must do no harm when it is applied twice:
/// after a failed write nobody knows whether it was.
#[derive(Clone, Debug)]
pub struct Batch {
    pub(super) durability: Durability,
    pub(super) requirements: Vec<Requirement>,
    pub(super) changes: Vec<Change>,
}

#[derive(Clone, Debug)]
pub(super) struct Requirement {
    pub table: Table,
    pub key: Vec<u8>,
    expected: Expected,
}

#[derive(Clone, Debug)]
enum Expected {
    Absent,
    Present,
    /// No row's key begins with this one.
    NoneUnder,
    /// The encoding of the row, and how to bring a stored value into that encoding: an older
    /// version may have written the same row in other bytes.
    Equal {
        value: Vec<u8>,
        normalise: fn(&[u8]) -> Option<Vec<u8>>,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Change {
    pub table: Table,
    pub key: Vec<u8>,
    /// `None` deletes.
    pub value: Option<Vec<u8>>,
}

impl Batch {
    /// An empty one. Applied as [`Durability::Durable`] it is a barrier: all that went before is durable then.
    pub fn new(durability: Durability) -> Self {
        Self { durability, requirements: Vec::new(), changes: Vec::new() }
    }

    /// Writes the row, over one that may be there.
    pub fn put<R: Row>(&mut self, key: &R::Key, row: &R) -> &mut Self {
        self.changes.push(Change {
            table: R::TABLE,
            key: record::encoded(key),
            value: Some(record::encode_row(row)),
        });
        self
    }

    /// Removes the row; that there is none is no error.
    pub fn delete<R: Row>(&mut self, key: &R::Key) -> &mut Self {
        self.changes.push(Change { table: R::TABLE, key: record::encoded(key), value: None });
        self
    }

    /// Nothing is applied if there is such a row.
    pub fn require_absent<R: Row>(&mut self, key: &R::Key) -> &mut Self {
        self.require::<R>(key, Expected::Absent)
    }

    /// Nothing is applied unless there is such a row.
    pub fn require_present<R: Row>(&mut self, key: &R::Key) -> &mut Self {
        self.require::<R>(key, Expected::Present)
    }

    /// Nothing is applied unless the row is there and equal to `row`.
    pub fn require_equal<R: Row>(&mut self, key: &R::Key, row: &R) -> &mut Self {
        let normalise = |stored: &[u8]| R::decode(stored).map(|row| record::encode_row(&row));
        self.require::<R>(key, Expected::Equal { value: record::encode_row(row), normalise })
    }

    /// Nothing is applied if there is any row under this prefix.
    pub fn require_none<R: Row>(&mut self, prefix: &impl Prefix<R::Key>) -> &mut Self {
        let mut key = Vec::new();
        prefix.encode_prefix(&mut key);
        self.requirements.push(Requirement { table: R::TABLE, key, expected: Expected::NoneUnder });
        self
    }

    fn require<R: Row>(&mut self, key: &R::Key, expected: Expected) -> &mut Self {
        self.requirements.push(Requirement { table: R::TABLE, key: record::encoded(key), expected });
        self
    }
}

impl Change {
    /// In bytes, of key and value.
    pub fn size(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Vec::len)
    }
}

impl Requirement {
    /// Whether it is about all rows whose keys begin with its own.
    pub fn is_prefix(&self) -> bool {
        matches!(self.expected, Expected::NoneUnder)
    }

    /// Whether `stored`, the row or the first one under the prefix, is as required.
    pub fn holds(&self, stored: Option<&[u8]>) -> bool {
        match (&self.expected, stored) {
            (Expected::Absent | Expected::NoneUnder, None) | (Expected::Present, Some(_)) => true,
            (Expected::Absent | Expected::NoneUnder, Some(_))
            | (Expected::Present | Expected::Equal { .. }, None) => false,
            (Expected::Equal { value, normalise }, Some(stored)) => {
                stored == value || normalise(stored).as_ref() == Some(value)
            }
        }
    }
}

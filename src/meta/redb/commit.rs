//! Owns one commit: several batches, each applied whole or not at all, in one transaction.
//! Must not know: threads, queues, and what becomes of a failure.

use redb::{Database, Durability, WriteTransaction};

use super::{definition, layout};
use crate::meta::Table;
use crate::meta::batch::{Batch, Change};

/// What came of one batch of a group: applied, or refused by a requirement on this table.
pub(super) type Verdict = Result<(), Table>;

/// What became of a group, with one verdict for each of its batches.
pub(super) enum Committed {
    Applied(Vec<Verdict>),
    /// All were refused, or change nothing, so there was no commit.
    Nothing(Vec<Verdict>),
}

/// What is to be committed together.
pub(super) struct Group<'a> {
    pub batches: &'a [Batch],
    /// The number of this commit.
    pub number: u64,
    /// To be synced, together with all commits before that were not.
    pub durable: bool,
}

/// Commits the group. After an error nothing is known but that a part of the group is never there.
pub(super) fn commit_group(database: &Database, group: &Group<'_>) -> Result<Committed, redb::Error> {
    let transaction = begin(database, group.durable)?;
    let mut tables = Tables::new(&transaction);
    let mut verdicts = Vec::with_capacity(group.batches.len());
    for batch in group.batches {
        let verdict = tables.check(batch)?;
        if verdict.is_ok() {
            tables.change(&batch.changes)?;
        }
        verdicts.push(verdict);
    }
    let mut accepted = group.batches.iter().zip(&verdicts).filter(|(_, verdict)| verdict.is_ok()).peekable();
    // A durable one promises something of earlier ones, too, so it is committed even if it is empty.
    if accepted.peek().is_none() || !group.durable && accepted.all(|(batch, _)| batch.changes.is_empty()) {
        return Ok(Committed::Nothing(verdicts));
    }
    tables.number(group.number)?;
    drop(tables);
    transaction.commit()?;
    Ok(Committed::Applied(verdicts))
}

/// Makes changes again that were applied before, and whatever else was not synced yet durable.
pub(super) fn commit_again<'a>(
    database: &Database,
    changes: impl Iterator<Item = &'a [Change]>,
    number: u64,
) -> Result<(), redb::Error> {
    let transaction = begin(database, true)?;
    let mut tables = Tables::new(&transaction);
    for changes in changes {
        tables.change(changes)?;
    }
    tables.number(number)?;
    drop(tables);
    Ok(transaction.commit()?)
}

fn begin(database: &Database, durable: bool) -> Result<WriteTransaction, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(if durable { Durability::Immediate } else { Durability::None })?;
    // Costs a second sync, and saves reading the whole file after a crash.
    transaction.set_quick_repair(durable);
    Ok(transaction)
}

type RawTable<'t> = redb::Table<'t, &'static [u8], &'static [u8]>;

/// The tables of a transaction, opened when they are first needed: a table can be open only once.
struct Tables<'t> {
    transaction: &'t WriteTransaction,
    open: [Option<RawTable<'t>>; Table::ALL.len()],
}

impl<'t> Tables<'t> {
    fn new(transaction: &'t WriteTransaction) -> Self {
        Self { transaction, open: [const { None }; Table::ALL.len()] }
    }

    /// Whether all requirements hold, in the state that the batches before have left.
    fn check(&mut self, batch: &Batch) -> Result<Verdict, redb::Error> {
        for requirement in &batch.requirements {
            let table = self.table(requirement.table)?;
            let key = requirement.key.as_slice();
            let holds = if requirement.is_prefix() {
                let next = redb::ReadableTable::range(table, key..)?.next().transpose()?;
                let under = next.as_ref().filter(|(found, _)| found.value().starts_with(key));
                requirement.holds(under.map(|(_, value)| value.value()))
            } else {
                let stored = redb::ReadableTable::get(table, key)?;
                requirement.holds(stored.as_ref().map(|value| value.value()))
            };
            if !holds {
                return Ok(Err(requirement.table));
            }
        }
        Ok(Ok(()))
    }

    fn change(&mut self, changes: &[Change]) -> Result<(), redb::Error> {
        for change in changes {
            let table = self.table(change.table)?;
            match &change.value {
                Some(value) => table.insert(change.key.as_slice(), value.as_slice())?,
                None => table.remove(change.key.as_slice())?,
            };
        }
        Ok(())
    }

    /// Writes the number of the commit into it.
    fn number(&mut self, number: u64) -> Result<(), redb::Error> {
        let (key, value) = layout::commit_row(number);
        self.table(Table::Setting)?.insert(key.as_slice(), value.as_slice())?;
        Ok(())
    }

    fn table(&mut self, table: Table) -> Result<&mut RawTable<'t>, redb::Error> {
        let place = &mut self.open[table as usize];
        match *place {
            Some(ref mut open) => Ok(open),
            None => Ok(place.insert(self.transaction.open_table(definition(table))?)),
        }
    }
}

//! Owns the way from every older layout to today's: one step for each schema, in the order in which they came.
//! Must not know: today's rows. A step is written against the bytes of its own time and never changed afterwards, or
//! an old file would be brought into a form that the next step does not expect.

use redb::{TableDefinition, WriteTransaction};
use serde_json::Value;

use super::read_error;
use crate::meta::MetaError;

/// The layout of the tables that this version reads and writes. A new one needs a step from the last, and its
/// fixture. A field that comes with a default needs neither: its row is read as if the default stood there.
pub const SCHEMA: u32 = 2;

/// The first leads from schema 1 to 2, the next on from there.
const STEPS: [Step; SCHEMA as usize - 1] = [uploads_have_owners];

/// Answers what a person should know of it, if anything.
type Step = fn(&WriteTransaction) -> Result<Option<String>, MetaError>;

/// Brings the tables from schema `from` to [`SCHEMA`]. Nothing of it has happened before the transaction is committed.
pub(super) fn run(transaction: &WriteTransaction, from: u32) -> Result<Vec<String>, MetaError> {
    let mut notes = Vec::new();
    for (step, _) in STEPS.iter().zip(1..).filter(|(_, leads_from)| *leads_from >= from) {
        notes.extend(step(transaction)?);
    }
    Ok(notes)
}

/// To schema 2: pushed content has holders and referrers, an upload belongs to who began it.
///
/// Schema 1 took no pushes at first, so there is nothing to fill the new tables from. Later versions of it did, and
/// had them; uploads had no owner yet: nobody can go on with one of those, so its row goes. Its file has no row
/// then, and goes when the server starts.
fn uploads_have_owners(transaction: &WriteTransaction) -> Result<Option<String>, MetaError> {
    for added in ["holder", "referrer"] {
        transaction.open_table(table(added)).map_err(read_error)?;
    }
    let mut uploads = transaction.open_table(table("session")).map_err(read_error)?;
    let mut ended = 0_u64;
    let keep = |_: &[u8], row: &[u8]| {
        let owned = !lacks_owner(row);
        ended += u64::from(!owned);
        owned
    };
    uploads.retain(keep).map_err(read_error)?;
    Ok((ended > 0)
        .then(|| format!("{ended} unfinished uploads belong to nobody and have ended: push those again")))
}

/// What cannot be read is not this step's to judge.
fn lacks_owner(row: &[u8]) -> bool {
    let Some((1, json)) = row.split_first() else { return false };
    serde_json::from_slice::<Value>(json)
        .is_ok_and(|row| row.get("owner").and_then(Value::as_str).is_none_or(str::is_empty))
}

fn table(name: &'static str) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(name)
}

#[cfg(test)]
mod tests;

//! Owns the end of a schedule: everything under way comes to its end, and then all must be well.

use std::collections::BTreeSet;

use binaryrepo::cache::{Event, Failure};

use super::{Fill, World};
use crate::choice::Choice;
use crate::names::Name;

impl World {
    /// Lets everything that is under way come to its end, then looks whether all is well.
    pub fn come_to_rest(&mut self) -> Result<(), String> {
        for _ in 0..5_000 {
            match self.next_to_rest() {
                Some(choice) => self.happen(choice)?,
                None if self.report_vanished()? => {}
                None => match self.machine.next_wakeup() {
                    Some(at) => {
                        self.now = self.now.max(at);
                        self.tell(Event::Tick)?;
                    }
                    None => return self.judge_rest(),
                },
            }
        }
        Err(format!("does not come to rest; next is {:?}", self.next_to_rest()))
    }

    fn next_to_rest(&self) -> Option<Choice> {
        let deliver = self.mail.keys().next().map(|sender| Choice::Deliver(*sender));
        let sweep = || self.sweeps.first().map(|blob| Choice::Sweep { blob: *blob, works: true });
        let push = || {
            let (claim, push) = self.pushes.iter().find(|(_, push)| push.granted)?;
            Some(if push.published { Choice::Commit(*claim) } else { Choice::Publish(*claim) })
        };
        let open = || self.clients.iter().find(|(_, client)| client.ready).map(|(id, _)| Choice::Open(*id));
        let scan = || self.scan.as_ref().map(|_| Choice::Scan);
        deliver.or_else(sweep).or_else(push).or_else(open).or_else(|| self.fill_to_rest()).or_else(scan)
    }

    fn fill_to_rest(&self) -> Option<Choice> {
        self.fills.iter().find_map(|(flight, fill)| {
            let flight = *flight;
            match fill {
                Fill { cancelled: true, .. } => Some(Choice::Fail(flight, Failure::Died)),
                Fill { key: Name::Document(_), .. } | Fill { admitted: true, .. } => {
                    Some(Choice::Finish(flight))
                }
                Fill { head_sent: false, .. } => Some(Choice::Head { flight, sized: true }),
                Fill { .. } => None,
            }
        })
    }

    /// Somebody comes upon a file that is not there. True if there was one that nobody had come upon.
    fn report_vanished(&mut self) -> Result<bool, String> {
        // What was gone before it was ever loaded, nobody here can miss.
        let (known, unknown) =
            self.vanished.iter().partition(|blob| self.model.copies.contains_key(&Name::Blob(**blob)));
        self.vanished = known;
        self.mourned.extend(self.promised.intersection(&unknown));
        let alarmed = |blob: &&u8| self.model.copies[&Name::Blob(**blob)].pinned;
        let Some(blob) = self.vanished.iter().find(|blob| !alarmed(blob)).copied() else { return Ok(false) };
        self.tell(Event::Lost { key: Name::Blob(blob) })?;
        if self.sweeps.contains(&blob) { Ok(true) } else { Err(format!("lost blob {blob} is left as it is")) }
    }

    fn judge_rest(&self) -> Result<(), String> {
        let counts = self.machine.counts();
        let left = [counts.flights, counts.queued, counts.waiters, self.clients.len(), self.fills.len()];
        let claims = self.model.claims.len() + self.pushes.len();
        if left != [0; 5] || claims > 0 || counts.reserved_bytes > 0 || counts.evicting_bytes > 0 {
            return Err(format!("at rest something is left over: {left:?}, {claims} claims, {counts:?}"));
        }
        let entries: BTreeSet<_> = self.model.copies.keys().copied().collect();
        let files: BTreeSet<_> = self.disk.union(&self.vanished).map(|blob| Name::Blob(*blob)).collect();
        if entries != files {
            return Err(format!("at rest the files are {files:?}, the entries {entries:?}"));
        }
        let pinned = self.model.copies.iter().filter(|(_, copy)| copy.pinned).map(|(key, _)| *key);
        let promised: BTreeSet<_> = self.promised.iter().map(|blob| Name::Blob(*blob)).collect();
        if let Some(key) = pinned.clone().find(|key| !promised.contains(key)) {
            return Err(format!("at rest {key:?} is pinned for ever, though nobody was promised it"));
        }
        let order: Vec<_> = self.machine.eviction_order().map(|(key, used)| (used, *key)).collect();
        let free = self.model.copies.iter().filter(|(_, copy)| !copy.pinned);
        let expected: BTreeSet<_> = free.map(|(key, copy)| (copy.used, *key)).collect();
        if !order.iter().eq(expected.iter()) {
            return Err(format!("at rest the order of eviction is {order:?} instead of {expected:?}"));
        }
        if !self.model.limits_are_kept() {
            return Err(format!("at rest a limit is exceeded: {counts:?}"));
        }
        Ok(())
    }
}

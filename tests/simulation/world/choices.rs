//! Owns what may happen now, given how the world stands.

use binaryrepo::cache::{Failure, Key, Lane};

use super::World;
use crate::choice::Choice;
use crate::names::{Name, Via};

impl World {
    /// Everything that may happen now.
    pub fn choices(&self, into: &mut Vec<Choice>) {
        into.clear();
        self.choices_of_clients(into);
        self.choices_of_fills(into);
        self.choices_of_files(into);
        self.choices_of_pushes(into);
        self.choices_of_the_house(into);
        into.retain(|choice| self.rules.budget[choice.kind()] > 0);
    }

    /// None of these choices goes on with what is under way: only something new, or time, could change anything.
    pub fn is_quiet(&self, choices: &[Choice]) -> bool {
        choices.iter().all(|choice| self.rules.budget[choice.kind()] != u32::MAX)
    }

    pub fn choices_of_clients(&self, into: &mut Vec<Choice>) {
        let blobs = (0..self.rules.blobs).map(Name::Blob);
        for key in blobs.chain((0..self.rules.documents).map(Name::Document)) {
            for via in (0..self.rules.sources).map(Via) {
                into.push(Choice::Join { key, via, patient: true });
                if !self.rules.waits.is_empty() {
                    into.push(Choice::Join { key, via, patient: false });
                }
            }
        }
        for (id, client) in &self.clients {
            into.push(if client.ready { Choice::Open(*id) } else { Choice::Leave(*id) });
        }
    }

    pub fn choices_of_fills(&self, into: &mut Vec<Choice>) {
        for (flight, fill) in &self.fills {
            let flight = *flight;
            if fill.cancelled {
                into.push(Choice::Fail(flight, Failure::Died));
                continue;
            }
            if fill.key.lane() == Lane::Content && !fill.head_sent {
                into.extend([true, false].map(|sized| Choice::Head { flight, sized }));
            } else if fill.key.lane() == Lane::Pointer || fill.admitted {
                into.push(Choice::Finish(flight));
            }
            into.extend(self.rules.failures.iter().map(|failure| Choice::Fail(flight, *failure)));
        }
    }

    pub fn choices_of_files(&self, into: &mut Vec<Choice>) {
        for blob in 0..self.rules.blobs {
            into.extend([Choice::Collect(blob), Choice::Touch(blob)]);
            if self.sweeps.contains(&blob) {
                into.extend([true, false].map(|works| Choice::Sweep { blob, works }));
            }
            if self.disk.contains(&blob) && !self.is_being_pushed(blob) {
                into.push(Choice::Vanish(blob));
            }
            if self.promised.contains(&blob) && !self.is_being_pushed(blob) {
                into.push(Choice::Unpin(blob));
            }
        }
    }

    pub fn choices_of_pushes(&self, into: &mut Vec<Choice>) {
        for blob in 0..self.rules.blobs {
            into.extend([true, false].map(|pinned| Choice::Push { blob, pinned }));
        }
        for (claim, push) in &self.pushes {
            if !push.published {
                into.push(Choice::Abandon(*claim));
            }
            if push.granted {
                into.push(if push.published { Choice::Commit(*claim) } else { Choice::Publish(*claim) });
            }
        }
    }

    pub fn choices_of_the_house(&self, into: &mut Vec<Choice>) {
        into.extend(self.mail.keys().map(|sender| Choice::Deliver(*sender)));
        into.extend((0..self.history.len()).map(Choice::Resend));
        into.extend(self.rules.spaces.iter().map(|limit| Choice::Space(*limit)));
        for upstream in [0, 1] {
            into.extend([None, Some(9)].map(|limit| Choice::Share { upstream, limit }));
        }
        into.extend(self.rules.waits.iter().map(|ms| Choice::Wait(*ms)));
        into.extend([Choice::Tick, Choice::Restart]);
        into.extend(self.scan.iter().map(|_| Choice::Scan));
    }
}

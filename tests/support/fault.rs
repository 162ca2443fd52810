//! Faults as data: what a scripted upstream does wrong, and when.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::watch;

/// Holds up whoever comes, until it is opened.
#[derive(Clone, Debug)]
pub struct Gate(watch::Sender<bool>);

impl Gate {
    pub fn closed() -> Self {
        Self(watch::Sender::new(false))
    }

    pub fn open(&self) {
        self.0.send_replace(true);
    }

    pub async fn passed(&self) {
        // Fails only when the gate is gone, and `self` is one.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

/// Something that goes wrong with one request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing: holds a place in a script, so that the second request is the one that suffers.
    None,
    /// Answers this instead.
    Answer {
        status: u16,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    },
    /// These bytes instead of an answer, then a close. Plain connections only.
    Raw(Vec<u8>),
    /// `Location`, with status 307.
    Redirect(String),
    /// Waits before the head.
    DelayHead(Duration),
    /// Waits before the head until the gate is opened.
    Hold(Gate),
    /// Sends this many bytes of the body, and goes on when the gate is opened.
    HoldAt(u64, Gate),
    /// Closes, or resets, without an answer.
    CloseBeforeHead,
    ResetBeforeHead,
    /// Sends this many bytes of the body, then nothing, and keeps the connection.
    StallAt(u64),
    /// Sends this many bytes of the body, then closes the connection.
    CloseAt(u64),
    /// Sends this many bytes of the body as if that were all, without a Content-Length.
    EndAt(u64),
    /// Sends this many bytes of the body, then resets the connection.
    ResetAt(u64),
    /// Changes the byte at this offset of the body.
    WrongByteAt(u64),
    /// Appends this many bytes to the body.
    Longer(u64),
    /// Sends the body without a Content-Length.
    NoLength,
    /// Answers 200 with the whole to a request for a range.
    IgnoreRange,
    /// Sets headers beside, or instead of, the right ones.
    Headers(Vec<(String, String)>),
    /// Bytes in a second for this body.
    Rate(u64),
    /// From this byte on so many bytes in a second.
    DripFrom(u64, u64),
    /// Several at once.
    All(Vec<Fault>),
}

impl Fault {
    pub fn status(status: u16) -> Self {
        Self::Answer { status, headers: Vec::new(), body: Vec::new() }
    }

    pub fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Self {
        Self::Answer { status, headers: owned(headers), body: body.into() }
    }

    pub fn headers(headers: &[(&str, &str)]) -> Self {
        Self::Headers(owned(headers))
    }

    pub fn silence() -> Self {
        Self::DelayHead(Duration::from_secs(24 * 3600))
    }
}

fn owned(headers: &[(&str, &str)]) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Which requests suffer what. A rule looks for its text in `METHOD /path?query`.
#[derive(Debug, Default)]
pub struct Script {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    text: String,
    next: VecDeque<Fault>,
    /// When `next` is empty.
    always: Option<Fault>,
}

impl Script {
    /// The first request that `text` is found in suffers the first fault, and so on; later ones none.
    pub fn queue(&mut self, text: &str, faults: impl IntoIterator<Item = Fault>) {
        let next = faults.into_iter().collect();
        self.rules.push(Rule { text: text.to_owned(), next, always: None });
    }

    pub fn always(&mut self, text: &str, fault: Fault) {
        self.rules.push(Rule { text: text.to_owned(), next: VecDeque::new(), always: Some(fault) });
    }

    pub fn clear(&mut self) {
        self.rules.clear();
    }

    /// What this request suffers, by the first rule that has something left to say.
    pub fn take(&mut self, request: &str) -> Fault {
        for rule in self.rules.iter_mut().filter(|rule| request.contains(&rule.text)) {
            if let Some(fault) = rule.next.pop_front().or_else(|| rule.always.clone()) {
                return fault;
            }
        }
        Fault::None
    }
}

//! A fault taken apart into what is done about it, and the socket's side of breaking a connection.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;

use super::body::Ending;
use super::fault::{Fault, Gate};
use super::shelf::Answer;

/// A second handle of a connection's socket, for what HTTP libraries do not do.
pub struct Cable(Mutex<Option<TcpStream>>);

impl Cable {
    pub fn new(socket: TcpStream) -> Self {
        Self(Mutex::new(Some(socket)))
    }

    /// The close that follows will be a reset.
    pub fn will_reset(&self) {
        if let Some(socket) = self.0.lock().unwrap().take() {
            socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
        }
    }

    pub fn send(&self, bytes: &[u8]) {
        if let Some(mut socket) = self.0.lock().unwrap().take() {
            // A few hundred bytes fit into the socket's buffer.
            let _ = socket.write_all(bytes);
        }
    }
}

/// Ends the connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("hung up as scripted")]
pub struct HangUp;

/// A fault taken apart.
#[derive(Default)]
pub struct Effects {
    pub instead: Option<Answer>,
    pub raw: Option<Vec<u8>>,
    pub delay: Duration,
    pub hold: Option<Gate>,
    pub hold_at: Option<(u64, Gate)>,
    pub drip_from: Option<(u64, u64)>,
    /// Whether with a reset.
    pub hang_up: Option<bool>,
    pub stop: Option<Stop>,
    pub wrong_byte: Option<u64>,
    pub longer: u64,
    pub no_length: bool,
    pub ignore_range: bool,
    pub headers: Vec<(String, String)>,
    pub rate: Option<u64>,
}

#[derive(Clone, Copy)]
pub struct Stop {
    pub at: u64,
    pub ending: Ending,
    pub reset: bool,
}

impl Effects {
    pub fn add(&mut self, fault: Fault) {
        let stop = |at, ending, reset| Some(Stop { at, ending, reset });
        match fault {
            Fault::None => {}
            Fault::Answer { status, headers, body } => {
                self.instead = Some(Answer::new(status, body));
                self.headers.extend(headers);
            }
            Fault::Redirect(to) => self.instead = Some(Answer::new(307, "").with("location", &to)),
            Fault::Raw(bytes) => self.raw = Some(bytes),
            Fault::DelayHead(delay) => self.delay = delay,
            Fault::Hold(gate) => self.hold = Some(gate),
            Fault::HoldAt(at, gate) => self.hold_at = Some((at, gate)),
            Fault::DripFrom(at, rate) => self.drip_from = Some((at, rate)),
            Fault::CloseBeforeHead => self.hang_up = Some(false),
            Fault::ResetBeforeHead => self.hang_up = Some(true),
            Fault::StallAt(at) => self.stop = stop(at, Ending::Stall, false),
            Fault::CloseAt(at) => self.stop = stop(at, Ending::Break, false),
            Fault::EndAt(at) => {
                self.stop = stop(at, Ending::Complete, false);
                self.no_length = true;
            }
            Fault::ResetAt(at) => self.stop = stop(at, Ending::Break, true),
            Fault::WrongByteAt(at) => self.wrong_byte = Some(at),
            Fault::Longer(by) => self.longer = by,
            Fault::NoLength => self.no_length = true,
            Fault::IgnoreRange => self.ignore_range = true,
            Fault::Headers(headers) => self.headers.extend(headers),
            Fault::Rate(rate) => self.rate = Some(rate),
            Fault::All(faults) => faults.into_iter().for_each(|fault| self.add(fault)),
        }
    }

    /// The body as it will be sent, cut where it stops.
    pub fn spoil(&self, body: &Bytes) -> Bytes {
        let mut bytes = body.to_vec();
        if let Some(byte) = self.wrong_byte.and_then(|at| bytes.get_mut(usize::try_from(at).unwrap())) {
            *byte ^= 0xff;
        }
        bytes.resize(bytes.len() + usize::try_from(self.longer).unwrap(), 0);
        bytes.into()
    }
}

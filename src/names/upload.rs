//! Owns the name of an upload session.
//! Must not know: where randomness comes from, which sessions exist.

use std::fmt;
use std::str::FromStr;

/// The longest text that can be one.
const LONGEST: usize = 38;
const RANDOM_DIGITS: usize = 32;

/// Why a text is not the name of an upload session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an upload session has another name")]
pub struct UploadIdError;

/// `<node>-<32 hex digits>`: on which node it lives, so that a front can send it there, and 128 bits that nobody
/// guesses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadId {
    node: u16,
    random: u128,
}

impl UploadId {
    pub const fn new(node: u16, random: u128) -> Self {
        Self { node, random }
    }

    pub const fn node(self) -> u16 {
        self.node
    }

    pub const fn random(self) -> u128 {
        self.random
    }
}

impl FromStr for UploadId {
    type Err = UploadIdError;

    /// Only the one spelling that `Display` writes.
    fn from_str(text: &str) -> Result<Self, UploadIdError> {
        if text.len() > LONGEST {
            return Err(UploadIdError);
        }
        let (node, random) = text.split_once('-').ok_or(UploadIdError)?;
        let id = Self {
            node: node.parse().map_err(|_| UploadIdError)?,
            random: u128::from_str_radix(random, 16).map_err(|_| UploadIdError)?,
        };
        if random.len() == RANDOM_DIGITS && id.to_string() == text { Ok(id) } else { Err(UploadIdError) }
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:0RANDOM_DIGITS$x}", self.node, self.random)
    }
}

impl fmt::Debug for UploadId {
    /// Who knows the whole name may write to the session: a log shows where it lives and no more.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-…", self.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_own_text_and_no_other() {
        for id in [UploadId::new(0, 0), UploadId::new(1, 0xabc), UploadId::new(u16::MAX, u128::MAX)] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        let zeros = "0".repeat(31);
        let others = [
            String::new(),
            "1".to_owned(),
            "1-".to_owned(),
            format!("1-{zeros}"),
            format!("01-{zeros}0"),
            format!("+1-{zeros}0"),
            format!("1-{zeros}A"),
            format!("1-+{zeros}"),
            format!("1-{zeros}00"),
            format!("70000-{zeros}0"),
            format!("-1-{zeros}0"),
        ];
        for text in others {
            assert_eq!(text.parse::<UploadId>(), Err(UploadIdError), "{text}");
        }
    }

    #[test]
    fn what_is_printed_does_not_open_the_session() {
        assert_eq!(format!("{:?}", UploadId::new(1, 0xabc)), "1-…");
    }
}

//! Owns the digest: its grammar (OCI image-spec, "Digests"), and the streaming hasher.
//! Must not know: where bytes come from or go to.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256, Sha512};

/// The two registered algorithms that this registry stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    /// The name before the colon.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of the hash in bytes; the hexadecimal form is twice as long.
    pub const fn len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    /// Never: clippy asks for it beside `len`.
    pub const fn is_empty(self) -> bool {
        false
    }
}

impl FromStr for Algorithm {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        match text {
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            _ => Err(DigestError::Algorithm),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is not a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    #[error("a digest is written algorithm:hex")]
    Form,
    #[error("the digest algorithm is neither sha256 nor sha512")]
    Algorithm,
    #[error("the digest has the wrong number of hexadecimal digits for its algorithm")]
    Length,
    #[error("the digest holds something other than lower-case hexadecimal digits")]
    Hex,
}

/// A content digest, algorithm and all: `sha256:…` and `sha512:…` of the same bytes are two digests.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    /// Left-aligned; what the algorithm does not fill stays zero, so that derived equality is right.
    bytes: [u8; 64],
}

impl Digest {
    /// The digest of `content`, for small things that are in memory anyway.
    pub fn of(algorithm: Algorithm, content: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(content);
        hasher.finish()
    }

    /// No digest is greater, in its order or as text.
    pub const fn largest() -> Self {
        Self { algorithm: Algorithm::Sha512, bytes: [u8::MAX; 64] }
    }

    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The raw hash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.len()]
    }

    /// `sha256:…`, on the stack.
    pub fn text(&self) -> DigestText {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let name = self.algorithm.as_str().as_bytes();
        let mut bytes = [0; DigestText::LONGEST];
        bytes[..name.len()].copy_from_slice(name);
        bytes[name.len()] = b':';
        let start = name.len() + 1;
        for (pair, byte) in bytes[start..].chunks_exact_mut(2).zip(self.as_bytes()) {
            pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        DigestText { bytes, start, end: start + 2 * self.algorithm.len() }
    }

    /// The part behind the colon. Safe as a file name: only `0-9a-f`.
    pub fn hex(&self) -> String {
        let text = self.text();
        text.as_str()[text.start..].to_owned()
    }

    fn from_raw(algorithm: Algorithm, raw: &[u8]) -> Self {
        let mut bytes = [0; 64];
        bytes[..raw.len()].copy_from_slice(raw);
        Self { algorithm, bytes }
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or(DigestError::Form)?;
        let algorithm: Algorithm = algorithm.parse()?;
        if hex.len() != algorithm.len() * 2 {
            return Err(DigestError::Length);
        }
        let mut bytes = [0; 64];
        let mut seen = 0;
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let (high, low) = (NIBBLES[usize::from(pair[0])], NIBBLES[usize::from(pair[1])]);
            seen |= high | low;
            *byte = high << 4 | low & 15;
        }
        // Whether all were digits is seen at the end: nearly always they are.
        if seen < 16 { Ok(Self { algorithm, bytes }) } else { Err(DigestError::Hex) }
    }
}

/// What a hexadecimal digit is worth; of anything else, more than any.
const NIBBLES: [u8; 256] = {
    let mut worth = [u8::MAX; 256];
    let mut digit = 0;
    while digit < 16 {
        worth[b"0123456789abcdef"[digit] as usize] = digit as u8;
        digit += 1;
    }
    worth
};

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A digest as it is written.
#[derive(Clone, Copy)]
pub struct DigestText {
    bytes: [u8; Self::LONGEST],
    /// Of the hexadecimal digits.
    start: usize,
    end: usize,
}

impl DigestText {
    const LONGEST: usize = "sha512:".len() + 2 * Algorithm::Sha512.len();

    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..self.end]).expect("digits are ASCII")
    }
}

/// A streaming hash. Cloning forks it: the clone goes on from the same prefix.
#[derive(Clone, Debug)]
pub struct Hasher(State);

#[derive(Clone, Debug)]
enum State {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Sha512::new()),
        })
    }

    pub const fn algorithm(&self) -> Algorithm {
        match &self.0 {
            State::Sha256(_) => Algorithm::Sha256,
            State::Sha512(_) => Algorithm::Sha512,
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(hash) => hash.update(bytes),
            State::Sha512(hash) => hash.update(bytes),
        }
    }

    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(hash) => Digest::from_raw(Algorithm::Sha256, &hash.finalize()),
            State::Sha512(hash) => Digest::from_raw(Algorithm::Sha512, &hash.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_survives_its_own_text() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let digest = Digest::of(algorithm, b"layer");
            assert_eq!(digest.to_string().parse(), Ok(digest));
        }
        assert_eq!(Digest::of(Algorithm::Sha256, b"").to_string(), EMPTY);
    }

    #[test]
    fn what_is_not_a_digest_is_refused_with_its_reason() {
        let upper = EMPTY.to_uppercase().replace("SHA256", "sha256");
        let cases = [
            ("", DigestError::Form),
            ("sha256", DigestError::Form),
            ("md5:d41d8cd98f00b204e9800998ecf8427e", DigestError::Algorithm),
            ("sha256:../..", DigestError::Length),
            ("sha256:baddigeststring", DigestError::Length),
            (upper.as_str(), DigestError::Hex),
        ];
        for (text, reason) in cases {
            assert_eq!(text.parse::<Digest>(), Err(reason), "{text}");
        }
    }

    #[test]
    fn a_forked_hasher_goes_on_from_the_same_prefix() {
        let mut first = Hasher::new(Algorithm::Sha256);
        first.update(b"one");
        let mut second = first.clone();
        first.update(b"two");
        second.update(b"two");
        assert_eq!(first.finish(), second.finish());
    }
}

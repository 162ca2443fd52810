//! Owns how people write values: durations, sizes, addresses, hosts. The same in the configuration file,
//! the environment, flags and JSON bodies.
//! Must not know: which settings there are.

mod duration;
mod size;
mod url;

pub use duration::{duration_text, parse_duration, time_text};
pub use size::{Limit, bytes_text, human_bytes, parse_bytes};
pub use url::{Domain, Host, WebUrl, url_text};

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde::de::{Deserialize, Deserializer, Error, Visitor};

use crate::names::RepositoryName;

/// A value that is written as a text.
pub trait Parse: Sized {
    /// What the reader should have found: "a duration such as \"60s\"".
    const EXPECTED: &'static str;

    fn parse(text: &str) -> Result<Self, String>;

    /// Numbers mean something for sizes only.
    fn from_number(_: u64) -> Option<Self> {
        None
    }
}

/// A value read through its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text<T>(pub T);

/// A field that may be left out (keep what is there), or be `null` (back to the default).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Given<T> {
    #[default]
    Absent,
    Reset,
    Set(T),
}

impl<T> Given<T> {
    pub const fn is_set(&self) -> bool {
        matches!(self, Self::Set(_))
    }

    pub const fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::<T>::deserialize(deserializer)?.map_or(Self::Reset, Self::Set))
    }
}

impl<'de, T: Parse> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor(PhantomData)).map(Self)
    }
}

struct TextVisitor<T>(PhantomData<T>);

impl<T: Parse> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::parse(text).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        let unexpected = serde::de::Unexpected::Unsigned(number);
        T::from_number(number).ok_or_else(|| E::invalid_type(unexpected, &self))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        let unexpected = serde::de::Unexpected::Signed(number);
        let value = u64::try_from(number).ok().and_then(T::from_number);
        value.ok_or_else(|| E::invalid_type(unexpected, &self))
    }
}

impl Parse for Duration {
    const EXPECTED: &'static str = "a duration such as \"60s\", \"5m\" or \"7d\"";

    fn parse(text: &str) -> Result<Self, String> {
        parse_duration(text)
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl Parse for ByteSize {
    const EXPECTED: &'static str = "a number of bytes or a size such as \"10GiB\"";

    fn parse(text: &str) -> Result<Self, String> {
        parse_bytes(text).map(Self)
    }

    fn from_number(number: u64) -> Option<Self> {
        Some(Self(number))
    }
}

impl Parse for Limit {
    const EXPECTED: &'static str = "a share such as \"80%\" or a size such as \"500GiB\"";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn from_number(number: u64) -> Option<Self> {
        Some(Self::Bytes(number))
    }
}

impl Parse for RepositoryName {
    const EXPECTED: &'static str = "a repository name such as \"docker-remote\"";

    fn parse(text: &str) -> Result<Self, String> {
        Self::from_str(text).map_err(|error| error.to_string())
    }
}

impl Parse for SocketAddr {
    const EXPECTED: &'static str = "an address and port such as \"127.0.0.1:8081\"";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| {
            format!(
                "`{text}` is not an address and port: write 127.0.0.1:8081 for this machine only, \
                 0.0.0.0:8081 or [::]:8081 for every network"
            )
        })
    }
}

impl Parse for IpNet {
    const EXPECTED: &'static str = "an address or a network such as \"10.0.0.0/8\"";

    fn parse(text: &str) -> Result<Self, String> {
        let single = || text.parse::<std::net::IpAddr>().map(IpNet::from).ok();
        let parsed = text.parse().ok().or_else(single);
        parsed.ok_or_else(|| format!("`{text}` is not a network: write 10.0.0.0/8, or one address"))
    }
}

impl Parse for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.contains('\0') {
            return Err("is not a path".to_owned());
        }
        Ok(Self::from(text))
    }
}

impl Parse for String {
    const EXPECTED: &'static str = "a text";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err("expected a text that is not empty and has no control characters".to_owned());
        }
        Ok(text.to_owned())
    }
}

/// What may be told of a field that cannot be read: the error repeats what it found, which for a password is nobody's
/// business.
pub fn redacted(field: &str, error: &dyn fmt::Display) -> String {
    if field == "password" { "expected a text that is not empty".to_owned() } else { error.to_string() }
}

/// The word among `known` that a slip of the fingers away would give `written`.
pub fn closest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = 1 + written.len() / 4;
    known
        .into_iter()
        .map(|word| (edits(written.as_bytes(), word.as_bytes()), word))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, word)| word)
}

/// How many single letters must be put in, taken out or replaced.
fn edits(from: &[u8], to: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (j, b) in to.iter().enumerate() {
            let above = row.get(j + 1).copied().unwrap_or(usize::MAX);
            let best = (left + 1).min(above + 1).min(diagonal + usize::from(a != b));
            if let Some(cell) = row.get_mut(j) {
                *cell = left;
            }
            diagonal = above;
            left = best;
        }
        if let Some(cell) = row.last_mut() {
            *cell = left;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let known = ["listen", "max_connections", "max_size"];
        assert_eq!(closest("max_conections", known), Some("max_connections"));
        assert_eq!(closest("lisen", known), Some("listen"));
        assert_eq!(closest("colour", known), None);
        assert_eq!(edits(b"kitten", b"sitting"), 3);
        assert_eq!(edits(b"", b"abc"), 3);
        assert_eq!(edits(b"abc", b""), 3);
    }

    #[test]
    fn left_out_and_null_are_different() {
        #[derive(serde::Deserialize)]
        struct Form {
            #[serde(default)]
            tag_ttl: Given<Text<Duration>>,
        }
        let read = |json| serde_json::from_str::<Form>(json).map(|form| form.tag_ttl);
        assert_eq!(read("{}").ok(), Some(Given::Absent));
        assert_eq!(read(r#"{"tag_ttl":null}"#).ok(), Some(Given::Reset));
        assert_eq!(read(r#"{"tag_ttl":"5m"}"#).ok(), Some(Given::Set(Text(Duration::from_secs(300)))));
        let error = read(r#"{"tag_ttl":60}"#).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("expected a duration such as \"60s\""), "{error}");
    }

    #[test]
    fn networks_may_be_single_addresses() {
        let net = |text| <IpNet as Parse>::parse(text).ok().map(|net| net.to_string());
        assert_eq!(net("10.0.0.0/8").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(net("192.168.1.7").as_deref(), Some("192.168.1.7/32"));
        assert_eq!(net("fd00::/8").as_deref(), Some("fd00::/8"));
        assert_eq!(net("proxy"), None);
    }
}

//! Owns numbers of bytes as texts, and limits that are a size or a share.
//! Must not know: what is limited.

use std::fmt;
use std::str::FromStr;

const UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Reads `1048576`, `500GiB`, `1.5 TB`.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let refuse = || format!("`{text}` is not a size: write bytes, or \"500MB\", \"10GiB\", \"1.5TiB\"");
    let text_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(text_end);
    let unit = unit.trim();
    let factor = match unit {
        "" => 1,
        _ => UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            .map(|(_, factor)| *factor)
            .ok_or_else(refuse)?,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || fraction.len() > 6 || number.ends_with('.') {
        return Err(refuse());
    }
    let whole: u64 = whole.parse().map_err(|_| refuse())?;
    let mut bytes = u128::from(whole) * u128::from(factor);
    if !fraction.is_empty() {
        let scale = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| refuse())?);
        bytes += fraction.parse::<u128>().map_err(|_| refuse())? * u128::from(factor) / scale;
    }
    u64::try_from(bytes).map_err(|_| format!("`{text}` is more than any disk holds"))
}

/// The text that [`parse_bytes`] reads back, in the largest binary unit that fits without a rest.
pub fn bytes_text(bytes: u64) -> String {
    let binary = UNITS.iter().rev().take(4);
    for (name, factor) in binary {
        if bytes >= *factor && bytes.is_multiple_of(*factor) {
            return format!("{}{name}", bytes / factor);
        }
    }
    bytes.to_string()
}

/// A size for a table, with three digits that count: `3.61 GiB`, `48.0 KiB`, `12 B`.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn human_bytes(bytes: u64) -> String {
    let Some((name, factor)) = UNITS.iter().rev().take(4).find(|(_, factor)| bytes >= *factor) else {
        return format!("{bytes} B");
    };
    let value = bytes as f64 / *factor as f64;
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {name}")
}

/// How much of a file system may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Of the whole file system, 1 to 100.
    Percent(u8),
    Bytes(u64),
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(percent) = text.strip_suffix('%') else {
            return parse_bytes(text)
                .map(Self::Bytes)
                .map_err(|error| format!("{error}, or a share as in \"80%\""));
        };
        match percent.trim().parse() {
            Ok(percent @ 1..=100) => Ok(Self::Percent(percent)),
            _ => Err(format!("`{text}` is not a share: write \"1%\" to \"100%\"")),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Bytes(bytes) => f.write_str(&bytes_text(*bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("1 KiB", 1024),
            ("500MB", 500_000_000),
            ("10GiB", 10 << 30),
            ("10gib", 10 << 30),
            ("1.5TiB", (1 << 40) + (1 << 39)),
            ("0.5 KB", 500),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_says_what_one_is() {
        // A bare `G` means 10^9 to some programs and 2^30 to others.
        for bad in ["", "GiB", "10G", "-1", "1.2.3MB", "1.", ".5GB", "ten", "99999999999TiB", "1e9"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_are_shares_or_sizes() {
        assert_eq!("80%".parse(), Ok(Limit::Percent(80)));
        assert_eq!("500GiB".parse(), Ok(Limit::Bytes(500 << 30)));
        for bad in ["0%", "101%", "%", "8.5%", "lots"] {
            assert!(bad.parse::<Limit>().is_err(), "{bad}");
        }
    }

    #[test]
    fn texts_round_trip() {
        for bytes in [0, 1, 1023, 1024, 1025, 5 << 30, 3 << 40, 1_000_000] {
            assert_eq!(parse_bytes(&bytes_text(bytes)), Ok(bytes));
        }
        assert_eq!(Limit::Bytes(5 << 30).to_string(), "5GiB");
    }

    #[test]
    fn tables_show_three_digits() {
        let shown = [12, 49_152, 3_876_000_000, 200 << 20].map(human_bytes);
        assert_eq!(shown, ["12 B", "48.0 KiB", "3.61 GiB", "200 MiB"]);
    }
}

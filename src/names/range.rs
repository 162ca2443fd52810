//! Owns byte ranges (RFC 9110, section 14): what was asked, and what that means for a known size.
//! Must not know: headers, status codes.

/// What a `Range` header asks for, before the size is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeRequest {
    /// No header, another unit, several ranges, or a syntax that a server must ignore: the whole.
    Whole,
    /// `bytes=a-b` and `bytes=a-`; `b` is inclusive.
    From { first: u64, last: Option<u64> },
    /// `bytes=-n`: the last `n` bytes.
    Suffix(u64),
    /// `bytes=9-2`: answered with 416, as the conformance suite of the specification asks.
    Inverted,
}

/// A range inside a known size: `start..end`, half open, never empty unless the whole is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    pub start: u64,
    pub end: u64,
}

impl ByteRange {
    pub const fn len(self) -> u64 {
        self.end - self.start
    }

    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// The range lies outside the content: 416.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsatisfiable;

impl RangeRequest {
    /// Reads the value of a `Range` header. Several ranges are answered with the whole (legal, and simplest).
    pub fn parse(value: &str) -> Self {
        let Some(spec) = value.trim().strip_prefix("bytes=") else {
            return Self::Whole;
        };
        let Some((first, last)) = spec.trim().split_once('-') else {
            return Self::Whole;
        };
        match (number(first), number(last)) {
            (Number::Value(first), Number::Value(last)) if first > last => Self::Inverted,
            (Number::Value(first), Number::Value(last)) => Self::From { first, last: Some(last) },
            (Number::Value(first), Number::Absent) => Self::From { first, last: None },
            (Number::Absent, Number::Value(count)) => Self::Suffix(count),
            _ => Self::Whole,
        }
    }

    /// `None` where the whole is asked for.
    pub fn resolve(self, size: u64) -> Result<Option<ByteRange>, Unsatisfiable> {
        match self {
            Self::Whole => Ok(None),
            Self::Inverted => Err(Unsatisfiable),
            Self::From { first, .. } if first >= size => Err(Unsatisfiable),
            Self::From { first, last } => {
                let end = last.map_or(size, |last| last.saturating_add(1).min(size));
                Ok(Some(ByteRange { start: first, end }))
            }
            Self::Suffix(count) if count == 0 || size == 0 => Err(Unsatisfiable),
            Self::Suffix(count) => Ok(Some(ByteRange { start: size - count.min(size), end: size })),
        }
    }
}

enum Number {
    Absent,
    Value(u64),
    Junk,
}

/// Digits only; a number too large for `u64` is as good as the largest.
fn number(text: &str) -> Number {
    if text.is_empty() {
        Number::Absent
    } else if text.bytes().all(|byte| byte.is_ascii_digit()) {
        Number::Value(text.parse().unwrap_or(u64::MAX))
    } else {
        Number::Junk
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_mean_what_the_rfc_says() {
        let range = |start, end| Ok(Some(ByteRange { start, end }));
        let cases = [
            ("bytes=0-0", range(0, 1)),
            ("bytes=10-19", range(10, 20)),
            ("bytes=10-", range(10, 100)),
            ("bytes=90-1000", range(90, 100)),
            ("bytes=-10", range(90, 100)),
            ("bytes=-1000", range(0, 100)),
            ("bytes=0-18446744073709551615", range(0, 100)),
            ("bytes=0-99999999999999999999999", range(0, 100)),
            ("bytes=100-", Err(Unsatisfiable)),
            ("bytes=9-2", Err(Unsatisfiable)),
            ("bytes=-0", Err(Unsatisfiable)),
            ("bytes=0-1,5-6", Ok(None)),
            ("bytes=a-b", Ok(None)),
            ("items=0-1", Ok(None)),
            ("bytes=-", Ok(None)),
        ];
        for (header, expected) in cases {
            assert_eq!(RangeRequest::parse(header).resolve(100), expected, "{header}");
        }
    }
}

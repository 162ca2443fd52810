//! Owns durations as texts.
//! Must not know: what they limit.

use std::time::{Duration, UNIX_EPOCH};

/// No setting makes sense beyond ten years, and none overflows below it.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 3600);

/// The end of the year 9999: later moments have no text, and nothing lasts so long.
const LAST_MOMENT: u64 = 253_402_300_799_000;

const UNITS: [(&str, u64); 4] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];

/// Reads `60s`, `5m`, `1h 30m`, `7d`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let parsed = humantime::parse_duration(text)
        .map_err(|_| format!("`{text}` is not a duration: write \"60s\", \"5m\", \"12h\" or \"7d\""))?;
    if parsed > LONGEST {
        return Err(format!("`{text}` is longer than ten years"));
    }
    Ok(parsed)
}

/// The text that [`parse_duration`] reads back, in the largest unit that fits without a rest and
/// that there are at least two of: `60s` rather than `1m`.
pub fn duration_text(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    for (unit, size) in UNITS {
        if ms % size == 0 && ms / size >= 2 {
            return format!("{}{unit}", ms / size);
        }
    }
    if ms % 1000 == 0 { format!("{}s", ms / 1000) } else { format!("{ms}ms") }
}

/// A moment as people and programs read it: `2026-11-21T19:20:37Z`. From milliseconds since 1970.
pub fn time_text(millis: u64) -> String {
    let moment = UNIX_EPOCH + Duration::from_millis(millis.min(LAST_MOMENT));
    humantime::format_rfc3339_seconds(moment).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_round_trip() {
        for text in ["0s", "1s", "60s", "90s", "2m", "60m", "24h", "7d", "1500ms"] {
            let parsed = parse_duration(text).unwrap_or_default();
            assert_eq!(duration_text(parsed), text);
        }
        assert_eq!(parse_duration("1h 30m").map(duration_text).as_deref(), Ok("90m"));
    }

    #[test]
    fn what_is_no_duration_says_what_one_is() {
        for bad in ["60", "", "-1s", "soon", "5 parsecs"] {
            let error = parse_duration(bad).err().unwrap_or_default();
            assert!(error.contains("\"60s\""), "{bad}: {error}");
        }
        assert!(parse_duration("100years").is_err());
    }

    #[test]
    fn moments_are_written_for_people_and_programs() {
        assert_eq!(time_text(0), "1970-01-01T00:00:00Z");
        assert_eq!(time_text(1_795_288_837_999), "2026-11-21T19:20:37Z");
        assert_eq!(time_text(u64::MAX), "9999-12-31T23:59:59Z");
    }
}

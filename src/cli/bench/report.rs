//! Owns the figures of a herd, as a table and as JSON.
//! Must not know: how they were taken.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use binaryrepo::clock::UnixMillis;
use binaryrepo::text::human_bytes;
use serde_json::{Value, json};

use super::client::Visit;

/// Reasons that a table shows.
const REASONS: usize = 5;

/// What the server fetched while the herd ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upstream {
    pub gets: u64,
    pub bytes: u64,
}

#[derive(Debug)]
pub struct Report {
    url: String,
    clients: usize,
    began: UnixMillis,
    took: Duration,
    bytes: u64,
    /// Of those clients that got one, shortest first.
    first_bytes: Vec<Duration>,
    upstream: Option<Upstream>,
    ideal: Option<Duration>,
    failures: BTreeMap<String, usize>,
}

impl Report {
    /// `line` is what the upstream's line carries in a second.
    pub fn new(
        url: &str,
        visits: &[Visit],
        took: Duration,
        began: UnixMillis,
        upstream: Option<Upstream>,
        line: Option<u64>,
    ) -> Self {
        let mut first_bytes: Vec<Duration> = visits.iter().filter_map(|visit| visit.first_byte).collect();
        first_bytes.sort();
        let mut failures = BTreeMap::new();
        for why in visits.iter().filter_map(|visit| visit.failure.clone()) {
            *failures.entry(why).or_default() += 1;
        }
        // What has to come through the line at least once is what one client got.
        let once = visits.iter().map(|visit| visit.bytes).max().unwrap_or_default();
        Self {
            url: url.to_owned(),
            clients: visits.len(),
            began,
            took,
            bytes: visits.iter().map(|visit| visit.bytes).sum(),
            first_bytes,
            upstream,
            ideal: line.filter(|line| *line > 0).map(|line| ideal(once, line)),
            failures,
        }
    }

    pub fn failed(&self) -> usize {
        self.failures.values().sum()
    }

    pub fn to_json(&self) -> Value {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        json!({
            "url": self.url,
            "clients": self.clients,
            "right": self.clients - self.failed(),
            "failures": self.failures,
            "bytes": self.bytes,
            "upstream_gets": self.upstream.map(|upstream| upstream.gets),
            "upstream_bytes": self.upstream.map(|upstream| upstream.bytes),
            "first_byte_ms": self.first_bytes.iter().copied().map(millis).collect::<Vec<_>>(),
            "began_unix_ms": self.began.0,
            "took_ms": millis(self.took),
            "ideal_ms": self.ideal.map(millis),
        })
    }

    fn first_byte_text(&self) -> String {
        let all = &self.first_bytes;
        match (all.first(), all.get(all.len() / 2), all.last()) {
            (Some(first), Some(median), Some(last)) => {
                format!("{} first, {} median, {} last", shown(*first), shown(*median), shown(*last))
            }
            _ => "never".to_owned(),
        }
    }

    fn wall_text(&self) -> String {
        match self.ideal {
            Some(ideal) => {
                let times = self.took.as_secs_f64() / ideal.as_secs_f64().max(0.001);
                format!("{} ({times:.2} of the ideal, {})", shown(self.took), shown(ideal))
            }
            None => shown(self.took),
        }
    }
}

fn ideal(bytes: u64, line: u64) -> Duration {
    let millis = u128::from(bytes) * 1000 / u128::from(line);
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

fn shown(span: Duration) -> String {
    match span.as_millis() {
        millis @ ..1000 => format!("{millis} ms"),
        _ => format!("{:.2} s", span.as_secs_f64()),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} clients at once, {}", self.clients, self.url)?;
        let mut row = |name: &str, value: String| writeln!(f, "  {name:<15}{value}");
        row(
            "upstream GETs",
            match self.upstream {
                Some(upstream) => format!("{} ({})", upstream.gets, human_bytes(upstream.bytes)),
                None => "not known: the server shows no metrics here".to_owned(),
            },
        )?;
        row("to clients", human_bytes(self.bytes))?;
        row("first byte", self.first_byte_text())?;
        row("wall time", self.wall_text())?;
        row("digests right", format!("{} of {}", self.clients - self.failed(), self.clients))?;
        for (why, times) in self.failures.iter().take(REASONS) {
            writeln!(f, "  {times} failed: {why}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(first_byte: u64, failure: Option<&str>) -> Visit {
        Visit {
            bytes: 1 << 20,
            first_byte: Some(Duration::from_millis(first_byte)),
            failure: failure.map(str::to_owned),
            unreachable: None,
        }
    }

    fn report(visits: &[Visit], line: Option<u64>) -> Report {
        let upstream = Some(Upstream { gets: 1, bytes: 1 << 20 });
        Report::new("http://a/b:1", visits, Duration::from_millis(1030), UnixMillis(5), upstream, line)
    }

    #[test]
    fn a_table_tells_the_whole_story() {
        let visits = [visit(30, None), visit(10, None), visit(20, None)];
        let text = report(&visits, Some(1 << 20)).to_string();
        let expected = "\
3 clients at once, http://a/b:1
  upstream GETs  1 (1.00 MiB)
  to clients     3.00 MiB
  first byte     10 ms first, 20 ms median, 30 ms last
  wall time      1.03 s (1.03 of the ideal, 1.00 s)
  digests right  3 of 3
";
        assert_eq!(text, expected);
    }

    #[test]
    fn failures_are_counted_by_their_reason() {
        let report =
            report(&[visit(1, Some("answered 503")), visit(1, Some("answered 503")), visit(1, None)], None);
        assert_eq!(report.failed(), 2);
        let text = report.to_string();
        assert!(text.contains("digests right  1 of 3\n  2 failed: answered 503\n"), "{text}");
        let json = report.to_json();
        assert_eq!((&json["right"], &json["ideal_ms"]), (&json!(1), &Value::Null));
    }
}

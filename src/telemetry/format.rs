//! Owns how a log line looks to a person: `time LEVEL target: message name=value …`. Must not know: where lines go, what they are about.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Text without spans: this program has none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plain {
    pub colours: bool,
}

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        // In one piece: each step through `out` costs more than what is written.
        let mut line = Vec::with_capacity(USUAL_LENGTH);
        self.write(&mut line, event)?;
        out.write_str(str::from_utf8(&line).map_err(|_| fmt::Error)?)
    }
}

impl Plain {
    fn write(self, line: &mut Vec<u8>, event: &Event<'_>) -> fmt::Result {
        let about = event.metadata();
        head(line, self.colours, *about.level(), about.target());
        let mut fields = Fields { line, colours: self.colours, result: Ok(()) };
        event.record(&mut fields);
        fields.result.map_err(|_| fmt::Error)?;
        push(line, "\n");
        Ok(())
    }
}

/// What stands before the fields: `time LEVEL target:`.
#[inline]
pub(super) fn head(line: &mut Vec<u8>, colours: bool, level: Level, target: &str) {
    let paint = |line: &mut Vec<u8>, code: &'static str| {
        if colours {
            push(line, code);
        }
    };
    paint(line, DIM);
    stamp(line);
    paint(line, PLAIN);
    let (colour, word) = word_of(level);
    paint(line, colour);
    push(line, word);
    paint(line, PLAIN);
    paint(line, DIM);
    push(line, target);
    push(line, ":");
    paint(line, PLAIN);
}

/// The time of a line: `2026-11-22T04:30:00.123456Z`. The part down to the second is kept for the lines that follow.
#[expect(clippy::disallowed_methods, reason = "a line's stamp is read where the line is made")]
pub(super) fn stamp(line: &mut Vec<u8>) {
    thread_local! {
        static SECOND: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    SECOND.with_borrow_mut(|(second, text)| {
        if *second != now.as_secs() {
            *second = now.as_secs();
            let whole =
                humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(*second)).to_string();
            text.clear();
            text.push_str(whole.trim_end_matches('Z'));
        }
        push(line, text);
    });
    // Six digits: the point takes the place of the one before them.
    let at = line.len();
    push_number(line, 1_000_000 + u64::from(now.subsec_micros()));
    line[at] = b'.';
    push(line, "Z");
}

/// Of a line about a request; it grows where there is more.
const USUAL_LENGTH: usize = 512;

pub(super) const DIM: &str = "\x1b[2m";
pub(super) const PLAIN: &str = "\x1b[0m";

/// A level's colour and its word, in a column of their own.
fn word_of(level: Level) -> (&'static str, &'static str) {
    match level {
        Level::ERROR => ("\x1b[31m", " ERROR "),
        Level::WARN => ("\x1b[33m", "  WARN "),
        Level::INFO => ("\x1b[32m", "  INFO "),
        Level::DEBUG => ("\x1b[34m", " DEBUG "),
        Level::TRACE => ("\x1b[35m", " TRACE "),
    }
}

/// Writes the fields of one event, the message without its name.
struct Fields<'a> {
    line: &'a mut Vec<u8>,
    colours: bool,
    result: io::Result<()>,
}

impl Fields<'_> {
    fn name(&mut self, field: &Field) {
        if field.name() == "message" {
            return push(self.line, " ");
        }
        let parts: &[&str] = match self.colours {
            true => &[" ", DIM, field.name(), "=", PLAIN],
            false => &[" ", field.name(), "="],
        };
        parts.iter().for_each(|part| push(self.line, part));
    }

    fn write(&mut self, value: fmt::Arguments<'_>) {
        let written = self.line.write_fmt(value);
        if written.is_err() {
            self.result = written;
        }
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.name(field);
        self.write(format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.name(field);
        push_quoted(self.line, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.name(field);
        push_number(self.line, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.name(field);
        push(self.line, if value { "true" } else { "false" });
    }
}

/// A text as it is.
#[inline(always)]
pub(super) fn push(line: &mut Vec<u8>, text: &str) {
    line.extend_from_slice(text.as_bytes());
}

/// In quotes, so that it cannot look like another field.
#[inline]
pub(super) fn push_quoted(line: &mut Vec<u8>, text: &str) {
    if is_plain(text) {
        push(line, "\"");
        push(line, text);
        push(line, "\"");
    } else {
        // A Vec takes whatever is written to it.
        let _ = write!(line, "{text:?}");
    }
}

/// In decimal digits.
#[inline]
pub(super) fn push_number(line: &mut Vec<u8>, number: u64) {
    push(line, itoa::Buffer::new().format(number));
}

/// Whether a text stands in quotes as it is. All bytes are looked at, without a branch: that is what is fast.
pub(super) fn is_plain(text: &str) -> bool {
    let odd = |byte: u8| !matches!(byte, b' '..=b'~') | (byte == b'"') | (byte == b'\\');
    !text.bytes().fold(false, |seen, byte| seen | odd(byte))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Keeps what is logged.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(colours: bool, log: impl FnOnce()) -> String {
        let kept = Kept::default();
        let sink = kept.clone();
        let subscriber = tracing_subscriber::fmt()
            .event_format(Plain { colours })
            .with_writer(move || sink.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_line_is_made_of_time_level_target_message_and_fields() {
        let line = logged(false, || {
            tracing::info!(target: "access", status = 200_u16, path = %"/v2/", action = "blob.get", odd = "a \"b\"\n",
                gone = None::<&str>, aborted = Some(true), "a message");
        });
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok(), "{line}");
        let expected = " INFO access: a message status=200 path=/v2/ action=\"blob.get\" \
            odd=\"a \\\"b\\\"\\n\" aborted=true\n";
        assert_eq!(rest, expected);
    }

    #[test]
    fn numbers_are_written_whole() {
        for number in [0, 9, 10, 1_000, u64::MAX] {
            let mut line = Vec::new();
            push_number(&mut line, number);
            assert_eq!(line, number.to_string().as_bytes());
        }
    }

    #[test]
    fn colours_are_for_terminals() {
        let line = logged(true, || tracing::warn!(bytes = 1, "low"));
        assert!(
            line.contains("\u{1b}[33m  WARN \u{1b}[0m") && line.ends_with("low \u{1b}[2mbytes=\u{1b}[0m1\n"),
            "{line:?}"
        );
    }
}

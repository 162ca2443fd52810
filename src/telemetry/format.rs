//! Owns how a log line looks to a person: `time LEVEL target: message name=value …`. A server writes one for each
//! request, so this is short of work. Must not know: where lines go, what they are about.

use std::fmt;
use std::time::SystemTime;

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
        self.write(&mut out, event)
    }
}

impl Plain {
    #[expect(clippy::disallowed_methods, reason = "a line's stamp is read where the line is made")]
    fn write(self, out: &mut dyn fmt::Write, event: &Event<'_>) -> fmt::Result {
        let about = event.metadata();
        let paint = |code: &'static str| if self.colours { code } else { "" };
        out.write_str(paint(DIM))?;
        write!(out, "{}", humantime::format_rfc3339_micros(SystemTime::now()))?;
        out.write_str(paint(PLAIN))?;
        let (colour, word) = word_of(*about.level());
        for part in [paint(colour), word, paint(PLAIN), paint(DIM), about.target(), ":", paint(PLAIN)] {
            out.write_str(part)?;
        }
        let mut fields = Fields { out, colours: self.colours, result: Ok(()) };
        event.record(&mut fields);
        fields.result?;
        out.write_char('\n')
    }
}

const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

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
    out: &'a mut dyn fmt::Write,
    colours: bool,
    result: fmt::Result,
}

impl Fields<'_> {
    fn field(&mut self, field: &Field, value: impl FnOnce(&mut dyn fmt::Write) -> fmt::Result) {
        if self.result.is_ok() {
            self.result = self.name(field.name()).and_then(|()| value(self.out));
        }
    }

    fn name(&mut self, name: &str) -> fmt::Result {
        if name == "message" {
            return self.out.write_char(' ');
        }
        let parts = if self.colours { [" ", DIM, name, "=", PLAIN] } else { [" ", "", name, "=", ""] };
        parts.into_iter().try_for_each(|part| self.out.write_str(part))
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.field(field, |out| write!(out, "{value:?}"));
    }

    /// In quotes, so that it cannot look like another field.
    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, |out| match is_plain(value) {
            true => ["\"", value, "\""].into_iter().try_for_each(|part| out.write_str(part)),
            false => write!(out, "{value:?}"),
        });
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, |out| write!(out, "{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, |out| out.write_str(if value { "true" } else { "false" }));
    }
}

/// Whether a text stands in quotes as it is. All bytes are looked at, without a branch: that is what is fast.
fn is_plain(text: &str) -> bool {
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
    fn colours_are_for_terminals() {
        let line = logged(true, || tracing::warn!(bytes = 1, "low"));
        assert!(
            line.contains("\u{1b}[33m  WARN \u{1b}[0m") && line.ends_with("low \u{1b}[2mbytes=\u{1b}[0m1\n"),
            "{line:?}"
        );
    }
}

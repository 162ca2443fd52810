//! Owns the line that is written for each request: its fields, and how they look as text and as JSON. A busy server
//! writes little else, so a line is put together from its parts in one go, without the machinery of other events.
//! Must not know: where lines go, what a request is.

use std::cell::RefCell;
use std::fmt;
use std::io::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use super::LogFormat;
use super::format::{self, DIM, PLAIN, is_plain, push, push_number, push_quoted};

/// What a line says. Texts that a client chose are printable ASCII, cut; `action` to `cache` are names by their grammar,
/// without quotes or backslashes.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    pub request_id: &'a str,
    pub client: Client,
    pub method: &'a str,
    pub path: &'a str,
    pub status: u16,
    pub bytes: u64,
    pub duration_ms: u64,
    /// Until the first byte of the body; `None` where there was none.
    pub first_byte_ms: Option<u64>,
    pub action: Option<&'a str>,
    pub repository: Option<&'a str>,
    pub image: Option<&'a str>,
    pub reference: Option<&'a str>,
    pub cache: Option<&'a str>,
    /// Told only where it is so.
    pub aborted: bool,
    pub user: Option<&'a str>,
    pub user_agent: Option<&'a str>,
}

#[derive(Clone, Copy, Debug)]
pub enum Client {
    Address(IpAddr),
    /// It came another way.
    By(&'static str),
}

/// Takes lines about requests. Cheap to clone.
#[derive(Clone)]
pub struct AccessLog {
    form: Form,
    put: Arc<Put>,
}

/// Takes one line, which comes whole.
type Put = dyn Fn(&[u8]) + Send + Sync;

#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    Text { colours: bool },
    Json,
}

impl AccessLog {
    /// Gives each line, whole, to `put`.
    pub fn new(format: LogFormat, put: impl Fn(&[u8]) + Send + Sync + 'static) -> Self {
        Self::of(format.form(), put)
    }

    fn of(form: Form, put: impl Fn(&[u8]) + Send + Sync + 'static) -> Self {
        Self { form, put: Arc::new(put) }
    }

    pub fn write(&self, entry: &Entry<'_>) {
        thread_local! {
            /// A line's memory serves the next one too.
            static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            self.form.compose(line, entry);
            (self.put)(line);
        });
    }
}

impl Form {
    fn compose(self, line: &mut Vec<u8>, entry: &Entry<'_>) {
        match self {
            Self::Text { colours } => {
                format::head(line, colours, tracing::Level::INFO, TARGET);
                match colours {
                    false => entry.tell(&mut Text { line }),
                    true => entry.tell(&mut Coloured(Text { line })),
                }
                push(line, "\n");
            }
            Self::Json => {
                push(line, "{\"timestamp\":\"");
                format::stamp(line);
                push(line, "\",\"level\":\"INFO\"");
                entry.tell(&mut Json { line });
                push(line, ",\"target\":\"");
                push(line, TARGET);
                push(line, "\"}\n");
            }
        }
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").field("form", &self.form).finish_non_exhaustive()
    }
}

/// By which the log's level may name these lines.
pub(super) const TARGET: &str = "access";

impl Entry<'_> {
    fn tell(&self, fields: &mut impl Fields) {
        fields.word(name!("req_id"), self.request_id);
        match self.client {
            Client::Address(address) => fields.address(name!("client"), address),
            Client::By(way) => fields.word(name!("client"), way),
        }
        fields.word(name!("method"), self.method);
        fields.word(name!("path"), self.path);
        fields.number(name!("status"), self.status.into());
        fields.number(name!("bytes"), self.bytes);
        fields.number(name!("dur_ms"), self.duration_ms);
        if let Some(first_byte) = self.first_byte_ms {
            fields.number(name!("ttfb_ms"), first_byte);
        }
        fields.named(name!("action"), self.action);
        fields.named(name!("repository"), self.repository);
        fields.named(name!("image"), self.image);
        fields.named(name!("reference"), self.reference);
        fields.named(name!("cache"), self.cache);
        if self.aborted {
            fields.yes(name!("aborted"));
        }
        fields.quoted(name!("user"), self.user);
        fields.quoted(name!("user_agent"), self.user_agent);
    }
}

/// A field's name as it comes into a line, in each form.
struct Name {
    plain: &'static str,
    bare: &'static str,
    json: &'static str,
}

macro_rules! name {
    ($name:literal) => {
        Name { plain: concat!(" ", $name, "="), bare: $name, json: concat!(",\"", $name, "\":") }
    };
}
use name;

/// How a field is written. The names are constants: written where they are told, they cost a few moves each.
trait Fields {
    /// A text that needs no quotes to be told from what follows.
    fn word(&mut self, name: Name, value: &str);
    fn quoted(&mut self, name: Name, value: Option<&str>);
    /// In quotes as well; a name that needs to be looked at no more.
    fn named(&mut self, name: Name, value: Option<&str>);
    fn number(&mut self, name: Name, value: u64);
    fn address(&mut self, name: Name, value: IpAddr);
    fn yes(&mut self, name: Name);
}

struct Text<'a> {
    line: &'a mut Vec<u8>,
}

impl Fields for Text<'_> {
    #[inline(always)]
    fn word(&mut self, name: Name, value: &str) {
        push(self.line, name.plain);
        push(self.line, value);
    }

    #[inline(always)]
    fn quoted(&mut self, name: Name, value: Option<&str>) {
        if let Some(value) = value {
            push(self.line, name.plain);
            push_quoted(self.line, value);
        }
    }

    #[inline(always)]
    fn named(&mut self, name: Name, value: Option<&str>) {
        if let Some(value) = value {
            push(self.line, name.plain);
            push_in_quotes(self.line, value);
        }
    }

    #[inline(always)]
    fn number(&mut self, name: Name, value: u64) {
        push(self.line, name.plain);
        push_number(self.line, value);
    }

    #[inline(always)]
    fn address(&mut self, name: Name, value: IpAddr) {
        push(self.line, name.plain);
        push_address(self.line, value);
    }

    #[inline(always)]
    fn yes(&mut self, name: Name) {
        self.word(name, "true");
    }
}

/// The same on a terminal.
struct Coloured<'a>(Text<'a>);

impl Coloured<'_> {
    fn name(&mut self, name: Name) {
        for part in [" ", DIM, name.bare, "=", PLAIN] {
            push(self.0.line, part);
        }
    }
}

/// What is written between the colours of a name and the next field.
const UNNAMED: Name = Name { plain: "", bare: "", json: "" };

impl Fields for Coloured<'_> {
    fn word(&mut self, name: Name, value: &str) {
        self.name(name);
        self.0.word(UNNAMED, value);
    }

    fn quoted(&mut self, name: Name, value: Option<&str>) {
        if value.is_some() {
            self.name(name);
            self.0.quoted(UNNAMED, value);
        }
    }

    fn named(&mut self, name: Name, value: Option<&str>) {
        self.quoted(name, value);
    }

    fn number(&mut self, name: Name, value: u64) {
        self.name(name);
        self.0.number(UNNAMED, value);
    }

    fn address(&mut self, name: Name, value: IpAddr) {
        self.name(name);
        self.0.address(UNNAMED, value);
    }

    fn yes(&mut self, name: Name) {
        self.word(name, "true");
    }
}

struct Json<'a> {
    line: &'a mut Vec<u8>,
}

impl Fields for Json<'_> {
    fn word(&mut self, name: Name, value: &str) {
        self.quoted(name, Some(value));
    }

    fn quoted(&mut self, name: Name, value: Option<&str>) {
        let Some(value) = value else { return };
        push(self.line, name.json);
        if is_plain(value) {
            push_quoted(self.line, value);
        } else {
            // A Vec takes whatever is written to it.
            let _ = write!(self.line, "{}", serde_json::Value::from(value));
        }
    }

    fn named(&mut self, name: Name, value: Option<&str>) {
        if let Some(value) = value {
            push(self.line, name.json);
            push_in_quotes(self.line, value);
        }
    }

    fn number(&mut self, name: Name, value: u64) {
        push(self.line, name.json);
        push_number(self.line, value);
    }

    fn address(&mut self, name: Name, value: IpAddr) {
        push(self.line, name.json);
        push(self.line, "\"");
        push_address(self.line, value);
        push(self.line, "\"");
    }

    fn yes(&mut self, name: Name) {
        push(self.line, name.json);
        push(self.line, "true");
    }
}

fn push_in_quotes(line: &mut Vec<u8>, text: &str) {
    push(line, "\"");
    push(line, text);
    push(line, "\"");
}

fn push_address(line: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            let [first, rest @ ..] = address.octets();
            push_number(line, first.into());
            for octet in rest {
                push(line, ".");
                push_number(line, octet.into());
            }
        }
        // A Vec takes whatever is written to it.
        IpAddr::V6(address) => drop(write!(line, "{address}")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;
    use crate::telemetry::format::Plain;

    /// Keeps what is logged.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Kept {
        fn put(&self, line: &[u8]) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(line);
        }

        fn take(&self) -> String {
            let kept = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
            String::from_utf8(kept).expect("the log is text")
        }
    }

    impl std::io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.put(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Kept {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    const FULL: Entry<'static> = Entry {
        request_id: "0123abcd",
        client: Client::Address(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1))),
        method: "GET",
        path: "/v2/a\\xff/blobs/x",
        status: 206,
        bytes: u64::MAX,
        duration_ms: 0,
        first_byte_ms: Some(10),
        action: Some("blob.get"),
        repository: Some("docker-remote"),
        image: Some("library/redis"),
        reference: Some("sha256:00"),
        cache: Some("hit"),
        aborted: true,
        user: Some("ada"),
        user_agent: Some("odd \\\" agent"),
    };

    const SPARSE: Entry<'static> = Entry {
        client: Client::By("admin-socket"),
        first_byte_ms: None,
        action: None,
        repository: None,
        image: None,
        reference: None,
        cache: None,
        aborted: false,
        user: None,
        user_agent: None,
        ..FULL
    };

    /// As any other event is logged.
    fn event(entry: &Entry<'_>) {
        let client: String = match entry.client {
            Client::Address(address) => address.to_string(),
            Client::By(way) => way.to_owned(),
        };
        tracing::info!(target: "access", req_id = %entry.request_id, %client, method = %entry.method,
            path = %entry.path, status = entry.status, bytes = entry.bytes, dur_ms = entry.duration_ms,
            ttfb_ms = entry.first_byte_ms, action = entry.action, repository = entry.repository,
            image = entry.image, reference = entry.reference, cache = entry.cache,
            aborted = entry.aborted.then_some(true), user = entry.user, user_agent = entry.user_agent);
    }

    /// A line without its time.
    fn timeless(line: &str) -> String {
        let at = line.find("20").expect("a line has a time");
        let (before, time) = line.split_at(at);
        let end = time.find('Z').expect("UTC") + 1;
        assert!(humantime::parse_rfc3339(&time[..end]).is_ok(), "{line}");
        format!("{before}TIME{}", &time[end..])
    }

    #[test]
    fn a_line_looks_as_if_it_were_an_event_like_any_other() {
        let six = Entry { client: Client::Address("2001:db8::1".parse().expect("an address")), ..FULL };
        let kept = Kept::default();
        for form in [Form::Text { colours: false }, Form::Text { colours: true }, Form::Json] {
            let sink = kept.clone();
            let log = AccessLog::of(form, move |line| sink.put(line));
            for entry in [FULL, SPARSE, six] {
                let builder = tracing_subscriber::fmt().with_writer(kept.clone());
                match form {
                    Form::Text { colours } => {
                        let subscriber = builder.event_format(Plain { colours }).finish();
                        tracing::subscriber::with_default(subscriber, || event(&entry));
                    }
                    Form::Json => {
                        let subscriber = builder.json().flatten_event(true).with_current_span(false).finish();
                        tracing::subscriber::with_default(subscriber, || event(&entry));
                    }
                }
                let expected = timeless(&kept.take());
                log.write(&entry);
                assert_eq!(timeless(&kept.take()), expected);
            }
        }
    }
}

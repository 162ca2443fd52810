//! Owns how `check-config` shows what is in force: a file that could be used as it is, with the origin of
//! each value. Must not know: how a value was read.

use std::fmt::{self, Write as _};

use serde_json::{Value, json};

use super::{Config, Storage};
use crate::form::{FIELDS, Shown};
use crate::text::{bytes_text, duration_text, url_text};

impl Config {
    /// The settings in force, as TOML, without secrets.
    pub fn effective(&self) -> String {
        let mut out = String::new();
        self.write(&mut out).expect("a String takes whatever is written to it");
        out
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        let server = &self.server;
        self.section(
            out,
            "server",
            &[
                ("listen", json!(server.listen.to_string())),
                ("public_url", json!(server.public_url.as_ref().map(url_text))),
                ("base_domains", json!(server.base_domains)),
                ("trusted_proxies", server.trusted_proxies.iter().map(ToString::to_string).collect()),
                ("max_connections", json!(server.max_connections)),
                ("idle_timeout", json!(duration_text(server.idle_timeout))),
                ("header_timeout", json!(duration_text(server.header_timeout))),
                ("body_timeout", json!(duration_text(server.body_timeout))),
                ("write_timeout", json!(duration_text(server.write_timeout))),
                ("shutdown_grace", json!(duration_text(server.shutdown_grace))),
                ("open_access", json!(server.open_access)),
                ("api_hosts", json!(server.api_hosts)),
            ],
        )?;
        let storage = &self.storage;
        self.section(
            out,
            "storage",
            &[
                ("path", json!(storage.path.display().to_string())),
                ("max_size", json!(storage.max_size.to_string())),
                ("min_free", json!(storage.min_free.map(bytes_text))),
                ("document_cap", json!(bytes_text(storage.document_cap))),
                ("gc_grace", json!(duration_text(storage.gc_grace))),
                ("gc_untagged", json!(storage.gc_untagged)),
                ("snapshots", json!(duration_text(storage.snapshots))),
            ],
        )?;
        let log = [("format", json!(self.log.format.as_str())), ("level", json!(self.log.level))];
        self.section(out, "log", &log)?;
        for entry in &self.repositories {
            writeln!(out, "[[repository]]")?;
            let shown = serde_json::to_value(Shown::new(&entry.name, entry.spec.clone())).unwrap_or_default();
            for key in FIELDS {
                if let Some(value) = shown.get(key) {
                    writeln!(out, "{key} = {value}")?;
                }
            }
            if shown.get("password_set") == Some(&Value::Bool(true)) {
                writeln!(out, "# password = [redacted]")?;
            }
            writeln!(out)?;
        }
        Ok(())
    }

    fn section(&self, out: &mut String, name: &str, values: &[(&str, Value)]) -> fmt::Result {
        writeln!(out, "[{name}]")?;
        let width = 44;
        for (key, value) in values {
            let origin = self.origin(&format!("{name}.{key}")).unwrap_or("default");
            let line = match (*key, value) {
                // The one default that depends on the machine.
                ("min_free", Value::Null) => {
                    format!("# min_free = the smaller of {} and 5%", bytes_text(Storage::MIN_FREE))
                }
                (_, Value::Null) => format!("# {key} is not set"),
                _ => format!("{key} = {value}"),
            };
            writeln!(out, "{line:width$} # {origin}")?;
        }
        writeln!(out)
    }
}

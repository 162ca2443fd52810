//! Owns what no single setting shows: which values do not go together, and which are likely a mistake.
//! Must not know: where a value came from.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::{Config, ConfigError};
use crate::engine::{ErrorKind, RemoteSpec, RepositorySpec, Taken};
use crate::names::RepositoryName;

/// Longest path of a Unix socket that Linux takes, without the closing zero.
const MAX_SOCKET_PATH: usize = 107;

/// Something that works, but hardly as it was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub message: String,
    pub hint: String,
}

impl Warning {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }
}

impl Config {
    /// What makes the configuration unusable for any command.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if let Some(url) = self.server.public_url.as_ref().filter(|url| url.path() != "/") {
            return Err(ConfigError::new(format!("public_url = \"{url}\" has a path")).with_hint(
                "say the scheme and the host alone; a proxy tells its path by X-Forwarded-Prefix",
            ));
        }
        let mut before: Vec<Taken> = Vec::new();
        for entry in &self.repositories {
            if let RepositorySpec::Remote(spec) = &entry.spec
                && let Some((other, setting)) =
                    before.iter().find_map(|other| Some((&other.name, other.keeps_from(spec)?)))
            {
                let (value, hint) = match &spec.upstream_namespace {
                    Some(namespace) if setting == "upstream_namespace" => {
                        (format!("\"{namespace}\""), "containerd's ?ns= can choose one only")
                    }
                    _ => ("true".to_owned(), "requests that name no repository can go to one only"),
                };
                let why = format!("both {other} and {} have {setting} = {value}", entry.name);
                return Err(self.about(&entry.name, why).with_hint(hint));
            }
            before.push(Taken::of(&entry.name, &entry.spec));
        }
        Ok(())
    }

    /// What keeps a start from making the repositories that are not `there` yet. One that is there stays as it is,
    /// whatever its entry says.
    pub fn check_repositories(&self, there: &[Taken]) -> Result<(), ConfigError> {
        for entry in &self.repositories {
            let name = &entry.name;
            if there.iter().any(|other| other.name == *name) {
                continue;
            }
            if let RepositorySpec::Remote(spec) = &entry.spec
                && let Some((owner, setting)) =
                    there.iter().find_map(|other| Some((&other.name, other.keeps_from(spec)?)))
            {
                let why = format!("{name}: {owner} is there and has {setting}, and only one repository can");
                return Err(self.about(name, why).with_hint(format!(
                    "leave it out here, or take it from the other first: binaryrepo repo update {owner} --reset {setting}"
                )));
            }
            // With the files that it names.
            if let Err(error) = entry.spec.check() {
                let why = match &error.kind {
                    ErrorKind::Invalid { field } => format!("{name}: {field}: {error}"),
                    _ => format!("{name}: {error}"),
                };
                return Err(self.about(name, why));
            }
        }
        Ok(())
    }

    fn about(&self, name: &RepositoryName, message: String) -> ConfigError {
        ConfigError::new(message).with_place(self.places.get(name))
    }

    /// What makes it unusable for a server. Commands that only talk to one do not mind. `users` is whether
    /// somebody can log in.
    pub fn check_serving(&self, users: bool) -> Result<(), ConfigError> {
        if self.server.lets_strangers_in() || users || self.first_admin.is_some() {
            return Ok(());
        }
        let listen = self.server.listen;
        let open = if listen.ip().is_loopback() {
            format!(
                "listening on {listen} behind a proxy (trusted_proxies) lets everyone who reaches the proxy"
            )
        } else {
            format!("listening on {listen} lets everyone who reaches this address")
        };
        Err(ConfigError::new(format!("{open} pull, and there are no users to ask for"))
        .with_hint(
            "make a user with `binaryrepo user add --admin NAME`, or at the start with --admin-user and \
             --admin-password-file; if everyone may pull, say so with --open-access (or open_access = true under \
             [server])",
        ))
    }

    /// What a look at the whole makes one wonder about.
    pub fn warnings(&self) -> Vec<Warning> {
        let mut found = Vec::new();
        self.warn_of_server(&mut found);
        self.warn_of_file(&mut found);
        for (name, spec) in self.remotes() {
            self.warn_of_remote(name, spec, &mut found);
        }
        found
    }

    /// What only matters where somebody can log in.
    pub fn warning_with_users(&self) -> Warning {
        let base = self.base_domain();
        Warning::new(
            "there are users, so `GET /v2/` asks for a log-in: a dockerd that mirrors through the plain address sends \
             its user's Docker Hub password here",
            format!(
                "give dockerd the host form as its registry-mirror, http://REPOSITORY.{base}:{}, of a remote that \
                 everybody may read (anonymous_pull)",
                self.server.listen.port()
            ),
        )
    }

    fn base_domain(&self) -> &str {
        self.server.base_domains.first().map_or("BASE-DOMAIN", String::as_str)
    }

    fn remotes(&self) -> impl Iterator<Item = (&RepositoryName, &RemoteSpec)> {
        self.repositories.iter().filter_map(|entry| match &entry.spec {
            RepositorySpec::Remote(spec) => Some((&entry.name, spec.as_ref())),
            RepositorySpec::Local(_) => None,
        })
    }

    fn warn_of_server(&self, found: &mut Vec<Warning>) {
        let server = &self.server;
        if let Some(all) = server.trusted_proxies.iter().find(|net| net.prefix_len() == 0) {
            found.push(Warning::new(
                format!("trusted_proxies has {all}: anyone may claim any address with X-Forwarded-For"),
                "name the proxy's own address or network",
            ));
        }
        if !server.trusted_proxies.is_empty() && server.idle_timeout <= Duration::from_secs(60) {
            found.push(Warning::new(
                "idle_timeout is not above nginx's 60 s: a proxy may use a connection just as it closes",
                "idle_timeout = \"75s\"",
            ));
        }
        if server.open_access && server.listen.ip().is_loopback() && server.trusted_proxies.is_empty() {
            found.push(Warning::new(
                "open_access changes nothing while only this machine is listened to and there are no users",
                "leave it out, or listen on another address",
            ));
        }
        let socket = self.storage.socket();
        if socket.as_os_str().len() > MAX_SOCKET_PATH {
            found.push(Warning::new(
                format!(
                    "{} is too long for a socket: commands cannot reach the running server",
                    socket.display()
                ),
                "use a shorter storage.path, or --server and --token with each command",
            ));
        }
    }

    fn warn_of_file(&self, found: &mut Vec<Warning>) {
        let Some(path) = &self.file else { return };
        let has_password = self.remotes().any(|(_, spec)| spec.password.is_some());
        let readable = std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0);
        if has_password && readable {
            let path = path.display();
            found.push(Warning::new(
                format!("{path} may be read by other users, and passwords come with it"),
                format!("chmod 600 {path}, or keep the password in a password_file"),
            ));
        }
    }

    fn warn_of_remote(&self, name: &RepositoryName, spec: &RemoteSpec, found: &mut Vec<Warning>) {
        let credentials = spec.username.is_some();
        let beyond = !self.server.listen.ip().is_loopback();
        if spec.default_mirror && credentials && !spec.anonymous_pull {
            found.push(Warning::new(
                format!("{name} is the default mirror and has credentials: dockerd sends none to a mirror, so only this machine may pull through it"),
                format!("anonymous_pull = true lets everyone use the credentials of {name}; or give dockerd the host form, http://{name}.<base domain>"),
            ));
        }
        if credentials && spec.anonymous_pull && beyond {
            found.push(Warning::new(
                format!("{name}: everyone who reaches {} pulls with its credentials", self.server.listen),
                "leave out anonymous_pull unless all that they may read is public",
            ));
        }
        if credentials && spec.remote_url.scheme() == "http" {
            found.push(Warning::new(
                format!("{name}: the password goes over the network in the clear"),
                "use an https:// remote_url",
            ));
        }
        for (field, file) in [("password_file", &spec.password_file), ("ca_file", &spec.ca_file)] {
            if let Some(path) = file.as_ref().filter(|path| !path.exists()) {
                found.push(Warning::new(
                    format!("{name}: {field} {} is not there", path.display()),
                    "make it before the server starts",
                ));
            }
        }
    }
}

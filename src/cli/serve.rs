//! Owns `serve`: runtime, log, signals, and the lines that greet a person.
//! Must not know: what a server is made of.

use std::fmt::Write as _;

use binaryrepo::config::Config;
use binaryrepo::telemetry::{self, LogFormat};
use binaryrepo::text::human_bytes;
use binaryrepo::{Started, StartedRepository};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::error::{CliError, Exit};
use super::output;
use super::settings::{Place, SettingFlags};

/// Files that one connection may hold open: itself, a cached blob, a socket to an upstream, a draft.
const FILES_PER_CONNECTION: u64 = 4;

pub fn run(place: &Place, flags: &SettingFlags) -> Result<(), CliError> {
    let config = flags.load(place)?;
    let _log = telemetry::init_server(config.log.format, &config.log.level)
        .map_err(|error| CliError::failed("the log cannot be set up").with_cause(error))?;
    for warning in config.warnings() {
        tracing::warn!(hint = warning.hint, "{}", warning.message);
    }
    raise_file_limit(config.server.max_connections);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::failed("the threads cannot be started").with_cause(error))?;
    let result = runtime.block_on(serve(config));
    // After a second signal nothing is waited for; otherwise everything has ended already.
    runtime.shutdown_background();
    result
}

/// The first signal drains, the second ends at once.
async fn serve(config: Config) -> Result<(), CliError> {
    let mut signals = Signals::new()?;
    let shutdown = CancellationToken::new();
    let json = config.log.format == LogFormat::Json;
    let serving = binaryrepo::serve(config, shutdown.clone(), |started| greet(started, json));
    tokio::pin!(serving);
    let name = tokio::select! {
        result = &mut serving => return Ok(result?),
        name = signals.next() => name,
    };
    tracing::info!("{name}: answers under way are finished; a second signal ends at once");
    notify(&[NotifyState::Stopping]);
    shutdown.cancel();
    tokio::select! {
        result = &mut serving => Ok(result?),
        name = signals.next() => {
            Err(CliError::new(Exit::Killed, format!("{name} again: ended before all answers were")))
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, CliError> {
        let listen = |kind| {
            signal(kind).map_err(|error| CliError::failed("signals cannot be received").with_cause(error))
        };
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Tells whoever waits for the server: a person or a log, and systemd.
fn greet(started: &Started, json: bool) {
    notify(&[NotifyState::Ready]);
    if json {
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            address = %started.address,
            data_dir = %started.data_dir.display(),
            repositories = started.repositories.len(),
            "ready"
        );
        return;
    }
    // A server goes on without a reader of its greeting.
    let _ = output::text_block(&banner(started));
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd was not told");
    }
}

/// What a person wants to know of a server that has just started.
pub fn banner(started: &Started) -> String {
    let mut text =
        format!("binaryrepo {} ready in {} ms\n", env!("CARGO_PKG_VERSION"), started.took.as_millis());
    let mut row = |name: &str, value: std::fmt::Arguments<'_>| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "  {name:<9}{value}");
    };
    let new = if started.created { "new; " } else { "" };
    let (free, limit) = (human_bytes(started.free_bytes), human_bytes(started.limit_bytes));
    row("data", format_args!("{} ({new}{free} free, cache up to {limit})", started.data_dir.display()));
    if let Some(upgraded) = &started.upgraded {
        let (from, to) = (upgraded.from, upgraded.to);
        row("upgraded", format_args!("from schema {from} to {to}, which older versions refuse"));
        row("", format_args!("the metadata as it was is kept in {}", upgraded.kept.display()));
    }
    row("listen", format_args!("http://{}", started.address));
    for repository in &started.repositories {
        match &repository.upstream {
            Some(upstream) => row("remote", format_args!("{} -> {upstream}", repository.name)),
            None => row("local", format_args!("{}", repository.name)),
        }
    }
    match &started.token_file {
        Some(file) => {
            row("admin", format_args!("token in {}; `binaryrepo token show` prints it", file.display()))
        }
        None => row("admin", format_args!("token from BINARYREPO_ADMIN_TOKEN")),
    }
    text.push_str(&try_it(started));
    text
}

fn try_it(started: &Started) -> String {
    let ip = started.address.ip();
    let local = ip.is_loopback() || ip.is_unspecified();
    let host =
        if local { format!("localhost:{}", started.address.port()) } else { started.address.to_string() };
    let remotes = || started.repositories.iter().filter(|one| one.upstream.is_some());
    let is_hub =
        |one: &&StartedRepository| one.upstream.as_ref().is_some_and(|url| url.contains("docker.io"));
    let log_in = if started.users { format!("docker login {host} && ") } else { String::new() };
    match remotes().find(is_hub).or_else(|| remotes().next()) {
        Some(remote) if is_hub(&remote) => {
            format!("try it:  {log_in}docker pull {host}/{}/alpine\n", remote.name)
        }
        Some(remote) => format!("try it:  {log_in}docker pull {host}/{}/IMAGE\n", remote.name),
        None => "try it:  binaryrepo repo add docker-remote https://registry-1.docker.io\n".to_owned(),
    }
}

/// Takes what the system allows, and says so where that is not enough.
fn raise_file_limit(max_connections: usize) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
    let wanted = u64::try_from(max_connections).unwrap_or(u64::MAX).saturating_mul(FILES_PER_CONNECTION);
    if let Some(files) = getrlimit(Resource::Nofile).current.filter(|files| *files < wanted) {
        tracing::warn!(
            files,
            wanted,
            hint = "ulimit -n, or LimitNOFILE= of the systemd unit, or a smaller max_connections",
            "fewer files may be open than max_connections connections can need"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use binaryrepo::{Started, StartedRepository, Upgraded};

    use super::banner;

    fn started(address: &str, repositories: &[(&str, Option<&str>)]) -> Started {
        let repository = |(name, upstream): &(&str, Option<&str>)| StartedRepository {
            name: name.parse().expect("a legal name"),
            upstream: upstream.map(str::to_owned),
        };
        Started {
            address: address.parse().expect("an address"),
            data_dir: PathBuf::from("/data"),
            created: true,
            upgraded: None,
            free_bytes: 812 << 30,
            limit_bytes: 650 << 30,
            repositories: repositories.iter().map(repository).collect(),
            users: false,
            token_file: Some(PathBuf::from("/data/admin.token")),
            took: Duration::from_millis(41),
        }
    }

    #[test]
    fn the_greeting_says_where_everything_is_and_what_to_try() {
        let hub = ("docker-remote", Some("https://registry-1.docker.io"));
        let text = banner(&started("127.0.0.1:8081", &[("docker-local", None), hub]));
        let expected = format!(
            "\
binaryrepo {} ready in 41 ms
  data     /data (new; 812 GiB free, cache up to 650 GiB)
  listen   http://127.0.0.1:8081
  local    docker-local
  remote   docker-remote -> https://registry-1.docker.io
  admin    token in /data/admin.token; `binaryrepo token show` prints it
try it:  docker pull localhost:8081/docker-remote/alpine
",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn an_upgrade_is_told_with_the_way_back() {
        let mut upgraded = started("127.0.0.1:8081", &[]);
        let kept = PathBuf::from("/data/meta.redb.schema-1");
        (upgraded.created, upgraded.upgraded) = (false, Some(Upgraded { from: 1, to: 2, kept }));
        let text = banner(&upgraded);
        let expected = "\
  data     /data (812 GiB free, cache up to 650 GiB)
  upgraded from schema 1 to 2, which older versions refuse
           the metadata as it was is kept in /data/meta.redb.schema-1
";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn what_to_try_fits_what_there_is() {
        let other = banner(&started("10.1.2.3:80", &[("quay", Some("https://quay.io"))]));
        assert!(other.ends_with("try it:  docker pull 10.1.2.3:80/quay/IMAGE\n"), "{other}");
        let mut with_users = started("127.0.0.1:80", &[("quay", Some("https://quay.io"))]);
        with_users.users = true;
        let expected = "try it:  docker login localhost:80 && docker pull localhost:80/quay/IMAGE\n";
        assert!(banner(&with_users).ends_with(expected));
        let none = banner(&started("[::]:8081", &[]));
        assert!(none.contains("repo add docker-remote"), "{none}");
    }
}

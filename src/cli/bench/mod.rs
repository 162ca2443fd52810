//! Owns `bench herd`: so many clients at once that want the same, and a table of how they fared.
//! Must not know: how one client pulls, and what is shown of the figures.

mod client;
mod meter;
mod report;
mod target;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use binaryrepo::clock::Clock;
use binaryrepo::text::parse_bytes;
use tokio::task::JoinSet;

use self::client::{Visit, Way};
use self::report::{Report, Upstream};
use self::target::Target;
use super::error::{CliError, Exit};
use super::output;
use super::wire::causes;

const EXAMPLES: &str = "\
Examples:
  binaryrepo bench herd http://localhost:8081/docker-remote/redis:7
  binaryrepo bench herd http://localhost:8081/v2/docker-remote/redis/blobs/sha256:9f86d081...
  binaryrepo bench herd --clients 20 --line 16MiB http://localhost:8081/docker-remote/redis:7

Each client has a connection of its own, keeps nothing, and hashes all that it gets. For a cold herd
choose what is not cached yet, or `binaryrepo purge` it. Exits 0 only if every client got every byte
right.";

/// Nobody's registry is to be brought down with this.
const MOST_CLIENTS: i64 = 200;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Pull one image or blob with many clients at once
    Herd(Args),
}

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// http://HOST[:PORT]/REPOSITORY/IMAGE[:TAG|@DIGEST], or the whole path of a blob or manifest
    #[arg(value_name = "URL")]
    url: String,

    /// How many clients, 200 at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=MOST_CLIENTS))]
    clients: u16,

    /// What the upstream's line carries in a second, to show the ideal time beside
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    line: Option<u64>,

    /// For a registry on another machine: only ever load your own
    #[arg(long)]
    i_own_this_registry: bool,

    /// As JSON
    #[arg(long)]
    json: bool,
}

pub fn run(command: &Command) -> Result<(), CliError> {
    let Command::Herd(args) = command;
    let target: Target = args.url.parse().map_err(|why| {
        CliError::usage(format!("`{}`: {why}", args.url))
            .with_hint("write http://localhost:8081/docker-remote/redis:7")
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::failed("the threads cannot be started").with_cause(error))?;
    let report = runtime.block_on(herd(args, Arc::new(target)))?;
    match args.json {
        true => output::json(&report.to_json())?,
        false => output::text_block(&report.to_string())?,
    }
    match report.failed() {
        0 => Ok(()),
        failed => Err(CliError::failed(format!("{failed} of {} clients were not served", args.clients))),
    }
}

/// Sends the clients and waits for all of them.
async fn herd(args: &Args, target: Arc<Target>) -> Result<Report, CliError> {
    let address = resolve(&target, args.i_own_this_registry).await?;
    let way = Way::new(&target, address)
        .map_err(|error| CliError::failed("the system's certificates cannot be read").with_cause(error))?;
    let clock = Clock::new();
    let before = meter::read(&way, &target).await;
    let began = clock.now();
    let began_unix = clock.wall();
    let mut clients = JoinSet::new();
    for _ in 0..args.clients {
        let (way, target, clock) = (way.clone(), Arc::clone(&target), clock.clone());
        clients.spawn(async move { client::visit(&way, &target, &clock).await });
    }
    let visits: Vec<Visit> = clients.join_all().await;
    let took = clock.now().since(began);
    let after = meter::read(&way, &target).await;
    if visits.iter().all(|visit| visit.unreachable.is_some()) {
        let error = CliError::new(Exit::Unreachable, format!("{} does not answer", target.authority));
        let cause = visits.iter().find_map(|visit| visit.unreachable.as_ref());
        return Err(error.with_cause(cause.map(causes).unwrap_or_default()));
    }
    let upstream = before.zip(after).map(|(before, after)| Upstream {
        gets: after.gets.saturating_sub(before.gets),
        bytes: after.bytes.saturating_sub(before.bytes),
    });
    Ok(Report::new(&args.url, &visits, took, began_unix, upstream, args.line))
}

/// The address to connect to: this machine's, unless the user answers for another.
async fn resolve(target: &Target, owned: bool) -> Result<SocketAddr, CliError> {
    let known = tokio::net::lookup_host((target.host.as_str(), target.port)).await;
    let mut known = known.map_err(|error| {
        CliError::new(Exit::Unreachable, format!("{} has no address", target.host)).with_cause(error)
    })?;
    let address = known
        .next()
        .ok_or_else(|| CliError::new(Exit::Unreachable, format!("{} has no address", target.host)))?;
    let is_here = |ip: IpAddr| ip.to_canonical().is_loopback();
    if owned || is_here(address.ip()) {
        return Ok(address);
    }
    Err(CliError::usage(format!("{} is not on this machine", target.authority))
        .with_hint("a herd is heavy: only if the registry is yours, say so with --i-own-this-registry"))
}

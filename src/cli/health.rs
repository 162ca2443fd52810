//! Owns `healthcheck`: one GET, for containers whose image holds nothing else that could ask.
//! Must not know: what being well means.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use binaryrepo::text::parse_duration;
use bytes::Bytes;
use http::Request;
use http::header::{CONNECTION, HOST};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::error::CliError;
use super::output;
use super::settings::Place;
use super::wire::{causes, exchange, within};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  HEALTHCHECK CMD [\"binaryrepo\", \"healthcheck\"]
  binaryrepo healthcheck --listen 127.0.0.1:5000

Exits 0 where GET /healthz answers 200, else 1.")]
pub struct Args {
    /// Where the server listens, if the configuration does not say
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,

    /// How long it may take, 5m at most; a bare number is seconds
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_patience)]
    timeout: Duration,
}

const LONGEST: Duration = Duration::from_secs(300);

fn parse_patience(text: &str) -> Result<Duration, String> {
    let patience = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => parse_duration(text)?,
    };
    match patience {
        Duration::ZERO => Err("nothing is done in no time: write \"5s\"".to_owned()),
        patience if patience > LONGEST => Err("is more than five minutes".to_owned()),
        patience => Ok(patience),
    }
}

pub fn run(place: &Place, args: &Args) -> Result<(), CliError> {
    let listen = match args.listen {
        Some(listen) => listen,
        None => place.load()?.server.listen,
    };
    let address = reachable(listen);
    let ill =
        |cause: String| CliError::failed(format!("http://{address}/healthz is not well")).with_cause(cause);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ill(error.to_string()))?;
    let request = Request::get("/healthz")
        .header(HOST, address.to_string())
        .header(CONNECTION, "close")
        .body(Full::new(Bytes::new()))
        .map_err(|error| ill(error.to_string()))?;
    let work = async {
        let stream = TcpStream::connect(address).await?;
        exchange(TokioIo::new(stream), request).await
    };
    let (status, _) = runtime.block_on(within(args.timeout, work)).map_err(|error| ill(causes(&error)))?;
    if !status.is_success() {
        return Err(ill(format!("it answered {status}")));
    }
    output::line(format_args!("ok"))
}

/// A server that listens on every address is asked on loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

//! Owns how a command reaches the management API: a server named by URL, the one that runs on this data
//! directory, or, while none runs, the engine itself. All three take the same requests.
//! Must not know: what is asked.

use std::io;
use std::path::{Path, PathBuf};

use binaryrepo::Inside;
use binaryrepo::api::{self, ApiRequest};
use binaryrepo::config::Config;
use binaryrepo::engine::{Engine, Principal, Taken};
use binaryrepo::reply::Content;
use binaryrepo::telemetry::{self, LogFormat};
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::Full;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tower_service::Service;

use super::error::{CliError, Exit};
use super::fields::{flag, rows, text};
use super::settings::Place;
use super::wire::{Broken, CONNECT, causes, exchange, within};

/// Which server a command means.
#[derive(Debug, Default, clap::Args)]
pub struct Target {
    /// URL of a server elsewhere; otherwise the data directory tells
    #[arg(long, value_name = "URL", env = "BINARYREPO_URL")]
    server: Option<Uri>,

    /// The administrator's token, for --server
    #[arg(long, value_name = "TOKEN", env = "BINARYREPO_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

/// How a command answers, and which server it means.
#[derive(Debug, clap::Args)]
pub struct Output {
    /// As JSON
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub target: Target,
}

impl Target {
    /// Whether paths mean another machine's files.
    pub fn is_elsewhere(&self) -> bool {
        self.server.is_some()
    }
}

/// Answers management requests.
pub enum Connection {
    Server { url: Uri, token: Option<HeaderValue> },
    Socket(PathBuf),
    Offline(Engine),
}

/// Runs a command that talks to the API.
pub fn run<F>(place: &Place, target: &Target, command: impl FnOnce(Connection) -> F) -> Result<(), CliError>
where
    F: Future<Output = Result<(), CliError>>,
{
    runtime()?.block_on(async {
        let connection = connect(place, target).await?;
        let engine = match &connection {
            Connection::Offline(engine) => Some(engine.clone()),
            Connection::Server { .. } | Connection::Socket(_) => None,
        };
        let result = command(connection).await;
        if let Some(engine) = engine {
            engine.shutdown().await;
        }
        result
    })
}

pub fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| CliError::failed("the command cannot be run").with_cause(error))
}

/// Asks the server on the data directory, or looks into the data where none runs, and changes nothing there.
pub fn inside(config: &Config) -> Result<Inside, CliError> {
    runtime()?.block_on(async {
        let server = Connection::Socket(config.storage.socket());
        if UnixStream::connect(config.storage.socket()).await.is_err() {
            return Ok(binaryrepo::inside(config)?);
        }
        let any = async |what: &str| -> Result<bool, CliError> {
            Ok(!rows(&server.get(&format!("/api/{what}")).await?, what).is_empty())
        };
        let users = any("users").await? || any("tokens").await?;
        let listed = server.get("/api/repository").await?;
        let taken = |row: &Value| {
            let namespace = row.get("upstream_namespace").and_then(Value::as_str).map(str::to_owned);
            let name = text(row, "name").parse().ok()?;
            Some(Taken { name, upstream_namespace: namespace, default_mirror: flag(row, "default_mirror") })
        };
        Ok(Inside { users, repositories: rows(&listed, "repositories").iter().filter_map(taken).collect() })
    })
}

/// The way to the API.
async fn connect(place: &Place, target: &Target) -> Result<Connection, CliError> {
    if let Some(url) = &target.server {
        return to_server(url.clone(), target.token.as_deref());
    }
    let config = place.load()?;
    let socket = config.storage.socket();
    match UnixStream::connect(&socket).await {
        Ok(_) => Ok(Connection::Socket(socket)),
        // No socket, or one that a killed server left behind, or a path where none can be: if somebody works on
        // the data all the same, opening it will tell.
        Err(error) if nobody_listens(&error) => {
            // Only what goes wrong is of interest beside a command's answer.
            telemetry::init(LogFormat::Auto, "warn")
                .map_err(|error| CliError::failed("the log cannot be set up").with_cause(error))?;
            Ok(Connection::Offline(binaryrepo::offline(&config).await?))
        }
        Err(error) => Err(unreachable(&socket.display().to_string(), &error.into())
            .with_hint("run the command as the user that the server runs as, or use --server and --token")),
    }
}

fn nobody_listens(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::InvalidInput
    )
}

fn to_server(url: Uri, token: Option<&str>) -> Result<Connection, CliError> {
    let known_scheme = matches!(url.scheme_str(), Some("http" | "https"));
    if !known_scheme || url.host().is_none() {
        return Err(CliError::usage(format!("`{url}` is no URL of a server"))
            .with_hint("write http://127.0.0.1:8081 or https://api.example.com"));
    }
    if url.path() != "/" || url.query().is_some() {
        return Err(
            CliError::usage("the URL of a server has no path").with_hint("write https://api.example.com")
        );
    }
    let token = token.map(|token| {
        HeaderValue::from_str(&format!("Bearer {}", token.trim()))
            .map_err(|_| CliError::usage("the token has characters that no token has"))
    });
    let mut token = token.transpose()?;
    if let Some(value) = &mut token {
        value.set_sensitive(true);
    }
    Ok(Connection::Server { url, token })
}

impl Connection {
    pub async fn get(&self, path: &str) -> Result<Value, CliError> {
        self.call(Method::GET, path, None).await
    }

    /// Asks, and reads the answer. `path` may hold a query.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, CliError> {
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let (status, bytes) = match self {
            Self::Offline(engine) => ask_engine(engine, method, path, body).await?,
            Self::Socket(socket) => ask_socket(socket, request(method, path, body)?).await?,
            Self::Server { url, token } => {
                let mut request = request(method, path, body)?;
                if let Some(token) = token {
                    request.headers_mut().insert(AUTHORIZATION, token.clone());
                }
                ask_server(url, request).await?
            }
        };
        read(status, &bytes)
    }
}

async fn ask_engine(
    engine: &Engine,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes), CliError> {
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let request = ApiRequest {
        method,
        path: path.to_owned(),
        query: query.map(str::to_owned),
        body,
        caller: Principal::Operator,
    };
    let reply = api::handle(engine, request).await;
    match reply.content {
        Content::Bytes(bytes) => Ok((reply.status, bytes)),
        Content::Empty => Ok((reply.status, Bytes::new())),
        Content::Blob(_) => Err(CliError::failed("the management API answered with a blob")),
    }
}

async fn ask_socket(
    socket: &Path,
    mut request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), CliError> {
    request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    let work = async {
        let stream = within(CONNECT, async { Ok(UnixStream::connect(socket).await?) }).await?;
        exchange(TokioIo::new(stream), request).await
    };
    work.await.map_err(|error| unreachable(&socket.display().to_string(), &error))
}

async fn ask_server(url: &Uri, mut request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), CliError> {
    let authority = url.authority().map_or_else(String::new, ToString::to_string);
    let host = HeaderValue::from_str(&authority).map_err(|_| CliError::usage("the URL's host is not one"))?;
    request.headers_mut().insert(HOST, host);
    let work = async {
        let mut connector =
            HttpsConnectorBuilder::new().with_native_roots()?.https_or_http().enable_http1().build();
        let stream = within(CONNECT, connector.call(url.clone())).await?;
        exchange(stream, request).await
    };
    work.await.map_err(|error| {
        unreachable(&url.to_string(), &error).with_hint("is the server running, and is this its URL?")
    })
}

fn request(method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, CliError> {
    let path: PathAndQuery = path
        .parse()
        .map_err(|error| CliError::usage(format!("{path} cannot be asked for")).with_cause(error))?;
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from(path);
    let headers = request.headers_mut();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

fn unreachable(whom: &str, error: &Broken) -> CliError {
    CliError::new(Exit::Unreachable, format!("{whom} does not answer")).with_cause(causes(error))
}

/// The value of a good answer; the sentence of a bad one.
fn read(status: StatusCode, bytes: &[u8]) -> Result<Value, CliError> {
    if status.is_success() && bytes.is_empty() {
        return Ok(Value::Null);
    }
    let parsed: Option<Value> = serde_json::from_slice(bytes).ok();
    if status.is_success() {
        let not_ours =
            || CliError::failed("the answer is not JSON").with_hint("is this a binaryrepo server?");
        return parsed.ok_or_else(not_ours);
    }
    let error = parsed.as_ref().and_then(|value| value.get("error"));
    let text = |name| error.and_then(|error| error.get(name)).and_then(Value::as_str);
    let message = match (text("field"), text("message")) {
        (Some(field), Some(message)) => format!("{field}: {message}"),
        (None, Some(message)) => message.to_owned(),
        (_, None) => format!("the server answered {status}"),
    };
    let error = CliError::failed(message).with_hint_if(text("hint"));
    Err(match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            error.with_hint("`binaryrepo token show` on the server's machine prints the token for --token")
        }
        StatusCode::BAD_REQUEST => error.with_exit(Exit::Usage),
        _ => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_url_without_a_path() {
        let try_url = |url: &str| to_server(url.parse().expect("a URI"), Some("token"));
        assert!(try_url("https://api.example.com").is_ok());
        assert!(try_url("http://127.0.0.1:8081/").is_ok());
        for bad in ["api.example.com", "ftp://host", "http://host/api"] {
            assert!(try_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bad_answer_becomes_its_sentence() {
        let body = br#"{"error":{"field":"tag_ttl","message":"is wrong","hint":"write 60s"}}"#;
        let error = format!("{:?}", read(StatusCode::BAD_REQUEST, body).expect_err("it is one"));
        assert!(
            error.contains("tag_ttl: is wrong") && error.contains("write 60s") && error.contains("Usage")
        );
        let error = format!("{:?}", read(StatusCode::BAD_GATEWAY, b"<html>").expect_err("it is one"));
        assert!(error.contains("502"), "{error}");
        assert!(read(StatusCode::OK, b"<html>").is_err());
        assert!(matches!(read(StatusCode::NO_CONTENT, b""), Ok(Value::Null)));
    }
}

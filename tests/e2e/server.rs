//! Owns the program under test: starts and stops the built binary and speaks its management API.
//! Must not know: what is expected of it.

use crate::process::Service;
use crate::trouble::{Context, Outcome, ensure};
use crate::wire::{Answer, Origin};
use bytes::Bytes;
use http_body_util::Full;
use hyper::Method;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tokio::runtime::Handle;

pub const PORT: u16 = 8081;
/// Names another binary to test: a release build, or what `make build` made.
const OTHER_BINARY: &str = "BINARYREPO_E2E_BINARY";

pub fn binary() -> PathBuf {
    std::env::var_os(OTHER_BINARY).map_or_else(|| env!("CARGO_BIN_EXE_binaryrepo").into(), PathBuf::from)
}

/// Who may come in. Each door has a data directory of its own.
#[derive(Clone, Copy, PartialEq)]
pub enum Door {
    /// Nobody can log in: everybody pulls, and who is on this machine pushes.
    Open,
    /// There is an administrator, made by the first start.
    Users,
}

/// The first administrator of a server with users.
const ADMIN: (&str, &str) = ("ada", "the administrator's own");

pub struct Server {
    service: Service,
    pub door: Door,
    data: PathBuf,
    runtime: Handle,
}

impl Server {
    pub fn start(runtime: &Handle, dir: &Path, door: Door) -> Outcome<Server> {
        let config = dir.join("binaryrepo.toml");
        fs::write(&config, "[server]\ntrusted_proxies = [\"127.0.0.1/32\"]\n")?;
        let data = dir.join(if door == Door::Open { "data" } else { "data-users" });
        let mut command = Command::new(binary());
        command
            .args(["serve", "--listen", &format!("127.0.0.1:{PORT}"), "--data-dir"])
            .arg(&data)
            .arg("--config")
            .arg(&config);
        if door == Door::Open {
            command.arg("--open-access");
        }
        if door == Door::Users {
            let password = dir.join("admin.password");
            fs::write(&password, ADMIN.1)?;
            command.env("BINARYREPO_ADMIN_USER", ADMIN.0).env("BINARYREPO_ADMIN_PASSWORD_FILE", password);
        }
        let mut service = Service::start("binaryrepo", &mut command, &dir.join("binaryrepo.log"))?;
        service.ready_at(([127, 0, 0, 1], PORT).into())?;
        // It listens before it answers; the administrator's token lies there by then.
        runtime.block_on(Server::origin().get("/healthz"))?;
        Ok(Server { service, door, data, runtime: runtime.clone() })
    }

    pub fn origin() -> Origin {
        Origin { host: "localhost".to_owned(), port: PORT, tls: None }
    }

    /// The administrator's token, as the first start left it.
    pub fn token(&self) -> Outcome<String> {
        let file = self.data.join("admin.token");
        Ok(fs::read_to_string(&file).context(file.display())?.trim().to_owned())
    }

    /// A call of the management API, by the administrator.
    pub fn api(&self, method: Method, path: &str, body: &Value) -> Outcome<Answer> {
        let origin = Server::origin();
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let request = origin
            .request(method, path)
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {}", self.token()?))
            .body(Full::new(body))?;
        self.runtime.block_on(origin.answer(request))
    }

    pub fn add(&self, repository: &Value) -> Outcome {
        self.post("/api/repository", repository)
    }

    /// Makes something that is not there yet.
    pub fn post(&self, path: &str, body: &Value) -> Outcome {
        let answer = self.api(Method::POST, path, body)?;
        let status = answer.status();
        ensure!(status == 201, "POST {path} {body} was answered {status}: {}", answer.text);
        Ok(())
    }

    /// A GET of the server itself.
    pub fn get(&self, path: &str) -> Outcome<Answer> {
        self.runtime.block_on(Server::origin().get(path))
    }

    /// How many bytes clients have sent to a repository, since the start.
    pub fn taken(&self, repository: &str) -> Outcome<u64> {
        let metrics = self.get("/metrics")?.text;
        let begin = format!("binaryrepo_bytes_from_clients_total{{repository=\"{repository}\"}} ");
        let count = metrics.lines().find_map(|line| line.strip_prefix(&begin));
        Ok(count.unwrap_or("0").parse()?)
    }

    pub fn tail(&self, lines: usize) -> String {
        self.service.tail(lines)
    }

    pub fn kill(self) {
        self.service.kill();
    }

    /// SIGTERM; says whether it ended well by itself.
    pub fn stop(mut self) -> Outcome {
        let status = self.service.stop()?;
        ensure!(status.is_some(), "binaryrepo did not stop within the grace:\n{}", self.tail(20));
        ensure!(
            status.is_some_and(|status| status.success()),
            "binaryrepo stopped with {status:?}:\n{}",
            self.tail(20)
        );
        Ok(())
    }
}

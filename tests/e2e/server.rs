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

pub struct Server {
    service: Service,
    dir: PathBuf,
    runtime: Handle,
}

impl Server {
    pub fn start(runtime: &Handle, dir: &Path) -> Outcome<Server> {
        let config = dir.join("binaryrepo.toml");
        fs::write(&config, "[server]\ntrusted_proxies = [\"127.0.0.1/32\"]\n")?;
        let mut command = Command::new(binary());
        command
            .args(["serve", "--listen", &format!("127.0.0.1:{PORT}"), "--data-dir"])
            .arg(dir.join("data"))
            .arg("--config")
            .arg(&config);
        let mut service = Service::start("binaryrepo", &mut command, &dir.join("binaryrepo.log"))?;
        service.ready_at(([127, 0, 0, 1], PORT).into())?;
        Ok(Server { service, dir: dir.to_owned(), runtime: runtime.clone() })
    }

    pub fn origin() -> Origin {
        Origin { host: "localhost".to_owned(), port: PORT, tls: None }
    }

    /// The administrator's token, as the first start left it.
    pub fn token(&self) -> Outcome<String> {
        let file = self.dir.join("data/admin.token");
        Ok(fs::read_to_string(&file).context(file.display())?.trim().to_owned())
    }

    /// A call of the management API from the same machine, which needs no token.
    pub fn api(&self, method: Method, path: &str, body: &Value) -> Outcome<Answer> {
        let origin = Server::origin();
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let request =
            origin.request(method, path).header("content-type", "application/json").body(Full::new(body))?;
        self.runtime.block_on(origin.answer(request))
    }

    pub fn add(&self, repository: &Value) -> Outcome {
        let answer = self.api(Method::POST, "/api/repository", repository)?;
        ensure!(
            answer.status() == 201,
            "POST {repository} was answered {}: {}",
            answer.status(),
            answer.text
        );
        Ok(())
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

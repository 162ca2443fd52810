//! What the product is for, shown by the shipped binary: many clients want a layer that nobody has yet, and one
//! line to the upstream is all there is.

use std::process::{Command, Output};

use binaryrepo::text::human_bytes;

use super::server::{BINARY, Server};
use super::upstream::{Options, Registry};

pub struct Scene {
    pub clients: usize,
    pub layer: usize,
    /// What the upstream's line carries in a second, for all connections together.
    pub line: u64,
    /// A bug that a build with `planted-bugs` brings along.
    pub bug: Option<&'static str>,
}

pub struct Outcome {
    clients: usize,
    /// What the upstream itself has counted.
    pub gets: usize,
    fetched: u64,
    herd: Output,
}

/// The upstream lives in this process; the server and the clients have processes of their own.
pub async fn play(scene: Scene) -> Outcome {
    let registry = Registry::start(Options { line_rate: Some(scene.line), ..Options::default() }).await;
    let layer = registry.add_blob("library/demo", 1, scene.layer);
    let server = Server::with_remote(&registry.url(), |command| {
        command.envs(scene.bug.map(|bug| ("BINARYREPO_PLANTED_BUG", bug)));
    });
    let url = server.url(&format!("/v2/hub/library/demo/blobs/{}", layer.digest));
    let mut herd = Command::new(BINARY);
    herd.env_clear().args(["bench", "herd", &url, "--clients", &scene.clients.to_string()]);
    herd.args(["--line", &scene.line.to_string()]);
    let herd = tokio::task::spawn_blocking(move || herd.output().unwrap()).await.unwrap();
    server.stop();
    let seen = registry.asked("GET /v2/library/demo/blobs/");
    let fetched = seen.iter().map(|seen| seen.bytes_sent).sum();
    Outcome { clients: scene.clients, gets: seen.len(), fetched, herd }
}

impl Outcome {
    /// One GET, and every client was served.
    pub fn is_as_promised(&self) -> bool {
        self.gets == 1 && self.herd_succeeded()
    }

    pub fn herd_succeeded(&self) -> bool {
        self.herd.status.success()
    }

    pub fn story(&self) -> String {
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (gets, fetched) = (self.gets, human_bytes(self.fetched));
        let verdict = match self.is_as_promised() {
            true => format!("one GET for {} clients, as promised", self.clients),
            false => format!("NOT as promised: one GET for {} clients, all of them right", self.clients),
        };
        format!(
            "{}{}  counted by the upstream itself: GETs {gets}, {fetched}\n{verdict}\n",
            said(&self.herd.stdout),
            said(&self.herd.stderr)
        )
    }
}

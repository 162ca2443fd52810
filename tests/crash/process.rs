//! The server as a process of its own, on a data directory that outlives it.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use url::Url;

use super::client::Ask;
use super::support::metrics::counted;

const BINARY: &str = env!("CARGO_BIN_EXE_binaryrepo");
const PLANTED: &str = "BINARYREPO_PLANTED_BUG";
/// No start or stop takes as long, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Process {
    pub address: SocketAddr,
    child: Child,
    log: PathBuf,
}

/// While no server runs: the command line opens the data directory itself.
pub fn add_remote(dir: &Path, name: &str, upstream: &Url) {
    let mut command = Command::new(BINARY);
    command.env_clear().args(["repo", "add", name, upstream.as_str(), "--data-dir"]).arg(dir);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Before the first run there is no log.
fn says_nothing_wrong(log: &Path) {
    let log = std::fs::read_to_string(log).unwrap_or_default();
    for sign in ["panicked", "the state of the cache is not what it must be", "must be pushed again"] {
        assert!(!log.contains(sign), "the log says: {sign}");
    }
}

impl Process {
    /// A start that fails is the one thing that no kill may lead to.
    pub async fn start(dir: &Path) -> Self {
        let log = dir.join("server.log");
        says_nothing_wrong(&log);
        // Of one run only: thousands of them would fill the memory that they lie in.
        let file = File::create(&log).unwrap();
        let mut command = Command::new(BINARY);
        command.env_clear();
        // For a server that has it: see `planted`.
        command.envs(std::env::var_os(PLANTED).map(|bug| (PLANTED, bug)));
        command.args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--set",
            "storage.min_free=0",
            "--set",
            "storage.gc_grace=0s",
        ]);
        command.arg("--data-dir").arg(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let greeting = tokio::task::spawn_blocking(move || {
            let mut lines = stdout.lines().map_while(Result::ok);
            let address = lines.find_map(|line| line.split_once("http://")?.1.trim().parse().ok());
            // Read on, so that the server never waits for us.
            std::thread::spawn(move || lines.for_each(drop));
            address
        });
        let address = tokio::time::timeout(PATIENCE, greeting).await.ok().and_then(Result::ok).flatten();
        let Some(address) = address else {
            let _ = child.kill();
            let log = std::fs::read_to_string(&log).unwrap();
            let end = log.len().saturating_sub(4_000);
            panic!("the server did not start ({:?}):\n{}", child.wait(), &log[end..]);
        };
        Self { address, child, log }
    }

    /// It is ready, and its state keeps its promises.
    pub async fn check_promises(&self) {
        let ready = Ask::get("/readyz").send(self.address, &Bytes::new()).await;
        assert_eq!(ready.status, 200, "{}", ready.text);
        says_nothing_wrong(&self.log);
    }

    /// What the server says lies here is what lies here.
    pub async fn counts_agree(&self, dir: &Path) {
        let since = Instant::now();
        loop {
            let got = Ask::get("/metrics").send(self.address, &Bytes::new()).await;
            let said = |name| counted(&got.text, name).unwrap_or_else(|| panic!("no {name}: {}", got.text));
            let said = said("binaryrepo_cache_bytes") + said("binaryrepo_pushed_bytes");
            let lies: u64 = super::verify::files(dir).iter().map(|path| path.metadata().unwrap().len()).sum();
            if said == lies {
                return;
            }
            // What has just been published is counted a moment later.
            assert!(since.elapsed() < PATIENCE, "{said} bytes are said to lie here, {lies} do");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// At once, wherever it is.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// In order.
    pub fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return assert!(status.success(), "the stop ended with {status}");
            }
            assert!(since.elapsed() < PATIENCE, "the server does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! The binary as a process of its own, with a data directory of its own, on a free port.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use url::Url;

/// The binary that was built beside this test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_binaryrepo");
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server. Ends when dropped.
pub struct Server {
    pub address: String,
    pub dir: TempDir,
    child: Child,
}

impl Server {
    /// `change` sets flags and environment. The log goes to `server.log` in the data directory.
    pub fn start(change: impl FnOnce(&mut Command)) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), change)
    }

    /// On a data directory that may be there already.
    pub fn start_in(dir: TempDir, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(BINARY);
        command.env_clear().args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(dir.path());
        let log = File::create(dir.path().join("server.log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        change(&mut command);
        let mut child = command.spawn().unwrap();
        let greeting = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let address = greeting
            .filter_map(|line| {
                Some(line.trim().strip_prefix("listen")?.trim().strip_prefix("http://")?.to_owned())
            })
            .next();
        let Some(address) = address else {
            let log = std::fs::read_to_string(dir.path().join("server.log")).unwrap();
            panic!("the server did not start ({:?}):\n{log}", child.wait());
        };
        Self { address, dir, child }
    }

    /// With one remote, `hub`, that caches `upstream`.
    pub fn with_remote(upstream: &Url, change: impl FnOnce(&mut Command)) -> Self {
        let server = Self::start(change);
        let made = server.command(&["repo", "add", "hub", upstream.as_str()]);
        assert!(made.success(), "the remote could not be made");
        server
    }

    /// Runs another command on the server's data directory.
    pub fn command(&self, args: &[&str]) -> ExitStatus {
        let mut command = Command::new(BINARY);
        command.env_clear().args(args).arg("--data-dir").arg(self.dir.path());
        command.stdout(Stdio::null()).status().unwrap()
    }

    /// The figures of a herd of its own; the URL stands among `args`.
    pub fn herd(args: &[&str]) -> Value {
        let output = Self::herd_command(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text)
            .unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
    }

    pub fn herd_command(args: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.env_clear().args(["bench", "herd", "--json"]).args(args).stdout(Stdio::piped());
        command
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// At once. What is left is the data.
    pub fn kill(mut self) -> TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.keep()
    }

    /// Ends it in order. What is left is the data.
    pub fn stop_and_keep(mut self) -> TempDir {
        assert!(self.end().success());
        self.keep()
    }

    /// Ends it in order.
    pub fn stop(mut self) -> ExitStatus {
        self.end()
    }

    fn keep(&mut self) -> TempDir {
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }

    fn end(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(since.elapsed() < PATIENCE, "the server does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

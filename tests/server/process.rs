//! The real binary as a process of its own: its arguments, its signals, its exit code, what it writes.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::client::{Answer, Ask};

/// Nothing here takes as long, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// The binary in an environment without settings.
pub fn binary(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_binaryrepo"));
    command.args(args).env_clear().env("HOME", "/nowhere/home");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// How a command ended: exit code, stdout, stderr.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// Runs a command to its end.
pub fn run(args: &[&str]) -> Ended {
    run_with(binary(args), "")
}

/// Runs a command that reads `input`.
pub fn run_with(mut command: Command, input: &str) -> Ended {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    // A command that reads no stdin may have closed it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let (pid, (ended, end)) = (Pid::from_child(&child), mpsc::channel());
    std::thread::spawn(move || ended.send(child.wait_with_output()));
    let output = end.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        kill_process(pid, Signal::KILL).unwrap();
        panic!("the command does not end")
    });
    let output = output.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

/// On the data directory: through the server that runs there, or without one.
pub fn on(dir: &Path, args: &[&str]) -> Ended {
    run_with(binary(&[args, &["--data-dir", dir.to_str().unwrap()]].concat()), "")
}

/// The output of a command that must succeed.
pub fn good(dir: &Path, args: &[&str]) -> String {
    let ended = on(dir, args);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{args:?}: {ended:?}");
    ended.out
}

/// The same as JSON.
pub fn said(dir: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&good(dir, &[args, &["--json"]].concat())).unwrap()
}

/// The code of a command, and what it says of it.
pub fn failed(dir: &Path, args: &[&str]) -> (i32, String) {
    let ended = on(dir, args);
    (ended.code, ended.err)
}

/// A running server. Killed by its number when dropped.
pub struct Process {
    child: Child,
    pub address: SocketAddr,
    stdout: Pipe,
    stderr: Pipe,
}

/// What was written so far, and the thread that reads on.
struct Pipe {
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    /// In `dir`, with a log of JSON lines, and the flags given besides.
    pub fn start(dir: &TempDir, flags: &[&str]) -> Self {
        let path = dir.path().to_str().unwrap();
        Self::launch(&[&["--data-dir", path, "--log-format", "json"], flags].concat())
    }

    /// For a person: the log is a text, and the greeting comes on stdout.
    pub fn start_for_people(dir: &Path) -> Self {
        Self::launch(&["--data-dir", dir.to_str().unwrap(), "--log-format", "text"])
    }

    pub fn launch(flags: &[&str]) -> Self {
        Self::launch_with(flags, &[])
    }

    fn launch_with(flags: &[&str], env: &[(&str, &str)]) -> Self {
        let fixed = ["serve", "--listen", "127.0.0.1:0", "--set", "storage.min_free=0"];
        let mut child = binary(&[&fixed, flags].concat()).envs(env.iter().copied()).spawn().unwrap();
        let stdout = Pipe::of(child.stdout.take().unwrap());
        let stderr = Pipe::of(child.stderr.take().unwrap());
        let address = ([127, 0, 0, 1], 0).into();
        let mut this = Self { child, address, stdout, stderr };
        this.address = this.eventually("it listens", Self::listening);
        this
    }

    /// With these variables in its environment.
    pub fn start_with_env(dir: &TempDir, env: &[(&str, &str)]) -> Self {
        let path = dir.path().to_str().unwrap();
        Self::launch_with(&["--data-dir", path, "--log-format", "json"], env)
    }

    fn listening(&self) -> Option<SocketAddr> {
        let of_line = |line: &str| {
            if let Some((_, rest)) = line.split_once("http://") {
                return rest.parse().ok();
            }
            let line: Value = serde_json::from_str(line).ok()?;
            line["address"].as_str()?.parse().ok()
        };
        self.log().iter().chain(&self.stdout.so_far()).find_map(|line| of_line(line))
    }

    pub async fn send(&self, ask: Ask) -> Answer {
        ask.send(self.address).await
    }

    pub async fn get(&self, target: &str) -> Answer {
        self.send(Ask::get(target)).await
    }

    /// Sends a signal to this process alone.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Stops it in order.
    pub fn end(mut self) {
        self.stop();
    }

    /// Stops it in order, and gives all that it logged: what it logged before it answered or greeted may come after
    /// that, for the log has a thread of its own.
    pub fn whole_log(mut self) -> Vec<String> {
        self.stop();
        self.log()
    }

    fn stop(&mut self) {
        self.signal(Signal::TERM);
        assert_eq!(self.wait(), 0);
    }

    /// Waits for the end. The exit code; -1: by a signal.
    pub fn wait(&mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                for pipe in [&mut self.stdout, &mut self.stderr] {
                    pipe.reader.take().map(JoinHandle::join).transpose().unwrap();
                }
                return status.code().unwrap_or(-1);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not end:\n{}", self.log().join("\n"));
    }

    /// The lines of stderr so far: see `whole_log`.
    pub fn log(&self) -> Vec<String> {
        self.stderr.so_far()
    }

    pub fn printed(&self) -> String {
        self.stdout.so_far().join("\n")
    }

    /// The access log's lines for this path so far.
    pub fn access(&self, path: &str) -> Vec<Value> {
        let lines = self.log();
        let lines = lines.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")));
        lines.filter(|line: &Value| line["target"] == "access" && line["path"] == path).collect()
    }

    /// The access log's line for this path, the `number`th from 0: it is written when a body has ended, a moment
    /// after the client has it.
    pub fn access_line(&self, path: &str, number: usize) -> Value {
        self.eventually("the line is written", |this| this.access(path).get(number).cloned())
    }

    pub fn eventually<T>(&self, what: &str, mut find: impl FnMut(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(found) = find(self) {
                return found;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("never: {what}\n{}\n{}", self.printed(), self.log().join("\n"));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Pipe {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = lines.clone();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines() {
                kept.lock().unwrap().push(line.unwrap());
            }
        });
        Self { lines, reader: Some(reader) }
    }

    fn so_far(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }
}

/// A data directory of a server that has run once and stopped in order.
pub fn used(dir: &TempDir) {
    let mut server = Process::start(dir, &[]);
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), 0);
}

pub fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

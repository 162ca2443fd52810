//! Owns the programs that run: commands with a time limit, and services that end with their guard.
//! Must not know: which programs these are.

use crate::trouble::{Context, Outcome, ensure};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A command that takes longer hangs; what is known to take longer says so.
const LIMIT: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(10);
/// What is shown of a line of a log.
const LINE: usize = 300;

/// What a command left behind.
pub struct Done {
    pub line: String,
    pub status: ExitStatus,
    pub output: String,
}

impl Done {
    /// The output, if the command succeeded; else a sentence with its last lines.
    pub fn success(self) -> Outcome<String> {
        ensure!(
            self.status.success(),
            "`{}` ended with {}:\n{}",
            self.line,
            self.status,
            last_lines(&self.output, 25)
        );
        Ok(self.output)
    }

    /// The output, if the command failed, as it should have.
    pub fn failure(self) -> Outcome<String> {
        ensure!(!self.status.success(), "`{}` should have failed, but said:\n{}", self.line, self.output);
        Ok(self.output)
    }
}

/// Starts a command line: `run("skopeo").args([...])`.
pub fn run(program: impl AsRef<Path>) -> Run {
    Run { command: Command::new(program.as_ref()), limit: LIMIT }
}

/// A command with a time limit, whose two outputs are read together.
pub struct Run {
    command: Command,
    limit: Duration,
}

impl Run {
    pub fn args<S: AsRef<std::ffi::OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Run {
        self.command.args(args);
        self
    }

    pub fn arg(self, arg: impl AsRef<std::ffi::OsStr>) -> Run {
        self.args([arg])
    }

    pub fn env(mut self, key: &str, value: impl AsRef<std::ffi::OsStr>) -> Run {
        self.command.env(key, value);
        self
    }

    pub fn dir(mut self, dir: &Path) -> Run {
        self.command.current_dir(dir);
        self
    }

    pub fn limit(mut self, seconds: u64) -> Run {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// Runs it to its end, or ends its whole process group at the limit.
    pub fn done(mut self) -> Outcome<Done> {
        let line = self.line();
        let output = tempfile::NamedTempFile::new().context("a file for the output")?;
        self.command.stdin(Stdio::null()).stdout(output.reopen()?).stderr(output.reopen()?).process_group(0);
        let deadline = Instant::now() + self.limit;
        let mut child = self.command.spawn().context(format!("`{line}` does not start"))?;
        let status = wait_until(&mut child, deadline)?;
        let text = String::from_utf8_lossy(&fs::read(output.path())?).into_owned();
        let Some(status) = status else {
            end_group(&mut child);
            let limit = self.limit.as_secs();
            return Err(format!("`{line}` was not done after {limit} s:\n{}", last_lines(&text, 25)).into());
        };
        Ok(Done { line, status, output: text })
    }

    /// Shorthand for what must succeed.
    pub fn success(self) -> Outcome<String> {
        self.done()?.success()
    }

    fn line(&self) -> String {
        let mut line = self.command.get_program().to_string_lossy().into_owned();
        for arg in self.command.get_args() {
            let _ = write!(line, " {}", arg.to_string_lossy());
        }
        line
    }
}

/// A program that runs beside the scenarios; dropping it stops it.
pub struct Service {
    name: String,
    child: Child,
    log: PathBuf,
    grace: Duration,
}

impl Service {
    /// Starts it with its output appended to `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Outcome<Service> {
        let file = File::options().create(true).append(true).open(log).context(log.display())?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
        let child = command.spawn().context(format!("{name} does not start"))?;
        Ok(Service { name: name.to_owned(), child, log: log.to_owned(), grace: Duration::from_secs(30) })
    }

    /// Waits until `ready` says so; fails at once if the program ends before.
    pub fn ready(&mut self, limit: Duration, mut ready: impl FnMut() -> bool) -> Outcome {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("{} ended with {status}:\n{}", self.name, self.tail(20)).into());
            }
            if ready() {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{} is not ready after {limit:?}:\n{}",
                self.name,
                self.tail(20)
            );
            sleep(POLL * 5);
        }
    }

    pub fn ready_at(&mut self, address: SocketAddr) -> Outcome {
        self.ready(LIMIT, || TcpStream::connect_timeout(&address, POLL * 10).is_ok())
    }

    pub fn tail(&self, lines: usize) -> String {
        fs::read(&self.log).map_or_else(
            |error| format!("(no log: {error})"),
            |bytes| last_lines(&String::from_utf8_lossy(&bytes), lines),
        )
    }

    pub fn hang_up(&self) -> Outcome {
        Ok(kill_process(pid_of(&self.child), Signal::HUP)?)
    }

    /// SIGKILL: the end that nothing can prepare for.
    pub fn kill(mut self) {
        end_group(&mut self.child);
    }

    /// SIGTERM, then the end as it came; `None` if it had to be killed.
    pub fn stop(&mut self) -> Outcome<Option<ExitStatus>> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(Some(status));
        }
        kill_process(pid_of(&self.child), Signal::TERM)?;
        let status = wait_until(&mut self.child, Instant::now() + self.grace)?;
        if status.is_none() {
            end_group(&mut self.child);
        }
        Ok(status)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if self.stop().is_err() {
            end_group(&mut self.child);
        }
    }
}

fn wait_until(child: &mut Child, deadline: Instant) -> Outcome<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        sleep(POLL);
    }
}

/// Every child leads a group of its own, so that what it started ends with it.
fn end_group(child: &mut Child) {
    // Both fail only if the child is gone already, which is what is wanted.
    let _ = kill_process_group(pid_of(child), Signal::KILL);
    let _ = child.wait();
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let cut = |line: &str| line.chars().take(LINE).collect::<String>();
    lines[lines.len().saturating_sub(count)..].iter().map(|line| format!("    | {}\n", cut(line))).collect()
}

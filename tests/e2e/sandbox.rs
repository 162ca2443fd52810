//! Owns the ground the run stands on: packages, private namespaces, what is left behind.
//! Must not know: servers, clients, scenarios.
//!
//! The whole run lives in mount, network and process namespaces of its own. So every daemon may use its
//! ordinary paths and ports, host names are lines in a private /etc/hosts, two runs side by side see nothing
//! of each other, and whatever happens the kernel ends every process, mount, bridge and firewall rule.

use crate::process::run;
use crate::trouble::{Context, Outcome, ensure};
use rustix::process::{Pid, WaitOptions, test_kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Names the stage of a process that this program started of itself.
const STAGE: &str = "BINARYREPO_E2E_STAGE";
const RUN_DIR: &str = "BINARYREPO_E2E_DIR";
/// The host's own address beside 127.0.0.1: containers reach the upstream there.
pub const UPSTREAM_IP: &str = "10.99.0.1";
const NAMES: &str = "\
127.0.0.1 localhost
127.0.0.1 binaryrepo.local api.binaryrepo.local docker-remote.binaryrepo.local docker-local.binaryrepo.local
127.0.0.1 private.binaryrepo.local short.binaryrepo.local docker-remote.example.com
10.99.0.1 registry.upstream.test auth.upstream.test cdn.upstream.test
";

/// A Debian package and the program that shows that it, or another package's like of it, is there.
const NEEDED: [(&str, &str); 16] = [
    ("nginx", "nginx"),
    ("docker.io", "dockerd"),
    ("docker.io", "docker"),
    ("iptables", "iptables"),
    ("docker-compose", "docker-compose"),
    ("docker-registry", "docker-registry"),
    ("podman", "podman"),
    ("buildah", "buildah"),
    ("skopeo", "skopeo"),
    ("containerd", "containerd"),
    ("debootstrap", "debootstrap"),
    ("curl", "curl"),
    ("iproute2", "ip"),
    ("util-linux", "unshare"),
    ("gcc", "cc"),
    ("make", "make"),
];

/// Debian's own programs, before any other of the same name in /usr/local.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin";

pub enum Stage {
    /// What the person started: may use the network, must clean up.
    Outside,
    /// The first process of the namespaces: reaps what daemons leave.
    Init,
    /// The scenarios.
    Inside(PathBuf),
}

pub fn stage() -> Stage {
    match std::env::var(STAGE).as_deref() {
        Ok("init") => Stage::Init,
        Ok("inside") => Stage::Inside(std::env::var_os(RUN_DIR).unwrap_or_default().into()),
        _ => Stage::Outside,
    }
}

/// Installs the missing packages by name, or says which they are.
pub fn install_packages() -> Outcome {
    let mut missing: Vec<&str> =
        NEEDED.iter().filter(|(_, program)| !on_path(program)).map(|(name, _)| *name).collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    ensure!(
        on_path("apt-get"),
        "missing: {names} (Debian's names; there is no apt-get here, please install them)"
    );
    println!("e2e: installing {names}");
    let install = run("apt-get")
        .args(["install", "-y", "--no-install-recommends"])
        .args(&missing)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .limit(600)
        .done()?;
    install.success().map(drop).context(format!("missing: {names}; apt-get could not install them"))
}

fn on_path(program: &str) -> bool {
    PATH.split(':').any(|dir| Path::new(dir).join(program).exists())
}

/// Runs this program again inside, passes its verdict on and removes what it wrote.
pub async fn enter(scratch: &Path) -> Outcome<ExitCode> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "dockerd and namespaces need root: run this as root (sudo)"
    );
    remove_abandoned(scratch);
    let id = std::process::id();
    let dir = scratch.join(format!("run-{id}"));
    fs::create_dir_all(&dir).context(dir.display())?;
    let status = run_inside(&dir).await;
    remove_cgroups(&cgroup_name(id));
    fs::remove_dir_all(&dir).context(format!("cannot remove {}", dir.display()))?;
    Ok(if status?.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `setpriv` ends `unshare` with us and `unshare` ends the first process inside, and with it all others.
async fn run_inside(dir: &Path) -> Outcome<std::process::ExitStatus> {
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"])
        .args(["--mount-proc", "--propagation", "private"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(STAGE, "init")
        .env(RUN_DIR, dir)
        .env("PATH", PATH)
        .spawn()
        .context("setpriv and unshare (util-linux)")?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        tokio::select! {
            () = tokio::time::sleep(std::time::Duration::from_millis(50)) => {}
            // The terminal tells everyone; the scenarios end of it and we only clean up.
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => child.kill()?,
        }
    }
}

/// The first process of a process namespace inherits every orphan and must reap it: daemons ask whether a
/// process lives by its id, and a zombie answers yes.
pub fn be_init() -> Outcome<ExitCode> {
    let child = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(STAGE, "inside")
        .spawn()
        .context("the scenarios do not start")?;
    let scenarios = Pid::from_child(&child);
    loop {
        if let Some((pid, status)) = rustix::process::wait(WaitOptions::empty())?
            && pid == scenarios
        {
            let passed = status.exit_status() == Some(0);
            return Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
}

/// Makes /run and /etc private, brings the loopback up and gives the hosts their names.
pub fn furnish(dir: &Path) -> Outcome {
    mount(&["-t", "tmpfs", "tmpfs", "/run"])?;
    let layer = dir.join("etc");
    fs::create_dir_all(&layer)?;
    mount(&["-t", "tmpfs", "tmpfs", path(&layer)])?;
    let (upper, work) = (layer.join("upper"), layer.join("work"));
    fs::create_dir(&upper)?;
    fs::create_dir(&work)?;
    let options = format!("lowerdir=/etc,upperdir={},workdir={}", upper.display(), work.display());
    mount(&["-t", "overlay", "overlay", "-o", &options, "/etc"])?;
    fs::write("/etc/hosts", NAMES)?;
    run("ip").args(["link", "set", "lo", "up"]).success()?;
    run("ip").args(["address", "add", &format!("{UPSTREAM_IP}/32"), "dev", "lo"]).success()?;
    Ok(())
}

/// The cgroup that holds the run's containers: the one tree that namespaces do not clean up.
pub fn cgroup_of(dir: &Path) -> String {
    let id = dir.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix("run-"));
    cgroup_name(id.and_then(|id| id.parse().ok()).unwrap_or_default())
}

fn cgroup_name(id: u32) -> String {
    format!("binaryrepo-e2e-{id}")
}

fn mount(arguments: &[&str]) -> Outcome {
    run("mount").args(arguments).success().map(drop)
}

fn path(path: &Path) -> &str {
    path.to_str().expect("scratch paths are made of UTF-8")
}

/// Directories and cgroups of runs that were killed before they could clean up.
fn remove_abandoned(scratch: &Path) {
    for entry in fs::read_dir(scratch).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|name| name.strip_prefix("run-")?.parse::<u32>().ok()) else {
            continue;
        };
        let alive = Pid::from_raw(id.cast_signed()).is_some_and(|pid| test_kill_process(pid).is_ok());
        if !alive {
            remove_cgroups(&cgroup_name(id));
            // Tried again by the next run.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn remove_cgroups(name: &str) {
    let hierarchies =
        fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]) {
        remove_cgroup_tree(&hierarchy.join(name));
    }
}

/// Children first: a cgroup directory is removed alone, its files are not files.
fn remove_cgroup_tree(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}

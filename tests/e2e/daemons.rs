//! Owns dockerd, containerd and nginx, each with its ordinary paths inside the private namespaces.
//! Must not know: what is pulled through them.

use crate::process::{Service, run};
use crate::sandbox;
use crate::trouble::{Context, Outcome};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const START: Duration = Duration::from_secs(120);
pub const CONTAINERD: &str = "/run/e2e-containerd/containerd.sock";
const DAEMON_JSON: &str = "/etc/docker/daemon.json";

pub struct Dockerd {
    service: Service,
}

impl Dockerd {
    pub fn start(dir: &Path, mirror: &str) -> Outcome<Dockerd> {
        fs::create_dir_all("/etc/docker")?;
        write_mirror(mirror)?;
        let mut command = Command::new("dockerd");
        command
            .arg("--data-root")
            .arg(dir.join("docker"))
            .args([
                "--pidfile",
                "/run/docker.pid",
                "--exec-root",
                "/run/docker",
                "-H",
                "unix:///run/docker.sock",
            ])
            .args(["--cgroup-parent", &sandbox::cgroup_of(dir)]);
        let mut service = Service::start("dockerd", &mut command, &dir.join("dockerd.log"))?;
        service.ready(START, || run("docker").args(["info"]).success().is_ok())?;
        Ok(Dockerd { service })
    }

    /// dockerd reads its mirrors anew on SIGHUP.
    pub fn use_mirror(&self, mirror: &str) -> Outcome {
        write_mirror(mirror)?;
        self.service.hang_up()?;
        let uses = || run("docker").args(["info"]).success().is_ok_and(|info| info.contains(mirror));
        crate::world::eventually(START, uses, || format!("dockerd does not take up the mirror {mirror}"))
    }

    pub fn tail(&self) -> String {
        self.service.tail(5)
    }
}

fn write_mirror(mirror: &str) -> Outcome {
    Ok(fs::write(DAEMON_JSON, json!({ "registry-mirrors": [mirror] }).to_string())?)
}

pub struct Containerd {
    _service: Service,
}

impl Containerd {
    pub fn start(dir: &Path) -> Outcome<Containerd> {
        let config = dir.join("containerd.toml");
        let text = format!(
            "version = 2\nroot = '{}'\nstate = '/run/e2e-containerd/state'\n\
             disabled_plugins = ['io.containerd.grpc.v1.cri']\n[grpc]\naddress = '{CONTAINERD}'\n",
            dir.join("containerd").display()
        );
        fs::write(&config, text)?;
        let mut command = Command::new("containerd");
        command.arg("--config").arg(&config);
        let mut service = Service::start("containerd", &mut command, &dir.join("containerd.log"))?;
        service.ready(START, || run("ctr").args(["--address", CONTAINERD, "version"]).success().is_ok())?;
        Ok(Containerd { _service: service })
    }
}

/// nginx, installed the way that the head of nginx/binaryrepo.conf says.
pub struct Nginx {
    _service: Service,
}

impl Nginx {
    pub fn start(dir: &Path, configuration: &Path, certificates: &Path) -> Outcome<Nginx> {
        let logs = dir.join("nginx");
        fs::create_dir_all(&logs)?;
        let target = Path::new("/etc/nginx/binaryrepo");
        if !target.exists() {
            run("cp").args(["-r"]).args([configuration, target]).success()?;
            fs::create_dir(target.join("certs"))?;
            for file in ["server.crt", "server.key"] {
                fs::copy(certificates.join(file), target.join("certs").join(file)).context(file)?;
            }
            fs::copy(configuration.join("include.conf"), "/etc/nginx/conf.d/binaryrepo.conf")?;
            // Debian's welcome page; present unless an administrator has removed it.
            let _ = fs::remove_file("/etc/nginx/sites-enabled/default");
            fs::create_dir_all("/var/log/nginx")?;
            run("mount").args(["--bind"]).args([&logs, Path::new("/var/log/nginx")]).success()?;
        }
        let mut command = Command::new("nginx");
        command.args(["-g", "daemon off;"]);
        let mut service = Service::start("nginx", &mut command, &logs.join("start.log"))?;
        service.ready_at(([127, 0, 0, 1], 443).into())?;
        Ok(Nginx { _service: service })
    }
}

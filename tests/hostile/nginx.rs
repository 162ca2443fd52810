//! nginx with the configuration of this repository, without its TLS, in a directory of its own.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::client::Ask;

const CONFIGURATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/nginx");

pub struct Nginx {
    pub address: SocketAddr,
    child: Child,
    dir: TempDir,
}

impl Nginx {
    /// In front of `server`, which it asks from 127.0.0.2.
    pub fn start(server: SocketAddr) -> Self {
        // An address that was free a moment ago may be somebody else's by now.
        (0..10).find_map(|_| Self::start_at(free_address(), server)).expect("an address for nginx")
    }

    /// `None`: the address is taken.
    fn start_at(address: SocketAddr, server: SocketAddr) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        write_configuration(dir.path(), address, server);
        let mut command = Command::new("nginx");
        command.arg("-p").arg(dir.path()).arg("-c").arg(dir.path().join("nginx.conf"));
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|error| panic!("nginx is needed here and does not start: {error}"));
        let mut this = Self { address, child, dir };
        this.listens().then_some(this)
    }

    fn listens(&mut self) -> bool {
        for _ in 0..6_000 {
            if let Some(status) = self.child.try_wait().unwrap() {
                let log = fs::read_to_string(self.dir.path().join("error.log")).unwrap_or_default();
                assert!(log.contains("Address already in use"), "nginx ended, {status}: {log}");
                return false;
            }
            // nginx writes it once it listens, and only then.
            if self.dir.path().join("nginx.pid").exists() && TcpStream::connect(self.address).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("nginx does not listen");
    }

    /// What a client says of itself is not what the server hears from its proxy.
    pub async fn keeps_claims_out(&self) {
        let claims = |ask: Ask| {
            ask.header("X-Forwarded-For", "127.0.0.1")
                .header("X-Forwarded-Host", "evil.test")
                .header("X-Forwarded-Prefix", "/evil")
                .header("X-Forwarded-Proto", "gopher")
                .header("Forwarded", "for=127.0.0.1;host=evil.test;proto=gopher")
        };
        for target in ["/v2", "/v2/", "/v2/docker-local/a/tags/list?n=1", "/token?service=a"] {
            let answer = claims(Ask::get(target)).send(self.address).await;
            assert!(
                !answer.all().contains("evil") && !answer.all().contains("gopher"),
                "{target}: {}",
                answer.all()
            );
        }
        // Through a proxy nobody is at the server's own console, wherever they say they are.
        let answer = claims(Ask::get("/api/repository")).from("127.0.0.3").send(self.address).await;
        assert!(matches!(answer.status, 401 | 404), "{}", answer.all());
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            // Its workers end with it.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Ours as it is, but for where it listens, and TLS: the bytes of a test must reach nginx as they are.
fn write_configuration(dir: &Path, address: SocketAddr, server: SocketAddr) {
    let ours = dir.join("binaryrepo");
    fs::create_dir(&ours).unwrap();
    for name in ["binaryrepo.conf", "proxy.conf", "server.conf"] {
        let text = fs::read_to_string(Path::new(CONFIGURATION).join(name)).unwrap();
        let kept = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("ssl_") && !line.contains("listen [::]"));
        let text: Vec<_> = kept.collect();
        let text = text.join("\n").replace("listen 443 ssl;", &format!("listen {address};"));
        fs::write(ours.join(name), text.replace("listen 80;", &format!("listen {address};"))).unwrap();
    }
    fs::write(ours.join("upstream.conf"), format!("server {server};\n")).unwrap();
    let place = dir.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path {place}/{kind};\n"))
        .concat();
    let text = format!(
        "daemon off;\nmaster_process off;\npid {place}/nginx.pid;\nerror_log {place}/error.log;\n\
         events {{ worker_connections 1024; }}\nhttp {{\n    access_log off;\n    proxy_bind 127.0.0.2;\n{temporary}\
         \x20   include binaryrepo/binaryrepo.conf;\n}}\n"
    );
    fs::write(dir.join("nginx.conf"), text).unwrap();
}

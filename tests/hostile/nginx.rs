//! nginx with the configuration of this repository, on ports of its own, in a directory of its own.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::client::Ask;
use super::support::tls::Identity;

const CONFIGURATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/nginx");

pub struct Nginx {
    /// The TLS servers without their TLS: the bytes of a test must reach nginx as they are.
    pub address: SocketAddr,
    /// The same servers as they are shipped.
    pub tls: SocketAddr,
    /// The server that leads people to https.
    pub redirect: SocketAddr,
    child: Child,
    dir: TempDir,
}

impl Nginx {
    /// In front of `server`, which it asks from 127.0.0.2.
    pub fn start(server: SocketAddr) -> Self {
        Self::start_with(server, str::to_owned)
    }

    /// With a change to each of the shipped files.
    pub fn start_with(server: SocketAddr, change: impl Fn(&str) -> String) -> Self {
        // An address that was free a moment ago may be somebody else's by now.
        (0..10).find_map(|_| Self::start_at(free_addresses(), server, &change)).expect("addresses for nginx")
    }

    /// `None`: an address is taken.
    fn start_at(
        [address, tls, redirect]: [SocketAddr; 3],
        server: SocketAddr,
        change: &impl Fn(&str) -> String,
    ) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let moved = |text: &str| {
            let both = format!("listen {address}; listen {tls} ssl;");
            let text = text.replace("listen 443 ssl;", &both);
            change(&text.replace("listen 80;", &format!("listen {redirect};")))
        };
        write_configuration(dir.path(), server, moved);
        let mut command = Command::new("nginx");
        command.arg("-p").arg(dir.path()).arg("-c").arg(dir.path().join("nginx.conf"));
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|error| panic!("nginx is needed here and does not start: {error}"));
        let mut this = Self { address, tls, redirect, child, dir };
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

/// All free at the same moment.
fn free_addresses() -> [SocketAddr; 3] {
    let bound = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    bound.map(|listener| listener.local_addr().unwrap())
}

/// Ours as it is, but for where it listens.
fn write_configuration(dir: &Path, server: SocketAddr, moved: impl Fn(&str) -> String) {
    let certs = dir.join("binaryrepo/certs");
    fs::create_dir_all(&certs).unwrap();
    let identity = Identity::new();
    fs::write(certs.join("server.crt"), identity.cert_pem).unwrap();
    fs::write(certs.join("server.key"), identity.key_pem).unwrap();
    for entry in fs::read_dir(CONFIGURATION).unwrap().map(Result::unwrap) {
        let text = fs::read_to_string(entry.path()).unwrap();
        let lines: Vec<_> = text.lines().filter(|line| !line.contains("listen [::]")).collect();
        fs::write(dir.join("binaryrepo").join(entry.file_name()), moved(&lines.join("\n"))).unwrap();
    }
    fs::write(dir.join("binaryrepo/upstream.conf"), format!("server {server};\n")).unwrap();
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

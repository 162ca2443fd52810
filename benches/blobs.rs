//! Whole cached blobs: what a gigabyte costs in processor seconds, beside nginx with sendfile; and through our nginx
//! with TLS.

#![expect(
    clippy::disallowed_methods,
    reason = "a bench measures real time, and writes the files that it serves"
)]

mod support;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use support::figures::{Bound, Figure, ROUNDS, Verdicts};
use support::load::{self, Tls};
use support::nginx::Nginx;
use support::process::cpu_seconds;
use support::scripted::server::Server;
use support::scripted::tls::Identity;
use support::scripted::upstream::Registry;

const SIZE: usize = 512 << 20;
const SPAN: Duration = Duration::from_secs(2);

/// A server, what a gigabyte cost it, and how many it gave in a second.
struct Rival {
    name: &'static str,
    address: String,
    path: String,
    /// What counts as this server.
    pids: Vec<u32>,
    tls: Option<Tls>,
    cpu: Figure,
    speed: Figure,
}

impl Rival {
    fn new(name: &'static str, address: &str, path: &str, pids: &[u32]) -> Self {
        let (address, path, pids) = (address.to_owned(), path.to_owned(), pids.to_owned());
        Self { name, address, path, pids, tls: None, cpu: Figure::default(), speed: Figure::default() }
    }

    fn round(&mut self, connections: usize) {
        let used = || self.pids.iter().map(|pid| cpu_seconds(*pid)).sum::<f64>();
        let before = used();
        let host = if self.tls.is_some() { "localhost" } else { &self.address };
        let request = load::get(host, &self.path);
        let load = load::run(&self.address, self.tls.as_ref(), &request, connections, SPAN);
        let gigabytes = load.body_bytes as f64 / 1e9;
        self.cpu.push((used() - before) / gigabytes);
        self.speed.push(gigabytes / load.seconds);
    }
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (registry, blob) = runtime.block_on(async {
        let registry = Registry::open().await;
        let blob = registry.add_blob("library/big", 1, SIZE);
        (registry, blob)
    });
    let server = Server::with_remote(&registry.url(), |_| {});
    let path = format!("/v2/hub/library/big/blobs/{}", blob.digest);
    // Fetched, and verified by its digest.
    let herd = Server::herd(&["--clients", "1", &server.url(&path)]);
    assert_eq!(herd["right"], 1, "{herd}");
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("blob"), &blob.bytes).unwrap();
    drop((registry, blob));
    let plain = "server { listen ADDRESS; sendfile on; tcp_nopush on; root FILES; }";
    let Some(nginx) = Nginx::start(&plain.replace("FILES", files.path().to_str().unwrap())) else {
        println!("nginx is not installed: there is nothing to compare with");
        return ExitCode::SUCCESS;
    };
    let identity = Identity::new();
    let front = ours_in_front(&server.address, &identity).unwrap();
    let mut verdicts = Verdicts::default();
    for (connections, most) in [(16, 2.7), (1, 1.2)] {
        let mut ours = Rival::new("binaryrepo", &server.address, &path, &[server.pid()]);
        let mut theirs = Rival::new("nginx, sendfile", &nginx.address, "/blob", &[nginx.pid()]);
        let mut both = Rival::new("our nginx, TLS", &front.address, &path, &[front.pid(), server.pid()]);
        both.tls = Some(Tls::trusting(&identity.ca_pem, "localhost"));
        for _ in 0..ROUNDS {
            [&mut ours, &mut theirs, &mut both].into_iter().for_each(|rival| rival.round(connections));
        }
        println!("\n{SIZE} bytes, {connections} connections");
        for one in [&ours, &theirs, &both] {
            println!("  {:<16} {:.3} processor seconds a GB, {:.2} GB/s", one.name, one.cpu, one.speed);
        }
        let ratio = ours.cpu.ratio(&theirs.cpu);
        verdicts.judge(
            &format!("processor time of nginx's, {connections} connections"),
            &ratio,
            Bound::AtMost(most),
        );
        let through = both.cpu.ratio(&ours.cpu);
        println!(
            "        through our nginx with TLS it is {through:.2} of that without, nginx's part included"
        );
    }
    verdicts.end()
}

/// The configuration that we ship, with a certificate, an address and an upstream of its own.
fn ours_in_front(upstream: &str, identity: &Identity) -> Option<Nginx> {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("nginx");
    let mut files = vec![
        ("binaryrepo/certs/server.crt".to_owned(), identity.cert_pem.clone()),
        ("binaryrepo/certs/server.key".to_owned(), identity.key_pem.clone()),
    ];
    for entry in std::fs::read_dir(shipped).unwrap() {
        let entry = entry.unwrap();
        let text = match entry.file_name().to_str().unwrap() {
            "upstream.conf" => format!("server {upstream};"),
            _ => moved(&std::fs::read_to_string(entry.path()).unwrap()),
        };
        files.push((format!("binaryrepo/{}", entry.file_name().to_str().unwrap()), text));
    }
    Nginx::with_files("include binaryrepo/binaryrepo.conf;", &files)
}

/// Away from the well-known ports.
fn moved(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.contains("listen [::]"));
    let text = lines.collect::<Vec<_>>().join("\n");
    text.replace("listen 443 ssl", "listen ADDRESS ssl").replace("listen 80;", "listen unix:DIR/plain.sock;")
}

//! Small answers from the cache, with 64 connections: a manifest by tag while it is fresh, a manifest by digest, a
//! config. Compared with a bare hyper handler that answers the same bytes, also with one whose connections stay on one
//! thread each, as ours do, and with nginx that caches them.

mod support;

use std::process::ExitCode;
use std::time::Duration;

use support::bare::{self, Bare, Page, Where};
use support::figures::{Bound, Figure, ROUNDS, Verdicts};
use support::load;
use support::nginx::Nginx;
use support::process::cpu_seconds;
use support::scripted::image::Image;
use support::scripted::server::Server;
use support::scripted::upstream::Registry;

const CONNECTIONS: usize = 64;
const SPAN: Duration = Duration::from_secs(2);

/// A server, and how fast it answered in each round.
struct Rival {
    name: &'static str,
    address: String,
    pid: u32,
    per_second: Figure,
    cpu_micros: Figure,
}

impl Rival {
    fn new(name: &'static str, address: &str, pid: u32) -> Self {
        let (per_second, cpu_micros) = Default::default();
        Self { name, address: address.to_owned(), pid, per_second, cpu_micros }
    }

    fn round(&mut self, path: &str) {
        let before = cpu_seconds(self.pid);
        let load = load::run(&self.address, None, &load::get(&self.address, path), CONNECTIONS, SPAN);
        self.per_second.push(load.per_second());
        self.cpu_micros.push((cpu_seconds(self.pid) - before) * 1e6 / load.answers as f64);
    }
}

fn main() -> ExitCode {
    bare::serve_if_asked();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (registry, image) = runtime.block_on(async {
        let registry = Registry::open().await;
        // What a real image's manifest of seven layers weighs.
        let image = Image::new(1, &[1, 2, 3, 4, 5, 6, 7]);
        registry.add_image("library/redis", "7", &image);
        (registry, image)
    });
    // While it is measured nothing becomes stale.
    let server = Server::with_remote(&registry.url(), |_| {});
    assert!(server.command(&["repo", "update", "hub", "--tag-ttl", "1h"]).success());
    let name = "/v2/hub/library/redis";
    let things = [
        ("manifest by tag", format!("{name}/manifests/7")),
        ("manifest by digest", format!("{name}/manifests/{}", image.manifest.digest)),
        ("config", format!("{name}/blobs/{}", image.config.digest)),
    ];
    let pages: Vec<Page> = things.iter().map(|(_, path)| bare::copy_of(&server.address, path)).collect();
    let bare = Bare::start(&pages, Where::Workers);
    let bare_threads = Bare::start(&pages, Where::Threads);
    let nginx = Nginx::start(&format!(
        "proxy_cache_path DIR/cache keys_zone=small:10m;\n\
         server {{ listen ADDRESS; location / {{ proxy_pass http://{}; proxy_cache small; proxy_cache_valid 1h; }} }}",
        bare.address
    ));
    if nginx.is_none() {
        println!("nginx is not installed: the comparison with it is left out");
    }
    let mut verdicts = Verdicts::default();
    for (what, path) in &things {
        let mut ours = Rival::new("binaryrepo", &server.address, server.pid());
        let mut rivals = vec![
            Rival::new("bare hyper", &bare.address, bare.pid()),
            Rival::new("bare, our threads", &bare_threads.address, bare_threads.pid()),
        ];
        rivals
            .extend(nginx.as_ref().map(|nginx| Rival::new("nginx proxy_cache", &nginx.address, nginx.pid())));
        for _ in 0..ROUNDS {
            ours.round(path);
            rivals.iter_mut().for_each(|rival| rival.round(path));
        }
        println!("\n{what}, {CONNECTIONS} connections");
        for one in std::iter::once(&ours).chain(&rivals) {
            println!(
                "  {:<18} {:.0} a second, {:.1} µs of processor each",
                one.name, one.per_second, one.cpu_micros
            );
        }
        for (rival, least) in rivals.iter().zip([Some(0.9), None, Some(0.7)]) {
            let ratio = ours.per_second.ratio(&rival.per_second);
            let what = format!("{what}, of {}", rival.name);
            match least {
                Some(least) => verdicts.judge(&what, &ratio, Bound::AtLeast(least)),
                None => println!("        {what}: {ratio:.2}"),
            }
        }
    }
    verdicts.end()
}

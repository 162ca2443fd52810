//! The upstream client against a scripted registry on loopback.
#![expect(clippy::disallowed_methods, reason = "tests have their own tasks, files and clock")]

mod support;

#[path = "upstream/answers.rs"]
mod answers;
#[path = "upstream/auth.rs"]
mod auth;
#[path = "upstream/bodies.rs"]
mod bodies;
#[path = "upstream/connections.rs"]
mod connections;
#[path = "upstream/redirects.rs"]
mod redirects;
#[path = "upstream/scripted.rs"]
mod scripted;

use std::time::Duration;

use binaryrepo::clock::Clock;
use binaryrepo::names::{ImageName, Reference};
use binaryrepo::upstream::{BlobResponse, Proxies, Settings, Timeouts, Upstream, UpstreamError};
use support::upstream::Registry;

/// Short enough for a test that waits for them, long enough for a busy machine.
const SHORT: Timeouts =
    Timeouts { connect: Duration::from_secs(1), head: Duration::from_secs(1), idle: Duration::from_secs(1) };

fn image() -> ImageName {
    "library/redis".parse().unwrap()
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

fn client(registry: &Registry) -> Upstream {
    client_with(registry, |_| {})
}

fn client_with(registry: &Registry, change: impl FnOnce(&mut Settings)) -> Upstream {
    let mut settings = Settings::new(registry.url());
    change(&mut settings);
    Upstream::with_proxies(settings, Clock::new(), Proxies::none()).unwrap()
}

fn logged_in(user: &str, password: &str) -> impl FnOnce(&mut Settings) {
    move |settings| {
        settings.username = Some(user.to_owned());
        settings.password = Some(password.to_owned().into());
    }
}

/// The bytes until the end, and how it ended.
async fn drain(mut response: BlobResponse) -> (Vec<u8>, Result<(), UpstreamError>) {
    let mut bytes = Vec::new();
    while let Some(piece) = response.body.next().await {
        match piece {
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(error) => return (bytes, Err(error)),
        }
    }
    (bytes, Ok(()))
}

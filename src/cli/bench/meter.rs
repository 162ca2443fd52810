//! Owns what the server itself counts of its upstreams, from its metrics.
//! Must not know: who is served meanwhile. Other traffic counts as well.

use bytes::Bytes;
use http::Request;
use http::header::{CONNECTION, HOST};
use http_body_util::Full;

use super::client::Way;
use super::target::Target;
use crate::cli::wire::exchange;

/// Counters at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Of blobs, from upstreams.
    pub gets: u64,
    /// Of bodies, from upstreams.
    pub bytes: u64,
}

/// `None` where the server shows no metrics of ours: another registry, or a repository's own host.
pub async fn read(way: &Way, target: &Target) -> Option<Reading> {
    let request = Request::get("/metrics")
        .header(HOST, &target.authority)
        .header(CONNECTION, "close")
        .body(Full::new(Bytes::new()))
        .ok()?;
    let stream = way.connect(target).await.ok()?;
    let (status, body) = exchange(stream, request).await.ok()?;
    let text = std::str::from_utf8(&body).ok()?;
    (status.is_success() && text.contains("binaryrepo_build_info")).then(|| count(text))
}

fn count(text: &str) -> Reading {
    let sum = |name: &str, label: &str| {
        let samples = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    };
    Reading {
        gets: sum("binaryrepo_upstream_requests_total{", r#"operation="blob""#),
        bytes: sum("binaryrepo_bytes_from_upstream_total{", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_repositories_and_codes_are_added_up() {
        let text = "\
# TYPE binaryrepo_upstream_requests counter
binaryrepo_upstream_requests_total{repository=\"a\",operation=\"blob\",code=\"200\"} 3
binaryrepo_upstream_requests_total{repository=\"b\",operation=\"blob\",code=\"0\"} 1
binaryrepo_upstream_requests_total{repository=\"a\",operation=\"manifest\",code=\"200\"} 7
binaryrepo_bytes_from_upstream_total{repository=\"a\"} 1000
binaryrepo_bytes_from_upstream_total{repository=\"b\"} 24
";
        assert_eq!(count(text), Reading { gets: 4, bytes: 1024 });
        assert_eq!(count(""), Reading { gets: 0, bytes: 0 });
    }
}

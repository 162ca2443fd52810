//! Owns the counters and gauges, and their names.
//! Must not know: who counts. Labels are repository names that exist and words of this program, so that
//! nobody outside can make a new series: a word is `&'static str`, which no request can be.

use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRepository {
    repository: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRequest {
    repository: String,
    action: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByVerdict {
    repository: String,
    kind: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByUpstreamRequest {
    repository: String,
    operation: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    repository: String,
    reason: &'static str,
}

type LevelGauge = Gauge<u64, std::sync::atomic::AtomicU64>;

/// What the coordinator shows of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheGauges {
    pub fills_in_flight: u64,
    pub waiters: u64,
    pub cache_bytes: u64,
    pub cache_limit_bytes: u64,
    pub pushed_bytes: u64,
}

/// Counts one thing as open until it is dropped.
#[derive(Debug)]
#[must_use = "the gauge falls as soon as this is dropped"]
pub struct Held(LevelGauge);

impl Held {
    fn new(gauge: &LevelGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// All counters and gauges. One per server; shared by reference counting.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<ByRequest, Counter>,
    verdicts: Family<ByVerdict, Counter>,
    bytes_to_clients: Family<ByRepository, Counter>,
    bytes_from_clients: Family<ByRepository, Counter>,
    bytes_from_upstream: Family<ByRepository, Counter>,
    bytes_saved: Family<ByRepository, Counter>,
    upstream_requests: Family<ByUpstreamRequest, Counter>,
    upstream_errors: Family<ByReason, Counter>,
    ratelimit_remaining: Family<ByRepository, LevelGauge>,
    upstream_retries: Counter,
    upstream_resumed: Counter,
    digest_mismatches: Counter,
    cache_bypass: Counter,
    evictions: Counter,
    evicted_bytes: Counter,
    disk_errors: Counter,
    invariant_violations: Counter,
    meta_commits: Counter,
    fills_in_flight: LevelGauge,
    waiters: LevelGauge,
    cache_bytes: LevelGauge,
    cache_limit_bytes: LevelGauge,
    pushed_bytes: LevelGauge,
    collected_blobs: Counter,
    collected_bytes: Counter,
    scrubbed_bytes: Counter,
    damaged_blobs: Counter,
    open_bodies: LevelGauge,
    connections: LevelGauge,
}

/// Registers a metric made from its default and hands it back.
fn add<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    /// The media type of what [`encode`](Self::encode) returns.
    pub const CONTENT_TYPE: &'static str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    pub fn new() -> Arc<Self> {
        let mut registry = Registry::with_prefix("binaryrepo");
        let r = &mut registry;
        r.register("build", "Which build runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        Arc::new(Self {
            requests: add(r, "requests", "Requests answered"),
            verdicts: add(r, "verdicts", "How answers of remotes came about: the words of X-Cache"),
            bytes_to_clients: add(r, "bytes_to_clients", "Body bytes sent to clients"),
            bytes_from_clients: add(r, "bytes_from_clients", "Body bytes of pushes received"),
            bytes_from_upstream: add(r, "bytes_from_upstream", "Body bytes received from upstreams"),
            bytes_saved: add(r, "bytes_saved", "Body bytes sent that no upstream had to send for it"),
            upstream_requests: add(r, "upstream_requests", "Requests sent to upstreams, by their answer"),
            upstream_errors: add(r, "upstream_errors", "Requests to upstreams that failed"),
            ratelimit_remaining: add(r, "ratelimit_remaining", "Pulls that the upstream says are left"),
            upstream_retries: add(r, "upstream_retries", "Attempts after the first"),
            upstream_resumed: add(r, "upstream_resumed", "Downloads that went on where they had broken"),
            digest_mismatches: add(
                r,
                "digest_mismatches",
                "Downloads whose bytes were not what their digest says",
            ),
            cache_bypass: add(r, "cache_bypass", "Answers streamed past the cache for want of room"),
            evictions: add(r, "evictions", "Cached blobs removed to make room"),
            evicted_bytes: add(r, "evicted_bytes", "Bytes of cached blobs removed to make room"),
            disk_errors: add(r, "disk_errors", "Reads and writes of cached blobs that the disk failed"),
            invariant_violations: add(
                r,
                "invariant_violations",
                "Broken promises of the cache's state; report any",
            ),
            meta_commits: add(r, "meta_commits", "Commits of the metadata store"),
            fills_in_flight: add(r, "fills_in_flight", "Downloads under way"),
            waiters: add(r, "waiters", "Requests that wait for a download's head"),
            cache_bytes: add(r, "cache_bytes", "Bytes of cached blobs on disk"),
            cache_limit_bytes: add(r, "cache_limit_bytes", "Bytes that cached blobs may take"),
            pushed_bytes: add(r, "pushed_bytes", "Bytes of pushed blobs on disk"),
            collected_blobs: add(r, "collected_blobs", "Pushed blobs that cleanup removed"),
            collected_bytes: add(r, "collected_bytes", "Bytes of pushed blobs that cleanup removed"),
            scrubbed_bytes: add(r, "scrubbed_bytes", "Bytes of blobs and manifests that scrubs have hashed"),
            damaged_blobs: add(r, "damaged_blobs", "Blobs and manifests that scrubs found damaged"),
            open_bodies: add(r, "open_bodies", "Response bodies being sent"),
            connections: add(r, "connections", "Client connections open"),
            registry,
        })
    }

    /// A request was answered. `repository` is `-` where none was meant.
    pub fn request(&self, repository: &str, action: &'static str, code: u16) {
        self.requests.get_or_create(&ByRequest { repository: repository.to_owned(), action, code }).inc();
    }

    /// `kind` is `blob`, `manifest`, `tags` or `referrers`; `result` a word of `X-Cache`.
    pub fn verdict(&self, repository: &str, kind: &'static str, result: &'static str) {
        self.verdicts.get_or_create(&ByVerdict { repository: repository.to_owned(), kind, result }).inc();
    }

    pub fn bytes_to_clients(&self, repository: &str, bytes: u64) {
        add_bytes(&self.bytes_to_clients, repository, bytes);
    }

    pub fn bytes_from_clients(&self, repository: &str, bytes: u64) {
        add_bytes(&self.bytes_from_clients, repository, bytes);
    }

    pub fn bytes_from_upstream(&self, repository: &str, bytes: u64) {
        add_bytes(&self.bytes_from_upstream, repository, bytes);
    }

    pub fn bytes_saved(&self, repository: &str, bytes: u64) {
        add_bytes(&self.bytes_saved, repository, bytes);
    }

    /// An upstream answered with `code`; `operation` says what was asked.
    pub fn upstream_request(&self, repository: &str, operation: &'static str, code: u16) {
        let labels = ByUpstreamRequest { repository: repository.to_owned(), operation, code };
        self.upstream_requests.get_or_create(&labels).inc();
    }

    pub fn upstream_error(&self, repository: &str, reason: &'static str) {
        self.upstream_errors.get_or_create(&ByReason { repository: repository.to_owned(), reason }).inc();
    }

    pub fn upstream_retry(&self) {
        self.upstream_retries.inc();
    }

    pub fn upstream_resumed(&self) {
        self.upstream_resumed.inc();
    }

    pub fn ratelimit_remaining(&self, repository: &str, remaining: u64) {
        let labels = ByRepository { repository: repository.to_owned() };
        self.ratelimit_remaining.get_or_create(&labels).set(remaining);
    }

    pub fn digest_mismatch(&self) {
        self.digest_mismatches.inc();
    }

    pub fn cache_bypass(&self) {
        self.cache_bypass.inc();
    }

    /// One cached blob of this size was removed.
    pub fn evicted(&self, bytes: u64) {
        self.evictions.inc();
        self.evicted_bytes.inc_by(bytes);
    }

    /// Cleanup removed one pushed blob of this size.
    pub fn collected(&self, bytes: u64) {
        self.collected_blobs.inc();
        self.collected_bytes.inc_by(bytes);
    }

    /// A scrub has hashed so many bytes more.
    pub fn scrubbed(&self, bytes: u64) {
        self.scrubbed_bytes.inc_by(bytes);
    }

    /// A scrub found bytes that are not what their digest says.
    pub fn damaged(&self) {
        self.damaged_blobs.inc();
    }

    pub fn disk_error(&self) {
        self.disk_errors.inc();
    }

    pub fn invariant_violation(&self) {
        self.invariant_violations.inc();
    }

    pub fn meta_commit(&self) {
        self.meta_commits.inc();
    }

    pub fn set_counts(&self, counts: CacheGauges) {
        self.fills_in_flight.set(counts.fills_in_flight);
        self.waiters.set(counts.waiters);
        self.cache_bytes.set(counts.cache_bytes);
        self.cache_limit_bytes.set(counts.cache_limit_bytes);
        self.pushed_bytes.set(counts.pushed_bytes);
    }

    /// A client connected; hold the answer as long as it stays.
    pub fn connection(&self) -> Held {
        Held::new(&self.connections)
    }

    /// A response body was begun; hold the answer until it ends.
    pub fn body(&self) -> Held {
        Held::new(&self.open_bodies)
    }

    /// How many bodies are being sent now.
    pub fn open_bodies(&self) -> u64 {
        self.open_bodies.get()
    }

    /// The text that Prometheus reads.
    pub fn encode(&self) -> String {
        let mut out = String::with_capacity(8 * 1024);
        text::encode(&mut out, &self.registry).expect("a String takes whatever is written to it");
        out
    }
}

fn add_bytes(family: &Family<ByRepository, Counter>, repository: &str, bytes: u64) {
    family.get_or_create(&ByRepository { repository: repository.to_owned() }).inc_by(bytes);
}

#[cfg(test)]
mod tests {
    use super::{CacheGauges, Metrics};

    #[test]
    fn what_is_counted_is_shown_under_its_name() {
        let metrics = Metrics::new();
        metrics.request("docker-remote", "blob", 200);
        metrics.request("docker-remote", "blob", 200);
        metrics.verdict("docker-remote", "blob", "joined");
        metrics.bytes_to_clients("docker-remote", 700);
        metrics.bytes_from_upstream("docker-remote", 7);
        metrics.bytes_saved("docker-remote", 693);
        metrics.upstream_request("docker-remote", "head_manifest", 429);
        metrics.upstream_error("docker-remote", "timeout");
        metrics.ratelimit_remaining("docker-remote", 42);
        metrics.evicted(1000);
        metrics.set_counts(CacheGauges {
            fills_in_flight: 3,
            waiters: 500,
            cache_bytes: 11,
            cache_limit_bytes: 12,
            pushed_bytes: 13,
        });
        metrics.collected(14);
        metrics.scrubbed(15);
        metrics.damaged();
        let text = metrics.encode();
        for line in [
            r#"binaryrepo_requests_total{repository="docker-remote",action="blob",code="200"} 2"#,
            r#"binaryrepo_verdicts_total{repository="docker-remote",kind="blob",result="joined"} 1"#,
            r#"binaryrepo_bytes_to_clients_total{repository="docker-remote"} 700"#,
            r#"binaryrepo_bytes_from_upstream_total{repository="docker-remote"} 7"#,
            r#"binaryrepo_bytes_saved_total{repository="docker-remote"} 693"#,
            r#"binaryrepo_upstream_requests_total{repository="docker-remote",operation="head_manifest",code="429"} 1"#,
            r#"binaryrepo_upstream_errors_total{repository="docker-remote",reason="timeout"} 1"#,
            r#"binaryrepo_ratelimit_remaining{repository="docker-remote"} 42"#,
            "binaryrepo_evictions_total 1",
            "binaryrepo_evicted_bytes_total 1000",
            "binaryrepo_digest_mismatches_total 0",
            "binaryrepo_fills_in_flight 3",
            "binaryrepo_waiters 500",
            "binaryrepo_cache_bytes 11",
            "binaryrepo_cache_limit_bytes 12",
            "binaryrepo_pushed_bytes 13",
            "binaryrepo_collected_blobs_total 1",
            "binaryrepo_collected_bytes_total 14",
            "binaryrepo_scrubbed_bytes_total 15",
            "binaryrepo_damaged_blobs_total 1",
            concat!(r#"binaryrepo_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#),
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "no line `{line}` in:\n{text}");
        }
    }

    #[test]
    fn a_gauge_falls_when_what_it_counts_is_dropped() {
        let metrics = Metrics::new();
        let first = metrics.body();
        let second = metrics.body();
        assert_eq!(metrics.open_bodies(), 2);
        drop(first);
        assert_eq!(metrics.open_bodies(), 1);
        drop(second);
        assert_eq!(metrics.open_bodies(), 0);
        let _connection = metrics.connection();
        assert!(metrics.encode().contains("binaryrepo_connections 1\n"));
    }

    #[test]
    fn a_repository_name_cannot_break_out_of_its_label() {
        let metrics = Metrics::new();
        metrics.bytes_saved("a\"} 1\nforged", 1);
        assert!(!metrics.encode().lines().any(|line| line.starts_with("forged")));
    }
}

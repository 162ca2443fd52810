//! Owns the counters and gauges, and their names.
//! Must not know: who counts. Labels are repository names that exist and words of this program, so that
//! nobody outside can make a new series: a word is `&'static str`, which no request can be.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

use super::tally::Tally;

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

/// What is counted of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// `-` where none was meant.
    pub repository: &'a str,
    pub action: &'static str,
    pub code: u16,
    /// For answers of remotes.
    pub verdict: Option<Told>,
}

/// How an answer came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// A word of `X-Cache`.
    pub result: &'static str,
    /// No upstream had to send these bytes for it.
    pub saves: bool,
}

type LevelGauge = Gauge<u64, std::sync::atomic::AtomicU64>;

/// What the coordinator shows of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheGauges {
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

/// The gauges of one repository's downloads.
#[derive(Clone, Debug)]
pub struct Downloads {
    fills: LevelGauge,
    waiters: LevelGauge,
}

impl Downloads {
    /// One was begun; hold the answer until it ends.
    pub fn fill(&self) -> Held {
        Held::new(&self.fills)
    }

    /// A request waits for the head of one; hold the answer as long as it does.
    pub fn waiter(&self) -> Held {
        Held::new(&self.waiters)
    }
}

/// All counters and gauges. One per server; shared by reference counting.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Every request looks here, so that it needs no label of its own, and no lock.
    answers: ArcSwap<KnownAnswers>,
    requests: Family<ByRequest, Tally>,
    requests_aborted: Counter,
    verdicts: Family<ByVerdict, Tally>,
    bytes_to_clients: Family<ByRepository, Tally>,
    bytes_from_clients: Family<ByRepository, Counter>,
    bytes_from_upstream: Family<ByRepository, Counter>,
    bytes_saved: Family<ByRepository, Tally>,
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
    snapshot_timestamp: LevelGauge,
    snapshot_failures: Counter,
    fills_in_flight: Family<ByRepository, LevelGauge>,
    waiters: Family<ByRepository, LevelGauge>,
    cache_bytes: LevelGauge,
    cache_limit_bytes: LevelGauge,
    pushed_bytes: LevelGauge,
    collected_blobs: Counter,
    collected_bytes: Counter,
    scrubbed_bytes: Counter,
    damaged_blobs: Counter,
    password_hashes: Counter,
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
            answers: ArcSwap::default(),
            requests: add(r, "requests", "Requests answered"),
            requests_aborted: add(
                r,
                "requests_aborted",
                "Requests whose client left, or whose body broke off, before the end",
            ),
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
            snapshot_timestamp: add(
                r,
                "metadata_snapshot_timestamp_seconds",
                "When the last snapshot of the metadata was taken, in seconds since 1970; 0 if there is none",
            ),
            snapshot_failures: add(
                r,
                "metadata_snapshot_failures",
                "Snapshots of the metadata that were due and were not taken",
            ),
            fills_in_flight: add(r, "fills_in_flight", "Downloads under way"),
            waiters: add(r, "waiters", "Requests that wait for a download's head"),
            cache_bytes: add(r, "cache_bytes", "Bytes of cached blobs on disk"),
            cache_limit_bytes: add(r, "cache_limit_bytes", "Bytes that cached blobs may take"),
            pushed_bytes: add(r, "pushed_bytes", "Bytes of pushed blobs on disk"),
            collected_blobs: add(r, "collected_blobs", "Pushed blobs that cleanup removed"),
            collected_bytes: add(r, "collected_bytes", "Bytes of pushed blobs that cleanup removed"),
            scrubbed_bytes: add(r, "scrubbed_bytes", "Bytes of blobs and manifests that scrubs have hashed"),
            damaged_blobs: add(r, "damaged_blobs", "Blobs and manifests that scrubs found damaged"),
            password_hashes: add(r, "password_hashes", "Passwords hashed, right, wrong and new ones"),
            open_bodies: add(r, "open_bodies", "Response bodies being sent"),
            connections: add(r, "connections", "Client connections open"),
            registry,
        })
    }

    /// A request was answered, with a body of so many bytes.
    pub fn answered(&self, answer: Answer<'_>, bytes: u64) {
        let counted = self.answers.load().get(&answer).map(|counters| counters.count(bytes));
        if counted.is_none() {
            let counters = self.counters_of(&answer);
            counters.count(bytes);
            self.answers.rcu(|known| known.with(&answer, &counters));
        }
    }

    fn counters_of(&self, answer: &Answer<'_>) -> AnswerCounters {
        let Answer { repository, action, code, verdict } = *answer;
        let repository = || repository.to_owned();
        let by_repository = || ByRepository { repository: repository() };
        AnswerCounters {
            requests: found(&self.requests, &ByRequest { repository: repository(), action, code }),
            bytes: found(&self.bytes_to_clients, &by_repository()),
            verdicts: verdict.map(|Told { result, .. }| {
                // `blob`, `manifest`, `tags` or `referrers`.
                let kind = action.split_once('.').map_or(action, |(kind, _)| kind);
                found(&self.verdicts, &ByVerdict { repository: repository(), kind, result })
            }),
            saved: verdict.filter(|told| told.saves).map(|_| found(&self.bytes_saved, &by_repository())),
        }
    }

    pub fn bytes_from_clients(&self, repository: &str, bytes: u64) {
        add_bytes(&self.bytes_from_clients, repository, bytes);
    }

    pub fn bytes_from_upstream(&self, repository: &str, bytes: u64) {
        add_bytes(&self.bytes_from_upstream, repository, bytes);
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

    /// A password was hashed, whoever's it is.
    pub fn password_hashed(&self) {
        self.password_hashes.inc();
    }

    /// An answer did not get to its end.
    pub fn aborted(&self) {
        self.requests_aborted.inc();
    }

    pub fn disk_error(&self) {
        self.disk_errors.inc();
    }

    pub fn invariant_violation(&self) {
        self.invariant_violations.inc();
    }

    /// So many in all.
    pub fn meta_commits(&self, total: u64) {
        self.meta_commits.inner().fetch_max(total, Ordering::Relaxed);
    }

    /// The newest snapshot of the metadata is of this second.
    pub fn snapshot_of(&self, second: u64) {
        self.snapshot_timestamp.set(second);
    }

    /// A snapshot of the metadata was due and was not taken.
    pub fn snapshot_failed(&self) {
        self.snapshot_failures.inc();
    }

    pub fn set_counts(&self, counts: CacheGauges) {
        self.cache_bytes.set(counts.cache_bytes);
        self.cache_limit_bytes.set(counts.cache_limit_bytes);
        self.pushed_bytes.set(counts.pushed_bytes);
    }

    /// Where the downloads of this repository are counted. To be asked once, and kept.
    pub fn downloads(&self, repository: &str) -> Downloads {
        let labels = ByRepository { repository: repository.to_owned() };
        Downloads { fills: found(&self.fills_in_flight, &labels), waiters: found(&self.waiters, &labels) }
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

/// What counts under these labels, found once.
fn found<L, M>(family: &Family<L, M>, labels: &L) -> M
where
    L: Clone + std::hash::Hash + Eq,
    M: Clone + Default,
{
    family.get_or_create(labels).clone()
}

/// The counters that one kind of answer moves.
#[derive(Clone, Debug)]
struct AnswerCounters {
    requests: Tally,
    bytes: Tally,
    verdicts: Option<Tally>,
    saved: Option<Tally>,
}

impl AnswerCounters {
    fn count(&self, bytes: u64) {
        self.requests.inc();
        self.bytes.inc_by(bytes);
        if let Some(verdicts) = &self.verdicts {
            verdicts.inc();
        }
        if let Some(saved) = &self.saved {
            saved.inc_by(bytes);
        }
    }
}

/// The kinds of answers given so far, by repository: a few dozen each.
#[derive(Clone, Debug, Default)]
struct KnownAnswers(HashMap<String, Vec<KnownAnswer>, foldhash::fast::RandomState>);

#[derive(Clone, Debug)]
struct KnownAnswer {
    action: &'static str,
    code: u16,
    verdict: Option<Told>,
    counters: AnswerCounters,
}

impl KnownAnswers {
    fn get(&self, answer: &Answer<'_>) -> Option<&AnswerCounters> {
        // What else a verdict tells follows from its word.
        let word = |verdict: &Option<Told>| verdict.map(|told| told.result);
        let same = |known: &&KnownAnswer| {
            known.code == answer.code
                && known.action == answer.action
                && word(&known.verdict) == word(&answer.verdict)
        };
        Some(&self.0.get(answer.repository)?.iter().find(same)?.counters)
    }

    /// A copy that knows one more.
    fn with(&self, answer: &Answer<'_>, counters: &AnswerCounters) -> Self {
        let mut copy = self.clone();
        if copy.get(answer).is_none() {
            let Answer { repository, action, code, verdict } = *answer;
            let known = KnownAnswer { action, code, verdict, counters: counters.clone() };
            copy.0.entry(repository.to_owned()).or_default().push(known);
        }
        copy
    }
}

fn add_bytes(family: &Family<ByRepository, Counter>, repository: &str, bytes: u64) {
    family.get_or_create(&ByRepository { repository: repository.to_owned() }).inc_by(bytes);
}

#[cfg(test)]
mod tests {
    use super::{Answer, CacheGauges, Metrics, Told};

    #[test]
    fn what_is_counted_is_shown_under_its_name() {
        let metrics = Metrics::new();
        let verdict = Some(Told { result: "joined", saves: true });
        let joined = Answer { repository: "docker-remote", action: "blob.get", code: 200, verdict };
        metrics.answered(joined, 693);
        metrics.answered(Answer { verdict: None, ..joined }, 7);
        metrics.bytes_from_upstream("docker-remote", 7);
        metrics.upstream_request("docker-remote", "head_manifest", 429);
        metrics.upstream_error("docker-remote", "timeout");
        metrics.ratelimit_remaining("docker-remote", 42);
        metrics.evicted(1000);
        metrics.set_counts(CacheGauges { cache_bytes: 11, cache_limit_bytes: 12, pushed_bytes: 13 });
        let downloads = metrics.downloads("docker-remote");
        let _under_way = [(); 2].map(|()| downloads.waiter());
        let _fill = downloads.fill();
        metrics.collected(14);
        metrics.scrubbed(15);
        metrics.damaged();
        metrics.password_hashed();
        metrics.snapshot_of(16);
        metrics.snapshot_failed();
        let text = metrics.encode();
        for line in [
            r#"binaryrepo_requests_total{repository="docker-remote",action="blob.get",code="200"} 2"#,
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
            r#"binaryrepo_fills_in_flight{repository="docker-remote"} 1"#,
            r#"binaryrepo_waiters{repository="docker-remote"} 2"#,
            "binaryrepo_cache_bytes 11",
            "binaryrepo_cache_limit_bytes 12",
            "binaryrepo_pushed_bytes 13",
            "binaryrepo_collected_blobs_total 1",
            "binaryrepo_collected_bytes_total 14",
            "binaryrepo_scrubbed_bytes_total 15",
            "binaryrepo_damaged_blobs_total 1",
            "binaryrepo_password_hashes_total 1",
            "binaryrepo_metadata_snapshot_timestamp_seconds 16",
            "binaryrepo_metadata_snapshot_failures_total 1",
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
        metrics.bytes_from_upstream("a\"} 1\nforged", 1);
        assert!(!metrics.encode().lines().any(|line| line.starts_with("forged")));
    }
}

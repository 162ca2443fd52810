//! Owns what the upstream saw, and how to count it. Must not know: how it answers.

use crate::front::REGISTRY;
use hyper::Method;
use std::collections::BTreeMap;

/// One request as the upstream saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    pub host: String,
    pub path: String,
    pub range: Option<String>,
    pub status: Option<u16>,
}

impl Seen {
    /// What follows `/manifests/` or the like in a registry's path.
    fn part(&self, kind: &str) -> Option<&str> {
        self.path.split_once(kind).map(|(_, rest)| rest).filter(|_| self.path.starts_with("/v2/"))
    }
}

/// What was seen between two moments.
pub struct Log(pub Vec<Seen>);

impl Log {
    /// How many GETs each blob's digest got; proofs of one byte are not downloads, nor are requests that were
    /// only sent to the token server or on to the CDN.
    pub fn blob_gets(&self) -> BTreeMap<String, usize> {
        self.gets("/blobs/", |seen| seen.range.as_deref() != Some("bytes=0-0"))
    }

    /// How many GETs each manifest got, by tag or digest.
    pub fn manifest_gets(&self) -> BTreeMap<String, usize> {
        self.gets("/manifests/", |_| true)
    }

    fn gets(&self, kind: &str, counts: impl Fn(&Seen) -> bool) -> BTreeMap<String, usize> {
        let mut all = BTreeMap::new();
        for seen in self.0.iter().filter(|seen| seen.method == Method::GET && seen.host.starts_with(REGISTRY))
        {
            let answered = matches!(seen.status, Some(200 | 206 | 307));
            if let Some(what) = seen.part(kind).filter(|_| answered && counts(seen)) {
                *all.entry(what.to_owned()).or_default() += 1;
            }
        }
        all
    }

    /// Where GETs of this blob began that went on with what somebody had already.
    pub fn resumed_at(&self, digest: &str) -> Vec<u64> {
        let start =
            |seen: &Seen| seen.range.as_deref()?.strip_prefix("bytes=")?.split('-').next()?.parse().ok();
        let asked =
            self.0.iter().filter(|seen| seen.part("/blobs/") == Some(digest) && seen.status == Some(206));
        asked.filter_map(start).filter(|at| *at > 0).collect()
    }

    pub fn count(&self, wanted: impl Fn(&Seen) -> bool) -> usize {
        self.0.iter().filter(|seen| wanted(seen)).count()
    }

    pub fn lines(&self) -> String {
        let line = |seen: &Seen| {
            let status = seen.status.map_or("no answer".to_owned(), |status| status.to_string());
            format!(
                "    {} {}{} {} {status}\n",
                seen.method,
                seen.host,
                seen.path,
                seen.range.as_deref().unwrap_or("")
            )
        };
        self.0.iter().map(line).collect()
    }
}

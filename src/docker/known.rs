//! Owns what a thread knows of requests for content. A fleet asks for the same few names all day: what a path means is
//! worked out once, and its answer is made once, as long as all that they rest on stays as it is.
//! Must not know: who may have it, and how answers are made.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use http::request::Parts;
use http::{HeaderValue, Method};

use super::Context;
use super::route::Action;
use crate::engine::{Engine, Remembered, Repositories, Scope};
use crate::reply::{About, Content, Head, Note, Reply};

/// How many paths each thread knows, each of some hundred bytes. A thread that meets more begins anew.
const MOST: usize = 1_024;
/// Longer ones are looked at anew each time.
const LONGEST: usize = 1_024;
/// How many bytes of answers each thread keeps, as if nobody else had them. With more it begins anew.
const MOST_KEPT: usize = 4 << 20;
/// With more bytes to send an answer's head is the least of it.
const LARGEST: usize = 16 << 10;
/// What an answer takes besides its bytes.
const HEAD: usize = 1_024;

thread_local! {
    /// By path and query, for GET and for HEAD. Of a thread's own, so that nobody waits for it.
    static KNOWN: RefCell<[Table; 2]> = RefCell::default();
    static KEPT: Cell<usize> = const { Cell::new(0) };
}

type Table = HashMap<Box<str>, Rc<Known>, RandomState>;

/// What a path means.
pub struct Known {
    /// Under this host.
    host: Box<str>,
    /// With these repositories.
    version: u64,
    pub scope: Scope,
    pub action: Action,
    /// What containerd called the registry, to be said again.
    pub namespace: Option<HeaderValue>,
    /// All that it says before there is an answer.
    pub note: Note,
    kept: RefCell<Option<Kept>>,
}

/// The last answer, with counts of references that no other thread uses.
struct Kept {
    found: Remembered,
    head: Head,
    bytes: Option<Bytes>,
    weight: usize,
}

impl Known {
    /// The last answer once more, if it would be the same.
    pub fn again(&self, engine: &Engine) -> Option<Reply> {
        let kept = self.kept.borrow();
        let Kept { found, head, bytes, .. } = kept.as_ref()?;
        if !engine.is_current(&self.scope, found) {
            return None;
        }
        let mut reply = head.reply(bytes.clone().map_or(Content::Empty, Content::Bytes));
        reply.note.verdict = Some(found.verdict());
        Some(reply)
    }

    /// Keeps an answer that was made of what was found.
    pub fn keep(&self, found: Remembered, reply: &Reply) {
        let bytes = (!matches!(reply.content, Content::Empty)).then(|| found.bytes());
        let size = bytes.as_ref().map_or(0, Bytes::len);
        if size > LARGEST {
            return;
        }
        let weight = HEAD + size;
        let kept = Kept { found, head: Head::of(reply), bytes, weight };
        KEPT.set(KEPT.get() + weight);
        self.kept.replace(Some(kept));
        if KEPT.get() > MOST_KEPT {
            KNOWN.with_borrow(|tables| {
                let all = tables.iter().flat_map(HashMap::values);
                all.for_each(|known| drop(known.kept.take()));
            });
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        KEPT.set(KEPT.get() - self.weight);
    }
}

/// A request that means what its host, its path and its namespace say, and nothing else.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    is_head: bool,
    host: &'a str,
    path: &'a str,
    path_and_query: &'a str,
    version: u64,
}

impl<'a> Asked<'a> {
    /// `None`: something else has a say in it.
    pub fn of(repositories: &Repositories, context: &Context<'a>, request: &'a Parts) -> Option<Self> {
        let is_head = request.method == Method::HEAD;
        let reads = is_head || request.method == Method::GET;
        let of_namespace = request.uri.query().is_none_or(|query| query.starts_with("ns="));
        let (path, path_and_query) = (request.uri.path(), request.uri.path_and_query()?.as_str());
        if !reads || !of_namespace || path_and_query.len() > LONGEST || context.prefix.is_some() {
            return None;
        }
        Some(Self { is_head, host: context.host, path, path_and_query, version: repositories.version() })
    }

    /// What it meant the last time.
    pub fn known(&self) -> Option<Rc<Known>> {
        KNOWN.with_borrow(|tables| {
            let known = tables[usize::from(self.is_head)].get(self.path_and_query)?;
            (known.version == self.version && *known.host == *self.host).then(|| Rc::clone(known))
        })
    }

    /// To be called with what was found after [`Self::of`].
    pub fn know(&self, scope: Scope, action: Action, namespace: Option<HeaderValue>, mut note: Note) {
        note.about = note.about.map(|about| {
            let path = Some(self.path.into());
            Arc::new(About { path, ..About::clone(&about) })
        });
        let (host, version, kept) = (self.host.into(), self.version, RefCell::default());
        let known = Known { host, version, scope, action, namespace, note, kept };
        KNOWN.with_borrow_mut(|tables| {
            let table = &mut tables[usize::from(self.is_head)];
            if table.len() >= MOST {
                table.clear();
            }
            table.insert(self.path_and_query.into(), Rc::new(known));
        });
    }
}

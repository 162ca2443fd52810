//! Owns what was understood of requests for content. A fleet asks for the same few names all day: what a path means is
//! worked out once, and then only looked up, as long as the repositories stay as they are.
//! Must not know: what is answered, and who may have it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use http::Method;
use http::request::Parts;

use super::Context;
use super::route::Action;
use crate::engine::{Repositories, Scope};
use crate::reply::{About, Note};

/// How many paths each thread knows, each of some hundred bytes. A thread that meets more begins anew.
const MOST: usize = 1_024;

thread_local! {
    /// By path, for GET and for HEAD. Of a thread's own, so that nobody waits for it.
    static KNOWN: RefCell<[Table; 2]> = RefCell::default();
}

type Table = HashMap<Box<str>, Arc<Known>, RandomState>;

/// What a path means.
pub struct Known {
    /// Under this host.
    host: Box<str>,
    /// With these repositories.
    version: u64,
    pub scope: Scope,
    pub action: Action,
    /// All that it says before there is an answer.
    pub note: Note,
}

/// A request that means what its path and its host say, and nothing else.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    is_head: bool,
    host: &'a str,
    path: &'a str,
    version: u64,
}

impl<'a> Asked<'a> {
    /// `None`: something else has a say in it.
    pub fn of(repositories: &Repositories, context: &Context<'a>, request: &'a Parts) -> Option<Self> {
        let is_head = request.method == Method::HEAD;
        let reads = is_head || request.method == Method::GET;
        if !reads || request.uri.query().is_some() || context.prefix.is_some() {
            return None;
        }
        Some(Self { is_head, host: context.host, path: request.uri.path(), version: repositories.version() })
    }

    /// What it meant the last time.
    pub fn known(&self) -> Option<Arc<Known>> {
        KNOWN.with_borrow(|tables| {
            let known = tables[usize::from(self.is_head)].get(self.path)?;
            (known.version == self.version && *known.host == *self.host).then(|| Arc::clone(known))
        })
    }

    /// To be called with what was found after [`Self::of`].
    pub fn know(&self, scope: Scope, action: Action, mut note: Note) {
        note.about = note.about.map(|about| {
            let path = Some(self.path.into());
            Arc::new(About { path, ..About::clone(&about) })
        });
        let known = Known { host: self.host.into(), version: self.version, scope, action, note };
        KNOWN.with_borrow_mut(|tables| {
            let table = &mut tables[usize::from(self.is_head)];
            if table.len() >= MOST {
                table.clear();
            }
            table.insert(self.path.into(), Arc::new(known));
        });
    }
}

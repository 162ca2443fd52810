//! Owns the registry protocol (OCI distribution-spec): a request in, a [`Reply`] out.
//! Must not know: sockets, redb, files, and who may manage this server.

mod address;
mod permit;
mod pull;
mod push;
mod referrers;
mod route;
mod tags;
mod wire;

pub use address::{Site, bare_host};

use std::sync::Arc;

use http::StatusCode;
use http::header::{HeaderName, LOCATION};
use http::request::Parts;

use crate::engine::{Engine, Repositories, Repository, Scope};
use crate::reply::{Note, Reply};
use address::{Address, Directory, Entrance};
use route::{Action, Target};
use wire::WireError;

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");

/// What is known of a request besides the request itself.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub site: &'a Site,
    /// The host that the client named, with its port.
    pub host: &'a str,
    /// `X-Forwarded-Prefix`, where a trusted proxy sent one.
    pub prefix: Option<&'a str>,
    /// From this machine, with no proxy between.
    pub direct: bool,
    pub request_id: &'a str,
}

/// Answers a request of a registry client. When the client goes away, this future is dropped: a fetch that it
/// started belongs to the engine and goes on.
pub async fn handle(engine: &Engine, context: &Context<'_>, request: &Parts) -> Reply {
    let mut note = Note::default();
    let answered = answer(engine, context, request, &mut note).await;
    let reply = answered.unwrap_or_else(|error| error.into_reply(context.request_id));
    note.verdict = reply.note.verdict;
    reply.with_static(API_VERSION, "registry/2.0").with_note(note)
}

/// `note` is filled as the request is understood, so that a refusal is logged with all that was known of it.
async fn answer(
    engine: &Engine,
    context: &Context<'_>,
    request: &Parts,
    note: &mut Note,
) -> Result<Reply, WireError> {
    let query = request.uri.query();
    let route = route::route(&request.method, request.uri.path(), query)?;
    let namespace = route::parameter(query, "ns");
    let entrance = Entrance {
        site: context.site,
        host: context.host,
        path_repository: route.repository,
        prefix: context.prefix,
        namespace: namespace.as_deref(),
    };
    let (name, action) = match route.target {
        Target::Unslashed => return Ok(moved(&entrance, note)),
        Target::Base => return Ok(base(note)),
        Target::Catalog => return Err(no_catalog(note)),
        Target::Content { name, action } => (name, action),
    };
    note.action = action.name();
    let directory = Visible { repositories: engine.repositories(), direct: context.direct };
    let address = entrance.resolve(&directory, name)?;
    describe(note, &address, &action);
    let call = Call { engine, request, directory: &directory, address: &address, direct: context.direct };
    let reply = call.act(action).await.unwrap_or_else(|error| error.into_reply(context.request_id));
    Ok(match &address.namespace {
        Some(namespace) => reply.with_header(OCI_NAMESPACE, namespace),
        None => reply,
    })
}

/// A request whose address was found.
struct Call<'a> {
    engine: &'a Engine,
    request: &'a Parts,
    directory: &'a Visible<'a>,
    address: &'a Address,
    direct: bool,
}

impl Call<'_> {
    async fn act(&self, action: Action) -> Result<Reply, WireError> {
        let Self { engine, address, .. } = self;
        permit::may_pull(&address.repository, self.direct)?;
        let headers = &self.request.headers;
        let scope = Scope { repository: address.repository.clone(), image: address.image.clone() };
        match action {
            Action::Manifest { reference, want } => {
                pull::manifest(engine, &scope, &reference, want, headers).await
            }
            Action::Blob { digest, want } => pull::blob(engine, &scope, &digest, want, headers).await,
            // Boxed: rare and large, and the future of every other request would be as large.
            Action::Tags { page } => Box::pin(tags::list(engine, &scope, address, page)).await,
            Action::Referrers { digest, artifact_type, query } => {
                let artifact_type = artifact_type.as_deref();
                Box::pin(referrers::list(engine, &scope, address, &digest, artifact_type, &query)).await
            }
            Action::Push(push) => Err(push::refuse(self.directory, &address.repository, push)),
        }
    }
}

/// The repositories, of which an error names only those that the caller may see.
struct Visible<'a> {
    repositories: &'a Repositories,
    direct: bool,
}

impl Directory for Visible<'_> {
    fn by_name(&self, name: &str) -> Option<Arc<Repository>> {
        self.repositories.by_name(name)
    }
    fn by_namespace(&self, namespace: &str) -> Option<Arc<Repository>> {
        self.repositories.by_namespace(namespace)
    }
    fn default_mirror(&self) -> Option<Arc<Repository>> {
        self.repositories.default_mirror()
    }
    fn list(&self) -> Vec<Arc<Repository>> {
        let mut all = self.repositories.list();
        all.retain(|repository| permit::may_pull(repository, self.direct).is_ok());
        all
    }
}

/// From memory, and never a challenge: docker gives up on this after 15 seconds, podman on any other status.
fn base(note: &mut Note) -> Reply {
    note.action = "base";
    Reply::bytes(StatusCode::OK, "application/json", "{}")
}

fn moved(entrance: &Entrance<'_>, note: &mut Note) -> Reply {
    note.action = "base";
    Reply::empty(StatusCode::MOVED_PERMANENTLY).with_header(LOCATION, &format!("{}/v2/", entrance.front()))
}

fn no_catalog(note: &mut Note) -> WireError {
    note.action = "catalog";
    WireError::refused("", "there is no catalog over this protocol; `binaryrepo ls` tells what is kept")
}

fn describe(note: &mut Note, address: &Address, action: &Action) {
    note.repository = Some(address.repository.name.clone());
    note.image = Some(address.image.clone());
    note.reference = match action {
        Action::Manifest { reference, .. } => Some(reference.to_string()),
        Action::Blob { digest, .. } | Action::Referrers { digest, .. } => Some(digest.to_string()),
        Action::Tags { .. } | Action::Push(_) => None,
    };
}

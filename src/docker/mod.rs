//! Owns the registry protocol (OCI distribution-spec): a request in, a [`Reply`] out.
//! Must not know: sockets, redb, files, how a caller is recognised, and who may manage this server.

mod address;
mod body;
mod catalog;
mod challenge;
mod permit;
mod pull;
mod push;
mod referrers;
mod route;
mod scope;
mod tags;
mod token;
mod upload;
mod wire;

pub use address::{Site, bare_host};
pub use body::{BodyFault, Incoming, drain};
pub use challenge::BadCredentials;
pub use permit::Openness;
pub use token::{MAX_FORM, token, token_path};

use std::fmt;
use std::sync::Arc;

use http::StatusCode;
use http::header::{CONNECTION, EXPECT, HeaderName, LOCATION};
use http::request::Parts;

use crate::engine::{Engine, Identity, Principal, Repositories, Repository, Scope};
use crate::reply::{Note, Reply};
use address::{Address, Directory, Entrance};
use challenge::Challenge;
use permit::Right;
use route::{Action, Push, Target};
use wire::{Code, WireError};

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
    /// Scheme and host under which the client reaches this server: `https://registry.example.com`.
    pub origin: Origin<'a>,
    /// Who asks, or what is wrong with what was sent to show it.
    pub identity: &'a Result<Identity, BadCredentials>,
    pub openness: Openness,
    pub request_id: &'a str,
}

/// Written out only where an answer names it.
#[derive(Clone, Copy, Debug)]
pub enum Origin<'a> {
    Set(&'a str),
    Asked { secure: bool, host: &'a str },
}

impl fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set(origin) => f.write_str(origin),
            Self::Asked { secure, host } => write!(f, "{}://{host}", if *secure { "https" } else { "http" }),
        }
    }
}

/// Answers a request of a registry client. When the client goes away, this future is dropped: a fetch that it
/// started belongs to the engine and goes on, and so does a change that was begun; an upload rests with what came.
pub async fn handle(
    engine: &Engine,
    context: &Context<'_>,
    request: &Parts,
    mut body: impl Incoming,
) -> Reply {
    let mut note = Note::default();
    let answered = answer(engine, context, request, &mut body, &mut note).await;
    let mut reply = answered.unwrap_or_else(|error| error.into_reply(context.request_id));
    note.verdict = reply.note.verdict;
    if !body.is_end_stream() && !hears(request, &mut body).await {
        reply = reply.with_static(CONNECTION, "close");
    }
    reply.with_static(API_VERSION, "registry/2.0").with_note(note)
}

/// Whether the client is done sending what was not wanted, and so listens. One that asked first is not made to send.
async fn hears(request: &Parts, body: &mut impl Incoming) -> bool {
    !request.headers.contains_key(EXPECT) && Box::pin(body::drain(body)).await
}

/// `note` is filled as the request is understood, so that a refusal is logged with all that was known of it.
async fn answer(
    engine: &Engine,
    context: &Context<'_>,
    request: &Parts,
    body: &mut impl Incoming,
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
    let directory = Visible { repositories: engine.repositories(), context };
    // What is refused says how to do better.
    let refuse = |error: WireError, scope: Option<String>| {
        let challenge = Challenge::new(context, &entrance, scope);
        challenge.complete(error.clone().into_reply(context.request_id), &error)
    };
    let (name, action) = match route.target {
        Target::Unslashed => return Ok(moved(&entrance, note)),
        Target::Base => {
            note.action = "base";
            let named = entrance.repository(&directory).ok().flatten();
            let entered = permit::may_enter(context, named.as_deref());
            return Ok(entered.map_or_else(|error| refuse(error, None), |()| base()));
        }
        Target::Catalog { page } => {
            note.action = "catalog";
            if let Err(error) = permit::may_list(context) {
                return Ok(refuse(error, Some(challenge::LISTING_SCOPE.to_owned())));
            }
            return Box::pin(catalog::list(engine, context, &entrance, &directory, page)).await;
        }
        Target::Content { name, action } => (name, action),
    };
    note.action = action.name();
    let right = action.right();
    let scope = || challenge::image_scope(name, right);
    let address = match entrance.resolve(&directory, name) {
        Ok(address) => address,
        Err(error) => return Ok(refuse(permit::nowhere(context, error), scope())),
    };
    describe(note, &address, &action);
    let call =
        Call { engine, context, request, entrance: &entrance, directory: &directory, address: &address };
    let reply = call.act(action, body).await.unwrap_or_else(|error| refuse(error, scope()));
    Ok(match &address.namespace {
        Some(namespace) => reply.with_header(OCI_NAMESPACE, namespace),
        None => reply,
    })
}

/// A request whose address was found.
struct Call<'a> {
    engine: &'a Engine,
    context: &'a Context<'a>,
    request: &'a Parts,
    entrance: &'a Entrance<'a>,
    directory: &'a Visible<'a>,
    address: &'a Address,
}

impl Call<'_> {
    /// Where to look for what was asked; decided before anything is looked up. What the caller may not see is looked
    /// for where nothing is, and so answered as if it did not exist.
    fn permitted(&self, action: &Action) -> Result<Scope, WireError> {
        let Address { repository, image, .. } = self.address;
        let scope = |repository| Scope { repository, image: image.clone() };
        let Err(error) = permit::may(self.context, repository, image, action.right()) else {
            return Ok(scope(repository.clone()));
        };
        if error.code != Code::NameUnknown {
            return Err(error);
        }
        match self.entrance.repository(self.directory) {
            Ok(Some(named)) if !permit::sees(self.context, &named) => {
                return Err(address::unknown_repository(self.directory, named.name.as_str()));
            }
            _ => {}
        }
        match repository.emptied() {
            Some(empty) if action.right() == Right::Pull => Ok(scope(Arc::new(empty))),
            _ => Err(missing(action, error)),
        }
    }

    async fn act(&self, action: Action, body: &mut impl Incoming) -> Result<Reply, WireError> {
        let Self { engine, address, .. } = self;
        let scope = self.permitted(&action)?;
        let headers = &self.request.headers;
        match action {
            Action::Manifest { reference, want } => {
                pull::manifest(engine, &scope, &reference, want, headers).await
            }
            Action::Blob { digest, want } => pull::blob(engine, &scope, &digest, want, headers).await,
            // Boxed: rare and large, and the future of every other request would be as large.
            Action::Tags { page } => Box::pin(tags::list(engine, &scope, address, page)).await,
            Action::Referrers { digest, query } => {
                Box::pin(referrers::list(engine, &scope, address, &digest, &query)).await
            }
            Action::Push(push) => Box::pin(push::act(self, &scope, push, body)).await,
        }
    }

    /// Who pushes. By then it is known who they are.
    fn principal(&self) -> &Principal {
        match self.context.identity {
            Ok(identity) => &identity.principal,
            Err(_) => &Principal::Anonymous,
        }
    }

    /// Another image, as this client spells it. Whether it may be read is another matter.
    fn resolve(&self, name: &str) -> Option<Scope> {
        let address = self.entrance.resolve(self.directory, name).ok()?;
        Some(Scope { repository: address.repository, image: address.image })
    }
}

/// The repositories, of which an error names only those that the caller may see.
struct Visible<'a> {
    repositories: &'a Repositories,
    context: &'a Context<'a>,
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
        all.retain(|repository| permit::sees(self.context, repository));
        all
    }
}

/// From memory: docker gives up on this after 15 seconds, podman on any status but this and 401.
fn base() -> Reply {
    Reply::bytes(StatusCode::OK, "application/json", "{}")
}

fn moved(entrance: &Entrance<'_>, note: &mut Note) -> Reply {
    note.action = "base";
    Reply::empty(StatusCode::MOVED_PERMANENTLY).with_header(LOCATION, &format!("{}/v2/", entrance.front()))
}

fn describe(note: &mut Note, address: &Address, action: &Action) {
    note.repository = Some(address.repository.name.clone());
    note.image = Some(address.image.clone());
    note.reference = match action {
        Action::Manifest { reference, .. } => Some(reference.to_string()),
        Action::Blob { digest, .. } | Action::Referrers { digest, .. } => Some(digest.to_string()),
        Action::Push(push) => push.reference(),
        Action::Tags { .. } => None,
    };
}

/// In the code of what was asked for.
fn missing(action: &Action, error: WireError) -> WireError {
    match action {
        Action::Manifest { .. } | Action::Push(Push::DeleteManifest { .. }) => {
            WireError::new(Code::ManifestUnknown, error.message)
        }
        Action::Blob { .. } | Action::Push(Push::DeleteBlob { .. }) => {
            WireError::new(Code::BlobUnknown, error.message)
        }
        Action::Tags { .. }
        | Action::Referrers { .. }
        | Action::Push(Push::PutManifest { .. } | Push::StartUpload(_) | Push::Upload { .. }) => error,
    }
}

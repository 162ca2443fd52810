//! Owns the registry protocol (OCI distribution-spec): a request in, a [`Reply`] out.
//! Must not know: sockets, redb, files, how a caller is recognised, and who may manage this server.

mod address;
mod body;
mod catalog;
mod challenge;
mod known;
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

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::header::{CONNECTION, EXPECT, HeaderName, LOCATION};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::engine::{Engine, Identity, PageQuery, Principal, Repositories, Repository, Scope};
use crate::names::Reference;
use crate::reply::{About, Note, Reply};
use address::{Address, Directory, Entrance};
use challenge::Challenge;
use known::{Asked, Known};
use permit::Right;
use pull::AtOnce;
use route::{Action, Push, Target};
use wire::{API_VERSION, Code, REGISTRY_2, WireError};

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

/// The answer to a request without a body, where all that it rests on is in memory; `None` where it has to be waited
/// for, by [`handle`]. Most pulls end here, without a future for what they never come to.
pub fn at_once(engine: &Engine, context: &Context<'_>, request: &Parts) -> Option<Reply> {
    let asked = Asked::of(engine.repositories(), context, request);
    let known = asked.and_then(|asked| asked.known());
    if let Some(reply) = known.and_then(|known| again(engine, context, request, &known)) {
        return Some(reply);
    }
    let mut note = Note::default();
    let namespace = route::parameter(request.uri.query(), "ns");
    let answered = match understand(engine, context, request, namespace.as_deref(), &mut note) {
        Ok(Understood::Told(reply)) => Ok(reply),
        Ok(Understood::Catalog { .. }) => return None,
        Ok(Understood::Asks(call, action)) => match call.at_once(&action)? {
            Ok(AtOnce { mut reply, .. }) => {
                let namespace = call.namespace();
                name_namespace(&mut reply, namespace.as_ref());
                describe(&mut reply, note.clone());
                if let Some(asked) = asked {
                    asked.know(call.address.scope, action, namespace, note);
                }
                return Some(reply);
            }
            Err(error) => Ok(call.finish(Err(error))),
        },
        Err(error) => Err(error),
    };
    Some(finish(answered, context, note))
}

/// The same for a request that was understood before. Where it is not answered from memory, or not to this caller, it
/// goes the way of every other.
fn again(engine: &Engine, context: &Context<'_>, request: &Parts, known: &Known) -> Option<Reply> {
    let Scope { repository, image } = &known.scope;
    permit::may(context, repository, image, known.action.right()).ok()?;
    let kept = if pull::is_plain(&request.headers) { known.again(engine) } else { None };
    let mut reply = match kept {
        Some(reply) => reply,
        None => {
            let found = from_memory(engine, &known.scope, &known.action, &request.headers)?.ok()?;
            let AtOnce { mut reply, whole } = found;
            name_namespace(&mut reply, known.namespace.as_ref());
            if let Some(found) = whole {
                known.keep(found, &reply);
            }
            reply
        }
    };
    describe(&mut reply, known.note.clone());
    Some(reply)
}

/// `None` where it has to be waited for, or is no reading of content.
fn from_memory(
    engine: &Engine,
    scope: &Scope,
    action: &Action,
    headers: &HeaderMap,
) -> Option<Result<AtOnce, WireError>> {
    match action {
        Action::Manifest { reference, want } => {
            pull::manifest_at_once(engine, scope, reference, *want, headers).map(Ok)
        }
        Action::Blob { digest, want } => pull::blob_at_once(engine, scope, digest, *want, headers),
        Action::Tags { .. } | Action::Referrers { .. } | Action::Push(_) => None,
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
    let reply = finish(answered, context, note);
    if !body.is_end_stream() && !hears(request, &mut body).await {
        return reply.with_static(CONNECTION, "close");
    }
    reply
}

fn finish(answered: Result<Reply, WireError>, context: &Context<'_>, note: Note) -> Reply {
    let mut reply = answered.unwrap_or_else(|error| error.into_reply(context.request_id));
    reply.headers.insert(API_VERSION, REGISTRY_2);
    describe(&mut reply, note);
    reply
}

fn name_namespace(reply: &mut Reply, namespace: Option<&HeaderValue>) {
    if let Some(namespace) = namespace {
        reply.headers.insert(OCI_NAMESPACE, namespace.clone());
    }
}

fn describe(reply: &mut Reply, note: Note) {
    reply.note = Note { verdict: reply.note.verdict, ..note };
}

/// Whether the client is done sending what was not wanted, and so listens. One that asked first is not made to send.
async fn hears(request: &Parts, body: &mut impl Incoming) -> bool {
    !request.headers.contains_key(EXPECT) && Box::pin(body::drain(body)).await
}

async fn answer(
    engine: &Engine,
    context: &Context<'_>,
    request: &Parts,
    body: &mut impl Incoming,
    note: &mut Note,
) -> Result<Reply, WireError> {
    let namespace = route::parameter(request.uri.query(), "ns");
    match understand(engine, context, request, namespace.as_deref(), note)? {
        Understood::Told(reply) => Ok(reply),
        Understood::Catalog { entrance, directory, page } => {
            catalog::list(engine, context, &entrance, &directory, page).await
        }
        Understood::Asks(call, action) => {
            let acted = call.act(action, body).await;
            Ok(call.finish(acted))
        }
    }
}

/// What becomes of a request before anything is looked up.
enum Understood<'a> {
    Told(Reply),
    Catalog { entrance: Entrance<'a>, directory: Visible<'a>, page: PageQuery },
    Asks(Call<'a>, Action),
}

/// `note` is filled as the request is understood, so that a refusal is logged with all that was known of it.
fn understand<'a>(
    engine: &'a Engine,
    context: &'a Context<'a>,
    request: &'a Parts,
    namespace: Option<&'a str>,
    note: &mut Note,
) -> Result<Understood<'a>, WireError> {
    let route = route::route(&request.method, request.uri.path(), request.uri.query())?;
    let entrance = Entrance {
        site: context.site,
        host: context.host,
        path_repository: route.repository,
        prefix: context.prefix,
        namespace,
    };
    let directory = Visible { repositories: engine.repositories(), context };
    let (name, action) = match route.target {
        Target::Unslashed => return Ok(Understood::Told(moved(&entrance, note))),
        Target::Base => {
            note.action = "base";
            let named = entrance.repository(&directory).ok().flatten();
            let entered = permit::may_enter(context, named.as_deref());
            return Ok(Understood::Told(match entered {
                Ok(()) => base(),
                Err(error) => refuse(context, &entrance, error, None),
            }));
        }
        Target::Catalog { page } => {
            note.action = "catalog";
            return Ok(match permit::may_list(context) {
                Ok(()) => Understood::Catalog { entrance, directory, page },
                Err(error) => {
                    let scope = Some(challenge::LISTING_SCOPE.to_owned());
                    Understood::Told(refuse(context, &entrance, error, scope))
                }
            });
        }
        Target::Content { name, action } => (name, action),
    };
    note.action = action.name();
    let right = action.right();
    match entrance.resolve(&directory, name) {
        Ok(address) => {
            note.about = Some(about(&address.scope, &action));
            let call = Call { engine, context, request, entrance, directory, address, name, right };
            Ok(Understood::Asks(call, action))
        }
        Err(error) => {
            let error = permit::nowhere(context, error);
            let scope = challenge::image_scope(name, right);
            Ok(Understood::Told(refuse(context, &entrance, error, scope)))
        }
    }
}

/// What is refused says how to do better.
fn refuse(context: &Context<'_>, entrance: &Entrance<'_>, error: WireError, scope: Option<String>) -> Reply {
    let challenge = Challenge::new(context, entrance, scope);
    challenge.complete(error.clone().into_reply(context.request_id), &error)
}

/// A request whose address was found.
struct Call<'a> {
    engine: &'a Engine,
    context: &'a Context<'a>,
    request: &'a Parts,
    entrance: Entrance<'a>,
    directory: Visible<'a>,
    address: Address<'a>,
    /// As it stands in the path.
    name: &'a str,
    right: Right,
}

impl Call<'_> {
    fn finish(&self, answered: Result<Reply, WireError>) -> Reply {
        let mut reply = answered.unwrap_or_else(|error| {
            let scope = challenge::image_scope(self.name, self.right);
            refuse(self.context, &self.entrance, error, scope)
        });
        name_namespace(&mut reply, self.namespace().as_ref());
        reply
    }

    fn namespace(&self) -> Option<HeaderValue> {
        self.address.namespace.and_then(|namespace| HeaderValue::from_str(namespace).ok())
    }

    /// Where to look for what was asked; decided before anything is looked up. What the caller may not see is looked
    /// for where nothing is, and so answered as if it did not exist.
    fn permitted(&self, action: &Action) -> Result<Cow<'_, Scope>, WireError> {
        let Scope { repository, image } = &self.address.scope;
        let Err(error) = permit::may(self.context, repository, image, self.right) else {
            return Ok(Cow::Borrowed(&self.address.scope));
        };
        if error.code != Code::NameUnknown {
            return Err(error);
        }
        match self.entrance.repository(&self.directory) {
            Ok(Some(named)) if !permit::sees(self.context, &named) => {
                return Err(address::unknown_repository(&self.directory, named.name.as_str()));
            }
            _ => {}
        }
        match repository.emptied() {
            Some(empty) if self.right == Right::Pull => {
                Ok(Cow::Owned(Scope { repository: Arc::new(empty), image: image.clone() }))
            }
            _ => Err(missing(action, error)),
        }
    }

    /// `None` where it has to be waited for, by [`Self::act`].
    fn at_once(&self, action: &Action) -> Option<Result<AtOnce, WireError>> {
        let scope = match self.permitted(action) {
            Ok(scope) => scope,
            Err(error) => return Some(Err(error)),
        };
        from_memory(self.engine, &scope, action, &self.request.headers)
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
            Action::Tags { page } => tags::list(engine, &scope, address, page).await,
            Action::Referrers { digest, query } => {
                referrers::list(engine, &scope, address, &digest, &query).await
            }
            Action::Push(push) => push::act(self, &scope, push, body).await,
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
        Some(self.entrance.resolve(&self.directory, name).ok()?.scope)
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

fn about(scope: &Scope, action: &Action) -> Arc<About> {
    let reference = match action {
        Action::Manifest { reference, .. } => Some(reference.clone()),
        Action::Blob { digest, .. } | Action::Referrers { digest, .. } => Some(Reference::Digest(*digest)),
        Action::Push(push) => push.reference(),
        Action::Tags { .. } => None,
    };
    let reference = reference.map(|reference| reference.to_string().into());
    let (repository, image) = (scope.repository.name.clone(), Some(scope.image.clone()));
    Arc::new(About { repository, image, reference, path: None })
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

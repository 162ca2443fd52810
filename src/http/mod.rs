//! Owns the server's front: from a connection to a request in its envelope, and from there to the room that
//! answers it. Must not know: what a registry's requests mean, and how they are answered.

mod access;
mod auth;
mod body;
mod caller;
mod credentials;
mod door;
mod listener;
mod outlet;
mod seldom;
mod threads;
mod watched;

pub use auth::Gate;
pub use body::Pace;
pub use caller::Peer;
pub use listener::{Handler, Limits, Listener, Stopped, serve};
pub use threads::Threads;

use std::error::Error as StdError;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use ipnet::IpNet;
use serde_json::json;

use crate::api as management;
use crate::clock::Clock;
use crate::docker::{self, BadCredentials, Openness, Origin, Site};
use crate::engine::{Engine, Identity};
use crate::reply::{Note, Reply};
use crate::telemetry::{AccessLog, Held};
use access::{Arrival, Envelope, Line, closing};
use body::{Paced, ResponseBody};
use caller::{Caller, RequestId};
use credentials::Shown;
use door::Door;

/// How this server is reached, and by whom it is managed.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub site: Site,
    /// Peers whose `X-Forwarded-*` counts.
    pub trusted_proxies: Vec<IpNet>,
    pub gate: Gate,
    /// Scheme and host under which clients know this server, without a slash at the end; otherwise the request tells.
    pub public_origin: Option<String>,
    /// Whether strangers may come in as long as nobody can log in.
    pub strangers: bool,
    /// Whether remotes without stored credentials are open to strangers even so.
    pub open_access: bool,
    /// The slowest that a request's body may come.
    pub pace: Pace,
    /// Where the lines about requests go, if anybody wants them.
    pub access_log: Option<AccessLog>,
}

/// Answers every request of every connection. Cheap to clone.
pub struct Service {
    front: Arc<Front>,
    envelope: Arc<Envelope>,
}

impl Clone for Service {
    /// With an envelope of its own: each request counts that it refers to it, and threads that count together wait for
    /// each other.
    fn clone(&self) -> Self {
        Self { front: Arc::clone(&self.front), envelope: Arc::new(Envelope::clone(&self.envelope)) }
    }
}

struct Front {
    engine: Engine,
    site: Site,
    gate: Gate,
    public_origin: Option<String>,
    strangers: bool,
    open_access: bool,
    pace: Pace,
    clock: Clock,
}

impl Service {
    pub fn new(engine: Engine, settings: Settings, clock: Clock) -> Self {
        let metrics = engine.metrics().clone();
        let Settings {
            site,
            trusted_proxies,
            gate,
            public_origin,
            strangers,
            open_access,
            pace,
            access_log: log,
        } = settings;
        let trusted_proxies = trusted_proxies.into();
        let envelope = Arc::new(Envelope { metrics, log, clock: clock.clone(), trusted_proxies });
        let front = Front { engine, site, gate, public_origin, strangers, open_access, pace, clock };
        Self { front: Arc::new(front), envelope }
    }
}

impl Handler for Service {
    type Body = ResponseBody<Box<Line>>;
    type Held = Held;

    fn connected(&self) -> Held {
        self.envelope.metrics.connection()
    }

    fn answer(
        &self,
        request: Request<Incoming>,
        peer: Peer,
    ) -> impl Future<Output = Response<ResponseBody<Box<Line>>>> + Send {
        let front = &self.front;
        self.envelope.answer(
            request,
            peer,
            |arrival| front.at_once(arrival),
            |arrival| front.dispatch(arrival),
        )
    }
}

impl Front {
    /// What [`Self::dispatch`] would answer, where nothing has to be waited for: a registry's client that asks for what
    /// is in memory. The other doors are opened rarely.
    fn at_once<B: Body>(&self, arrival: &Arrival<B>) -> Option<Reply> {
        let Arrival { parts, body, caller, request_id } = arrival;
        if !body.is_end_stream() || Door::of(parts.uri.path(), &self.site, &caller.host) != Door::Registry {
            return None;
        }
        let openness = self.openness();
        let Shown::Identity(identity) = self.shown(openness, caller, parts) else { return None };
        let visit = Visit { openness, identity };
        let context = visit.context(self, caller, request_id);
        let mut reply = docker::at_once(&self.engine, &context, parts)?;
        visit.sign(&mut reply);
        Some(reply)
    }

    async fn dispatch<B>(&self, arrival: Arrival<B>) -> Reply
    where
        B: Body<Data = Bytes> + Send + Unpin,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let Arrival { parts, body, caller, request_id } = arrival;
        let door = Door::of(parts.uri.path(), &self.site, &caller.host);
        if let Some(refusal) = door.refuses(&parts.method) {
            return refusal;
        }
        match door {
            Door::Index => door::index(),
            Door::Health => door::health(),
            Door::Ready => self.ready(&caller).await,
            Door::Metrics => door::scrape(self.engine.metrics()),
            Door::Management => self.manage(Arrival { parts, body, caller, request_id }).await,
            Door::Token => self.token(Arrival { parts, body, caller, request_id }).await,
            Door::Registry => {
                let visit = self.visit(&caller, &parts).await;
                let paced = Paced::new(body, self.pace, self.clock.clone());
                let body = paced.map_err(docker::BodyFault::from);
                let context = visit.context(self, &caller, &request_id);
                let mut reply = docker::handle(&self.engine, &context, &parts, body).await;
                visit.sign(&mut reply);
                reply
            }
        }
    }

    /// Who comes to the registry, and what is open there.
    async fn visit(&self, caller: &Caller, parts: &Parts) -> Visit {
        let openness = self.openness();
        let shown = self.shown(openness, caller, parts);
        Visit { openness, identity: shown.identify(self.engine.accounts(), caller).await }
    }

    fn openness(&self) -> Openness {
        let closed = !self.engine.accounts().is_empty() || !self.strangers;
        Openness { closed, open_access: self.open_access }
    }

    fn shown(&self, openness: Openness, caller: &Caller, parts: &Parts) -> Shown {
        let accounts = self.engine.accounts();
        credentials::shown(accounts, &self.gate, &self.site, openness, caller, &parts.headers)
    }

    async fn token<B>(&self, arrival: Arrival<B>) -> Reply
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let Arrival { parts, body, caller, request_id } = arrival;
        let mut paced = Paced::new(body, self.pace, self.clock.clone());
        let form = match body::collect(&mut paced, docker::MAX_FORM).await {
            Ok(form) => form,
            Err(fault) => {
                docker::drain(&mut paced).await;
                return closing(door::unread_form(&fault));
            }
        };
        let visit = self.visit(&caller, &parts).await;
        let context = visit.context(self, &caller, &request_id);
        docker::token(&self.engine, &context, &parts, &form, caller.client).await
    }

    async fn ready(&self, caller: &Caller) -> Reply {
        let status = self.engine.status().await;
        let code = if status.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        // Details may tell of paths and upstreams: they are for this machine.
        let check = |check: &crate::engine::Check| match caller.direct {
            true => json!({ "name": check.name, "ok": check.ok, "detail": check.detail }),
            false => json!({ "name": check.name, "ok": check.ok }),
        };
        let checks: Vec<_> = status.checks.iter().map(check).collect();
        Reply::json(code, &json!({ "ready": status.ready, "checks": checks })).with_note(Note::of("ready"))
    }

    /// Who may manage is asked before a byte of the body is read. What is refused is read on even so, up to a point: a
    /// proxy whose connection ends while it still sends tells its client that nobody answers here.
    async fn manage<B>(&self, arrival: Arrival<B>) -> Reply
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let Arrival { parts, body, caller, .. } = arrival;
        let mut paced = Paced::new(body, self.pace, self.clock.clone());
        let manager = auth::manager(self.engine.accounts(), &self.gate, &caller, &parts.headers).await;
        let principal = match manager {
            Ok(principal) => principal,
            Err(refusal) => {
                docker::drain(&mut paced).await;
                return closing(door::refused(refusal));
            }
        };
        match body::collect(&mut paced, management::MAX_BODY).await {
            Ok(body) => {
                let path = parts.uri.path().to_owned();
                let query = parts.uri.query().map(str::to_owned);
                let user = principal.label().to_owned();
                let method = parts.method;
                let request = management::ApiRequest { method, path, query, body, caller: principal };
                let mut reply = management::handle(&self.engine, request).await;
                reply.note.user = Some(user);
                reply
            }
            Err(fault) => {
                docker::drain(&mut paced).await;
                closing(door::unread(&fault))
            }
        }
    }
}

/// Somebody at the registry's door.
struct Visit {
    openness: Openness,
    identity: Result<Identity, BadCredentials>,
}

impl Visit {
    fn context<'a>(
        &'a self,
        front: &'a Front,
        caller: &'a Caller,
        request_id: &'a RequestId,
    ) -> docker::Context<'a> {
        let asked = Origin::Asked { secure: caller.secure, host: &caller.host };
        docker::Context {
            site: &front.site,
            host: &caller.host,
            prefix: caller.prefix.as_deref(),
            origin: front.public_origin.as_deref().map_or(asked, Origin::Set),
            identity: &self.identity,
            openness: self.openness,
            request_id: request_id.as_str(),
        }
    }

    /// Puts into the log who it was.
    fn sign(&self, reply: &mut Reply) {
        let principal = self.identity.as_ref().ok().map(|identity| &identity.principal);
        let shown = principal.filter(|principal| self.openness.closed && !principal.is_anonymous());
        reply.note.user = shown.map(|principal| principal.label().to_owned());
    }
}

//! Owns the server's front: from a connection to a request in its envelope, and from there to the room that
//! answers it. Must not know: what a registry's requests mean, and how they are answered.

mod access;
mod auth;
mod body;
mod caller;
mod door;
mod listener;
mod watched;

pub use auth::Gate;
pub use body::Pace;
pub use caller::Peer;
pub use listener::{Handler, Limits, Listener, Stopped, serve};

use std::error::Error as StdError;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use ipnet::IpNet;
use serde_json::json;

use crate::api as management;
use crate::clock::Clock;
use crate::docker::{self, Site};
use crate::engine::Engine;
use crate::reply::{Note, Reply};
use crate::telemetry::Held;
use access::{Arrival, Envelope, Line, closing};
use body::{Paced, ResponseBody};
use caller::Caller;
use door::Door;

/// How this server is reached, and by whom it is managed.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub site: Site,
    /// Peers whose `X-Forwarded-*` counts.
    pub trusted_proxies: Vec<IpNet>,
    pub gate: Gate,
    /// The slowest that a request's body may come.
    pub pace: Pace,
}

/// Answers every request of every connection. Cheap to clone.
#[derive(Clone)]
pub struct Service(Arc<Front>);

struct Front {
    engine: Engine,
    site: Site,
    gate: Gate,
    pace: Pace,
    envelope: Envelope,
}

impl Service {
    pub fn new(engine: Engine, settings: Settings, clock: Clock) -> Self {
        let metrics = engine.metrics().clone();
        let Settings { site, trusted_proxies, gate, pace } = settings;
        let envelope = Envelope { metrics, clock, trusted_proxies };
        Self(Arc::new(Front { engine, site, gate, pace, envelope }))
    }
}

impl Handler for Service {
    type Body = ResponseBody<Box<Line>>;
    type Held = Held;

    fn connected(&self) -> Held {
        self.0.envelope.metrics.connection()
    }

    async fn answer(&self, request: Request<Incoming>, peer: Peer) -> Response<ResponseBody<Box<Line>>> {
        let front = &self.0;
        front.envelope.answer(request, peer, |arrival| front.dispatch(arrival)).await
    }
}

impl Front {
    async fn dispatch<B>(&self, arrival: Arrival<B>) -> Reply
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let Arrival { parts, caller, request_id, .. } = &arrival;
        let door = Door::of(parts.uri.path(), &self.site, &caller.host);
        if let Some(refusal) = door.refuses(&parts.method) {
            return refusal;
        }
        match door {
            Door::Index => door::index(),
            Door::Health => door::health(),
            // Boxed: rare and large, and the future of every pull would be as large.
            Door::Ready => Box::pin(self.ready(caller)).await,
            Door::Metrics => door::scrape(&self.envelope.metrics),
            Door::Management => Box::pin(self.manage(arrival)).await,
            Door::Registry => {
                let context = docker::Context {
                    site: &self.site,
                    host: &caller.host,
                    prefix: caller.prefix.as_deref(),
                    direct: caller.direct,
                    request_id: request_id.as_str(),
                };
                docker::handle(&self.engine, &context, parts).await
            }
        }
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

    /// Who may manage is asked before a byte of the body is read.
    async fn manage<B>(&self, arrival: Arrival<B>) -> Reply
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let Arrival { parts, body, caller, .. } = arrival;
        if let Err(refusal) = auth::may_manage(&self.gate, &caller, &parts.headers) {
            return closing(door::refused(refusal));
        }
        let paced = Paced::new(body, self.pace, self.envelope.clock.clone());
        match body::collect(paced, management::MAX_BODY).await {
            Ok(body) => {
                let path = parts.uri.path().to_owned();
                let query = parts.uri.query().map(str::to_owned);
                let request = management::ApiRequest { method: parts.method, path, query, body };
                management::handle(&self.engine, request).await
            }
            Err(fault) => closing(door::unread(&fault)),
        }
    }
}

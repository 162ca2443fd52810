//! Owns which room a path belongs to. Pure. Must not know: what the rooms do with it.

use std::time::Duration;

use http::header::{ALLOW, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use serde_json::json;

use super::auth::Refusal;
use super::body::BodyFault;
use crate::api::ApiError;
use crate::docker::{Site, token_path};
use crate::engine::LogInFault;
use crate::reply::{Note, Reply};
use crate::telemetry::Metrics;

/// Where a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Index,
    Health,
    Ready,
    Metrics,
    Management,
    /// Where registry clients get their tokens.
    Token,
    /// Everything else, so that whatever is strange is refused in the registry's form.
    Registry,
}

impl Door {
    /// A repository's host shows that repository, and nothing of the server.
    pub fn of(path: &str, site: &Site, host: &str) -> Self {
        let of_server = || site.repository_label(host).is_none();
        match path {
            "/" => Self::Index,
            "/healthz" => Self::Health,
            "/readyz" => Self::Ready,
            "/metrics" if of_server() => Self::Metrics,
            "/api" if of_server() => Self::Management,
            _ if path.starts_with("/api/") && of_server() => Self::Management,
            _ if token_path(path).is_some() => Self::Token,
            _ => Self::Registry,
        }
    }

    /// 405 where a door that only tells something was asked to do something.
    pub fn refuses(self, method: &Method) -> Option<Reply> {
        let action = match self {
            Self::Index => "index",
            Self::Health => "health",
            Self::Ready => "ready",
            Self::Metrics => "metrics",
            Self::Management | Self::Token | Self::Registry => return None,
        };
        if matches!(*method, Method::GET | Method::HEAD) {
            return None;
        }
        let status = StatusCode::METHOD_NOT_ALLOWED;
        let reply = Reply::error(status, "UNSUPPORTED", "this path takes only GET, HEAD", None);
        Some(reply.with_header(ALLOW, "GET, HEAD").with_note(Note::of(action)))
    }
}

/// What somebody sees who opens the address in a browser.
pub fn index() -> Reply {
    let about = json!({
        "name": "binaryrepo",
        "version": env!("CARGO_PKG_VERSION"),
        "registry": "/v2/",
        "management": "/api/",
        "health": "/healthz",
        "readiness": "/readyz",
        "metrics": "/metrics",
    });
    Reply::json(StatusCode::OK, &about).with_note(Note::of("index"))
}

/// The process answers.
pub fn health() -> Reply {
    Reply::text(StatusCode::OK, "ok\n").with_note(Note::of("health"))
}

pub fn scrape(metrics: &Metrics) -> Reply {
    Reply::bytes(StatusCode::OK, Metrics::CONTENT_TYPE, metrics.encode()).with_note(Note::of("metrics"))
}

/// Somebody may not manage. Under a name where the management API is not, the answer is the registry's.
pub fn refused(refusal: Refusal) -> Reply {
    let message = refusal.to_string();
    let reply = match refusal {
        Refusal::Elsewhere => Reply::error(StatusCode::NOT_FOUND, "UNSUPPORTED", &message, None),
        Refusal::ForeignSite => ApiError::new(StatusCode::FORBIDDEN, message).into_reply(),
        Refusal::NoToken => ApiError::new(StatusCode::UNAUTHORIZED, message)
            .with_hint("`binaryrepo token show` on the server's machine prints it")
            .into_reply()
            .with_header(WWW_AUTHENTICATE, "Bearer realm=\"binaryrepo\""),
        Refusal::Later(LogInFault::TooMany { retry_after }) => {
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, message).with_wait(retry_after).into_reply()
        }
        Refusal::Later(_) => {
            let wait = Duration::from_secs(1);
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message).with_wait(wait).into_reply()
        }
    };
    reply.with_note(Note::of("api.refused"))
}

/// The body of a management request was not read to its end.
pub fn unread(fault: &BodyFault) -> Reply {
    ApiError::new(status(fault), fault.to_string()).into_reply().with_note(Note::of("api.unread"))
}

/// The form that asks for a token was not read to its end.
pub fn unread_form(fault: &BodyFault) -> Reply {
    Reply::error(status(fault), "UNSUPPORTED", &fault.to_string(), None).with_note(Note::of("token"))
}

fn status(fault: &BodyFault) -> StatusCode {
    match fault {
        BodyFault::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
        BodyFault::TooSlow => StatusCode::REQUEST_TIMEOUT,
        BodyFault::Broken(_) => StatusCode::BAD_REQUEST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repositorys_host_shows_nothing_of_the_server() {
        let door = |host, path| Door::of(path, &Site::default(), host);
        for host in ["localhost:8081", "api.binaryrepo.local", "127.0.0.1", "elsewhere.test"] {
            assert_eq!(door(host, "/metrics"), Door::Metrics, "{host}");
            assert_eq!(door(host, "/api/repository"), Door::Management, "{host}");
        }
        for path in ["/metrics", "/api", "/api/repository"] {
            assert_eq!(door("docker-remote.localhost:8081", path), Door::Registry, "{path}");
        }
        assert_eq!(door("docker-remote.localhost", "/healthz"), Door::Health);
        for host in ["localhost", "docker-remote.localhost"] {
            assert_eq!((door(host, "/token"), door(host, "/repo/x/token")), (Door::Token, Door::Token));
        }
        for path in ["/v2/", "/repo/x/v2/", "//api/repository", "/apix", "/metrics/", "/%61pi", ""] {
            assert_eq!(door("localhost", path), Door::Registry, "{path}");
        }
    }

    #[test]
    fn what_only_tells_takes_no_orders() {
        assert!(Door::Health.refuses(&Method::GET).is_none());
        assert!(Door::Management.refuses(&Method::DELETE).is_none());
        let reply = Door::Metrics.refuses(&Method::POST).expect("a refusal");
        assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED);
    }

    #[test]
    fn refusals_have_the_status_that_says_what_to_do() {
        assert_eq!(refused(Refusal::Elsewhere).status, StatusCode::NOT_FOUND);
        assert_eq!(refused(Refusal::ForeignSite).status, StatusCode::FORBIDDEN);
        let reply = refused(Refusal::NoToken);
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
        assert!(reply.headers.contains_key(WWW_AUTHENTICATE));
    }
}

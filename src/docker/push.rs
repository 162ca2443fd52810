//! Owns the answers to pushes and deletions of manifests and blobs, and the refusals of repositories that take none.
//! Must not know: how uploads go, what is collected when.

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};

use super::Call;
use super::address::Directory;
use super::body::{self, Incoming};
use super::pull::DOCKER_CONTENT_DIGEST;
use super::route::Push;
use super::upload;
use super::wire::{Code, WireError};
use crate::engine::{ManifestPush, PushedManifest, Repository, Scope};
use crate::names::{MediaType, Reference, Tag};
use crate::reply::Reply;

const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");

/// Answers whatever writes or removes.
pub async fn act(
    call: &Call<'_>,
    scope: &Scope,
    push: Push,
    body: &mut impl Incoming,
) -> Result<Reply, WireError> {
    if scope.repository.local().is_none() {
        return Err(refuse(&call.directory, &scope.repository, &push));
    }
    match push {
        Push::PutManifest { reference, tags } => manifest(call, scope, reference, tags, body).await,
        Push::DeleteManifest { reference } => {
            call.engine.delete_manifest(scope, &reference).await?;
            Ok(Reply::empty(StatusCode::ACCEPTED))
        }
        Push::DeleteBlob { digest } => {
            call.engine.delete_blob(scope, &digest).await?;
            Ok(Reply::empty(StatusCode::ACCEPTED))
        }
        Push::StartUpload(start) => upload::start(call, scope, start, body).await,
        Push::Upload { id, step } => upload::step(call, scope, &id, step, body).await,
    }
}

async fn manifest(
    call: &Call<'_>,
    scope: &Scope,
    reference: Reference,
    tags: Vec<Tag>,
    body: &mut impl Incoming,
) -> Result<Reply, WireError> {
    let media_type = match call.request.headers.get(CONTENT_TYPE) {
        Some(value) => Some(media_type(value)?),
        None => None,
    };
    let bytes = body::manifest(body).await?;
    let metrics = call.engine.metrics();
    metrics.bytes_from_clients(scope.repository.name.as_str(), bytes.len() as u64);
    let asked = tags.clone();
    let push = ManifestPush { reference, media_type, bytes, tags };
    Ok(pushed(call, &call.engine.push_manifest(scope, push).await?, &asked))
}

fn media_type(value: &HeaderValue) -> Result<MediaType, WireError> {
    let parsed = value.to_str().ok().and_then(MediaType::parse);
    parsed.ok_or_else(|| WireError::new(Code::ManifestInvalid, "the Content-Type is no media type"))
}

/// `asked` are the tags of the query; the one in the path goes without saying.
fn pushed(call: &Call<'_>, pushed: &PushedManifest, asked: &[Tag]) -> Reply {
    let digest = pushed.digest.to_string();
    let mut reply = Reply::empty(StatusCode::CREATED)
        .with_header(LOCATION, &format!("{}/manifests/{digest}", call.address.base()))
        .with_header(DOCKER_CONTENT_DIGEST, &digest);
    if let Some(subject) = &pushed.subject {
        reply = reply.with_header(OCI_SUBJECT, &subject.to_string());
    }
    for tag in asked {
        if let Ok(value) = HeaderValue::from_str(tag.as_str()) {
            reply.headers.append(OCI_TAG, value);
        }
    }
    reply
}

/// 405, with a sentence that says where to go instead.
fn refuse(directory: &impl Directory, repository: &Repository, push: &Push) -> WireError {
    let (name, upstream) = (&repository.name, upstream(repository));
    let message = match push {
        Push::PutManifest { .. } | Push::StartUpload(_) | Push::Upload { .. } => {
            format!("{name} is a cache of {upstream} and takes no pushes; {}", elsewhere(directory))
        }
        Push::DeleteManifest { .. } | Push::DeleteBlob { .. } => {
            format!("{name} is a cache of {upstream}; `binaryrepo purge` removes what it keeps, not a client")
        }
    };
    WireError::refused("GET, HEAD", message)
}

fn upstream(repository: &Repository) -> String {
    let host = repository.remote().and_then(|remote| remote.spec.remote_url.host_str());
    host.unwrap_or("another registry").to_owned()
}

fn elsewhere(directory: &impl Directory) -> String {
    let all = directory.list();
    let locals = all.iter().filter(|other| other.local().is_some());
    let names: Vec<String> = locals.map(|local| local.name.to_string()).collect();
    if names.is_empty() {
        "there is no local repository to push to".to_owned()
    } else {
        format!("push to a local repository: {}", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::address::tests::{Table, remote, repository};
    use crate::docker::route::Start;
    use crate::engine::{LocalSpec, RepositoryKind};

    #[test]
    fn a_push_to_a_remote_is_told_where_to_go() {
        let hub = remote(1, "docker-remote", "https://user:secret@registry-1.docker.io", |_| {});
        let local = repository(2, "docker-local", RepositoryKind::Local(LocalSpec::default()));
        let table = Table(vec![hub.clone(), local]);
        let start = Push::StartUpload(Start::default());
        let error = refuse(&table, &hub, &start);
        assert_eq!((error.code.row().0, error.status.as_u16()), ("UNSUPPORTED", 405));
        assert!(error.message.ends_with("push to a local repository: docker-local"), "{}", error.message);
        assert!(!error.message.contains("secret"));
        let delete = Push::DeleteManifest { reference: "latest".parse().expect("a tag") };
        assert!(refuse(&table, &hub, &delete).message.contains("purge"));
        assert!(refuse(&Table(vec![hub.clone()]), &hub, &start).message.contains("no local repository"));
    }
}

//! Owns the answers about uploads: begun, mounted, appended to, finished, looked at, cancelled.
//! Must not know: where the bytes lie, how they are hashed.

use http::StatusCode;
use http::header::{CONTENT_RANGE, HeaderMap, HeaderName, LOCATION, RANGE};

use super::Call;
use super::body::{self, Incoming};
use super::permit::{self, Right};
use super::pull::DOCKER_CONTENT_DIGEST;
use super::route::{Mount, Start, Step};
use super::wire::{Code, WireError};
use crate::engine::{EngineError, ErrorKind, Scope, Upload};
use crate::names::{Algorithm, Digest, UploadId};
use crate::reply::Reply;

const DOCKER_UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
const OCI_CHUNK_MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");
/// Clients are asked for chunks of at least this: opening the draft and looking at the disk cost as much as these
/// bytes. A smaller one is taken all the same.
const CHUNK_MIN: u64 = 64 << 10;

/// Begins an upload, unless the blob is to be had without one.
pub async fn start(
    call: &Call<'_>,
    scope: &Scope,
    start: Start,
    body: &mut impl Incoming,
) -> Result<Reply, WireError> {
    if let Some(mount) = &start.mount
        && mounted(call, scope, mount).await?
    {
        return Ok(created(call, &mount.digest));
    }
    let hint = start.mount.as_ref().map(|mount| mount.digest.algorithm());
    let algorithm = start.digest.map(|digest| digest.algorithm()).or(start.algorithm).or(hint);
    let id =
        call.engine.start_upload(scope, call.principal(), algorithm.unwrap_or(Algorithm::Sha256)).await?;
    let Some(digest) = start.digest else {
        let begun = progress(call, StatusCode::ACCEPTED, &id, 0);
        return Ok(begun.with_header(OCI_CHUNK_MIN_LENGTH, &CHUNK_MIN.to_string()));
    };
    let whole = async {
        let mut upload = call.engine.upload(scope, call.principal(), &id).await?;
        upload.set_nameless();
        finish(call, upload, &digest, body).await
    };
    let answer = whole.await;
    if answer.is_err() {
        // Nobody was told its name, so nobody goes on with it. It may have ended by itself.
        let _ = call.engine.cancel_upload(scope, call.principal(), &id).await;
    }
    answer
}

/// One step of an upload.
pub async fn step(
    call: &Call<'_>,
    scope: &Scope,
    id: &UploadId,
    step: Step,
    body: &mut impl Incoming,
) -> Result<Reply, WireError> {
    let engine = call.engine;
    let answer = match step {
        Step::Status => engine
            .upload_len(scope, call.principal(), id)
            .await
            .map(|len| progress(call, StatusCode::NO_CONTENT, id, len))
            .map_err(WireError::from),
        Step::Append => append(call, scope, id, body).await,
        Step::Finish { digest } => match engine.upload(scope, call.principal(), id).await {
            Ok(upload) => finish(call, upload, &digest, body).await,
            // The answer to the first one was lost.
            Err(EngineError { kind: ErrorKind::UploadUnknown, .. })
                if engine.has_uploaded(scope, call.principal(), id, &digest).await? =>
            {
                Ok(created(call, &digest))
            }
            Err(error) => Err(error.into()),
        },
        Step::Cancel => engine
            .cancel_upload(scope, call.principal(), id)
            .await
            .map(|()| Reply::empty(StatusCode::NO_CONTENT))
            .map_err(WireError::from),
    };
    answer.map_err(|error| error.of_upload(&location(call, id)))
}

/// What may not be read is left out, as if it were not there.
async fn mounted(call: &Call<'_>, scope: &Scope, mount: &Mount) -> Result<bool, WireError> {
    let candidates = match &mount.from {
        Some(from) => call.resolve(from).into_iter().collect(),
        None => call.engine.holders(&mount.digest).await?,
    };
    let readable = |from: &Scope| {
        let right = permit::may(call.context, &from.repository, &from.image, Right::Pull);
        // Only what the client has named: it asks nobody else's images.
        if right.is_err() && mount.from.is_some() {
            tracing::info!(repository = %from.repository.name, image = %from.image,
                "mount_denied: a blob is not mounted from where the client may not read");
        }
        right.is_ok()
    };
    let sources: Vec<Scope> = candidates.into_iter().filter(readable).collect();
    Ok(call.engine.mount(scope, &mount.digest, &sources).await?)
}

async fn append(
    call: &Call<'_>,
    scope: &Scope,
    id: &UploadId,
    body: &mut impl Incoming,
) -> Result<Reply, WireError> {
    let mut upload = call.engine.upload(scope, call.principal(), id).await?;
    take(call, &mut upload, body).await?;
    Ok(progress(call, StatusCode::ACCEPTED, id, upload.len()))
}

async fn finish(
    call: &Call<'_>,
    mut upload: Upload,
    digest: &Digest,
    body: &mut impl Incoming,
) -> Result<Reply, WireError> {
    upload.hash_with(digest.algorithm());
    take(call, &mut upload, body).await?;
    upload.finish(digest).await?;
    Ok(created(call, digest))
}

/// Takes the request's bytes, if they begin where the upload ends.
async fn take(call: &Call<'_>, upload: &mut Upload, body: &mut impl Incoming) -> Result<(), WireError> {
    let announced = body::announced(body);
    let range = content_range(&call.request.headers)?;
    let contradicts = |bytes: u64| range.as_ref().is_some_and(|range| range.len() != bytes);
    if let Some(range) = &range {
        upload.begins_at(range.start)?;
    }
    if announced.is_some_and(contradicts) {
        let message = "Content-Range and Content-Length name different numbers of bytes";
        return Err(WireError::new(Code::SizeInvalid, message));
    }
    if let Some(bytes) = announced.filter(|bytes| *bytes > 0) {
        upload.expect(bytes).await?;
    }
    let taken = body::append(body, upload).await?;
    call.engine.metrics().bytes_from_clients(call.address.scope.repository.name.as_str(), taken);
    if contradicts(taken) {
        let message = format!("Content-Range names another number of bytes than the {taken} that came");
        return Err(WireError::new(Code::SizeInvalid, message));
    }
    Ok(())
}

/// Where a chunk lies: `<first>-<last>`, as the distribution-spec writes it, without a unit.
struct ChunkRange {
    start: u64,
    last: u64,
}

impl ChunkRange {
    fn len(&self) -> u64 {
        self.last - self.start + 1
    }
}

fn content_range(headers: &HeaderMap) -> Result<Option<ChunkRange>, WireError> {
    let Some(line) = headers.get(CONTENT_RANGE) else { return Ok(None) };
    let parsed = line.to_str().ok().and_then(|text| text.split_once('-')).and_then(|(start, last)| {
        let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok());
        let range = ChunkRange { start: number(start)??, last: number(last)?? };
        (range.start <= range.last && range.last < u64::MAX).then_some(range)
    });
    parsed.map(Some).ok_or_else(|| {
        let message = "Content-Range of a chunk is written <first>-<last>, both counted from 0";
        WireError::new(Code::BlobUploadInvalid, message)
    })
}

fn location(call: &Call<'_>, id: &UploadId) -> String {
    format!("{}/blobs/uploads/{id}", call.address.base())
}

/// `Range` cannot say that nothing came: `0-0` is what the specification has for that.
fn progress(call: &Call<'_>, status: StatusCode, id: &UploadId, len: u64) -> Reply {
    Reply::empty(status)
        .with_header(LOCATION, &location(call, id))
        .with_header(RANGE, &format!("0-{}", len.saturating_sub(1)))
        .with_header(DOCKER_UPLOAD_UUID, &id.to_string())
}

fn created(call: &Call<'_>, digest: &Digest) -> Reply {
    Reply::empty(StatusCode::CREATED)
        .with_header(LOCATION, &format!("{}/blobs/{digest}", call.address.base()))
        .with_header(DOCKER_CONTENT_DIGEST, &digest.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<(u64, u64)>, Code> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_RANGE, text.parse().expect("a header value"));
        content_range(&headers)
            .map(|range| range.map(|range| (range.start, range.len())))
            .map_err(|error| error.code)
    }

    #[test]
    fn a_chunk_says_where_it_lies() {
        assert_eq!(parse("0-0"), Ok(Some((0, 1))));
        assert_eq!(parse("10-19"), Ok(Some((10, 10))));
        assert!(matches!(content_range(&HeaderMap::new()), Ok(None)));
        let wrong =
            ["", "-", "5-", "-5", "9-2", "a-b", "bytes 0-1/2", "0-1-2", "+0-1", "0-18446744073709551615"];
        for text in wrong {
            assert_eq!(parse(text), Err(Code::BlobUploadInvalid), "{text}");
        }
    }
}

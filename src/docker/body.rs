//! Owns reading the bodies of pushes: a small one whole, a large one piece by piece into an upload, an unwanted one
//! only so far that the client hears the answer.
//! Must not know: what the bytes are, how a pace is kept.

use std::pin::pin;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::Body;
use http_body_util::BodyExt as _;

use super::wire::{Code, WireError};
use crate::engine::{MAX_MANIFEST, Upload};

/// What is read of a body that nobody wants: a client that still sends does not hear why it was refused, and a proxy
/// on the way takes us for gone. Room for a manifest that is too long.
const DRAIN: u64 = 2 * MAX_MANIFEST as u64;

/// Why a body was not read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    #[error("the body comes too slowly")]
    TooSlow,
    #[error("the body broke off")]
    Broken,
}

/// The body of a request.
pub trait Incoming: Body<Data = Bytes, Error = BodyFault> + Send + Unpin {}

impl<B: Body<Data = Bytes, Error = BodyFault> + Send + Unpin> Incoming for B {}

impl From<BodyFault> for WireError {
    /// The upload keeps what came.
    fn from(fault: BodyFault) -> Self {
        let status = match fault {
            BodyFault::TooSlow => StatusCode::REQUEST_TIMEOUT,
            BodyFault::Broken => StatusCode::BAD_REQUEST,
        };
        Self::new(Code::BlobUploadInvalid, fault.to_string()).with_status(status)
    }
}

/// How many bytes the client has announced.
pub fn announced(body: &impl Incoming) -> Option<u64> {
    body.size_hint().exact()
}

/// A manifest's bytes. One that says beforehand that it is too long is not read at all.
pub async fn manifest(body: &mut impl Incoming) -> Result<Bytes, WireError> {
    let too_long = || {
        let message = format!("a manifest has at most {MAX_MANIFEST} bytes");
        WireError::new(Code::ManifestInvalid, message).with_status(StatusCode::PAYLOAD_TOO_LARGE)
    };
    if body.size_hint().lower() > MAX_MANIFEST as u64 {
        return Err(too_long());
    }
    let mut whole = BytesMut::new();
    while let Some(piece) = next(body).await? {
        if piece.len() > MAX_MANIFEST - whole.len() {
            return Err(too_long());
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

/// Appends all of a body to an upload: writes and hashes one piece while the next one comes. Where the body breaks
/// off the upload has what came before.
pub async fn append(body: &mut impl Incoming, upload: &mut Upload) -> Result<u64, WireError> {
    let mut total = 0;
    let mut coming = Gathered::default();
    coming.take(next(body).await);
    while !coming.pieces.is_empty() {
        let pieces = coming.hand_out();
        total += pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        let most = upload.gathers();
        {
            let mut writing = pin!(upload.append_behind(pieces));
            loop {
                tokio::select! {
                    biased;
                    written = writing.as_mut() => break written?,
                    piece = next(body), if coming.end.is_none() && coming.size < most => coming.take(piece),
                }
            }
        }
        // It may take more to be worth handing in; but the writer thread is not to wait for it, and who asks how far the
        // upload is hears of all that came.
        let (least, mut settled) = (most / 8, false);
        while coming.end.is_none() && (coming.pieces.is_empty() || !settled && coming.size < least) {
            tokio::select! {
                biased;
                written = upload.settle(), if !settled => {
                    written?;
                    settled = true;
                }
                piece = next(body) => coming.take(piece),
            }
        }
    }
    upload.settle().await?;
    match coming.end {
        Some(Err(fault)) => Err(fault.into()),
        _ => Ok(total),
    }
}

/// What came while something else was being written.
#[derive(Default)]
struct Gathered {
    pieces: Vec<Bytes>,
    size: usize,
    end: Option<Result<(), BodyFault>>,
}

impl Gathered {
    fn hand_out(&mut self) -> Vec<Bytes> {
        self.size = 0;
        std::mem::take(&mut self.pieces)
    }

    fn take(&mut self, next: Result<Option<Bytes>, BodyFault>) {
        match next {
            Ok(Some(piece)) => {
                self.size += piece.len();
                self.pieces.push(piece);
            }
            Ok(None) => self.end = Some(Ok(())),
            Err(fault) => self.end = Some(Err(fault)),
        }
    }
}

/// Reads what is left of a small body. Answers whether that was all.
pub async fn drain(body: &mut (impl Body<Data = Bytes> + Unpin)) -> bool {
    let mut left = DRAIN;
    while !body.is_end_stream() {
        if body.size_hint().lower() > left {
            return false;
        }
        let Some(frame) = body.frame().await else { return true };
        // Trailers cost nothing.
        let length = frame.map(|frame| frame.data_ref().map_or(0, |piece| piece.len() as u64));
        match length {
            Ok(length) if length < left => left -= length,
            Ok(_) | Err(_) => return false,
        }
    }
    true
}

async fn next(body: &mut impl Incoming) -> Result<Option<Bytes>, BodyFault> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Err(fault)) => return Err(fault),
            // Trailers are nobody's here.
            Some(Ok(frame)) => {
                if let Ok(piece) = frame.into_data()
                    && !piece.is_empty()
                {
                    return Ok(Some(piece));
                }
            }
        }
    }
}

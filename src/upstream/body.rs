//! Owns reading bodies: silence and drip are noticed, and sizes are bounded.
//! Must not know: which request the body answers.

use bytes::Bytes;

use super::error::UpstreamError;

/// The body of a blob, piece by piece.
#[derive(Debug)]
pub struct BlobStream {}

impl BlobStream {
    /// `None`: the message ended as it was framed.
    pub async fn next(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        None
    }
}

//! Owns one HTTP exchange over a stream that is open already.
//! Must not know: what is asked, whom the stream leads to.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;

/// A listing of a very large cache is a few megabytes.
const MAX_ANSWER: usize = 256 * 1024 * 1024;
/// How long a connection may take to be made.
pub const CONNECT: Duration = Duration::from_secs(5);

/// Why an exchange failed, in one sentence.
pub type Broken = Box<dyn std::error::Error + Send + Sync>;

/// Sends one request and reads the whole answer. The stream is closed after it.
pub async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Broken>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    let (mut sender, connection) = http1::handshake(stream).await?;
    let answer = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await?;
        Ok::<_, Broken>((status, body.to_bytes()))
    };
    // The connection is driven until the answer is here; what it says afterwards is of no interest.
    let (_, answer) = tokio::join!(connection, answer);
    answer
}

/// Fails with a sentence when `work` takes longer than `limit`.
pub async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, Broken>>) -> Result<T, Broken> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {} s", limit.as_secs()).into()),
    }
}

/// An error and what lies below it, without repeating itself.
pub fn causes(error: &Broken) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        below = cause.source();
    }
    text
}

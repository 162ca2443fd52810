//! Sends vectors and judges what comes back.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::CANARY;
use super::vectors::{self, Vector};

/// No answer takes as long, unless the other side hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// For a second answer, to what was hidden in a request.
const AFTERWARDS: Duration = Duration::from_secs(1);

/// All vectors at once.
pub async fn all(to: SocketAddr) {
    let mut running: JoinSet<_> = vectors::all().into_iter().map(|vector| judge(to, vector)).collect();
    let mut bad = Vec::new();
    while let Some(judged) = running.join_next().await {
        bad.extend(judged.unwrap().err());
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

async fn judge(to: SocketAddr, vector: Vector) -> Result<(), String> {
    let said = exchange(to, &vector.bytes).await;
    let text = String::from_utf8_lossy(&said);
    let wrong = |what: &str| {
        let shown: String = text.chars().take(300).collect();
        Err(format!("row {}, {}: {what}: {shown:?}", vector.row, vector.what))
    };
    let statuses: Vec<u16> =
        text.split("HTTP/1.1 ").skip(1).filter_map(|answer| answer.get(..3)?.parse().ok()).collect();
    match statuses[..] {
        // Not even worth an answer.
        [] if vector.may_be_silent => return Ok(()),
        [] => return wrong("no answer"),
        [status] if !vector.allowed.contains(&status) => return wrong("an answer that should not be"),
        [status] if status >= 400 && !is_readable(&text) => return wrong("an error that no client can read"),
        [_] => {}
        _ => return wrong("more than one answer"),
    }
    if text.contains(CANARY) {
        return wrong("the secret comes back");
    }
    Ok(())
}

/// An error is said in JSON, in the registry's form or the management API's. What hyper refuses by itself has no body.
fn is_readable(answer: &str) -> bool {
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let json: Option<Value> = serde_json::from_str(body).ok();
    let said = |json: &Value| {
        let message = json.pointer("/errors/0/message").or_else(|| json.pointer("/error/message"));
        message.is_some_and(Value::is_string)
    };
    body.is_empty() || json.is_some_and(|json| said(&json))
}

/// All that comes back, until the connection ends or nothing more comes.
async fn exchange(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).await.unwrap();
    // Who refuses early may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut said = Vec::new();
    let mut patience = PATIENCE;
    while let Ok(Ok(read)) = timeout(patience, stream.read_buf(&mut said)).await
        && read > 0
    {
        if said.windows(4).any(|four| four == b"\r\n\r\n") {
            patience = AFTERWARDS;
        }
    }
    said
}

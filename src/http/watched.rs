//! Owns a connection's bytes on the wire, and the write time-out: a client that takes nothing while bytes are
//! ready for it is let go. Must not know: HTTP.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Counts only while the socket takes nothing: a body that waits for its upstream leaves nothing to write, and
/// so never comes here.
#[derive(Debug)]
pub struct Watched<S> {
    stream: S,
    patience: Duration,
    /// Runs since the socket was first found full.
    stall: Option<Pin<Box<Sleep>>>,
}

impl<S> Watched<S> {
    pub fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, stall: None }
    }

    fn watch(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let patience = self.patience;
        let stall = self.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes no bytes")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::{sleep, timeout};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_let_go() {
        let (near, _far) = tokio::io::duplex(16);
        let mut watched = Watched::new(near, PATIENCE);
        let written = timeout(PATIENCE * 2, watched.write_all(&[0; 64])).await.expect("it ends by itself");
        assert_eq!(written.map_err(|e| e.kind()), Err(io::ErrorKind::TimedOut));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_that_takes_something_is_served() {
        let (near, mut far) = tokio::io::duplex(16);
        let mut watched = Watched::new(near, PATIENCE);
        let reader = async {
            for _ in 0..64 {
                sleep(PATIENCE * 3 / 4).await;
                far.read_u8().await.expect("a byte");
            }
        };
        let (written, ()) = tokio::join!(watched.write_all(&[0; 64]), reader);
        written.expect("all is written");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_of_ours_is_not_held_against_the_client() {
        let (near, mut far) = tokio::io::duplex(16);
        let mut watched = Watched::new(near, PATIENCE);
        watched.write_all(&[1; 8]).await.expect("room");
        sleep(PATIENCE * 5).await;
        watched.write_all(&[2; 8]).await.expect("room");
        let mut read = [0; 16];
        far.read_exact(&mut read).await.expect("both");
    }
}

//! Owns the way from a file in memory to a socket that leads past our own memory (`sendfile`), under an HTTP library
//! that knows nothing of it. Must not know: HTTP, what the bytes are.
//!
//! A body puts a window into its connection's [`Outlet`] and gives the library a [`Piece`] that stands for the window's
//! bytes: a slice of [`MARK`], as long as the window. Where that slice comes to be written, [`Direct`] sends the window.
//! The mark is never sent: a slice that stands for a window which is not there, or a window whose slice does not come,
//! breaks the connection.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// The longest window. Sending it takes a tenth of a millisecond.
pub const LONGEST: usize = 512 << 10;

/// Never read and never written, so it takes up addresses and no memory.
static MARK: LazyLock<Box<[u8]>> = LazyLock::new(|| vec![0; LONGEST].into_boxed_slice());

fn is_mark(slice: &[u8]) -> bool {
    !slice.is_empty() && MARK.as_ptr_range().contains(&slice.as_ptr())
}

/// A part of a file.
pub trait Window: Send {
    /// How many bytes are still to be sent.
    fn left(&self) -> usize;
    /// Waits until there is something to be sent that needs no waiting for the disk.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Sends as much as the socket takes now. 0: `poll_ready` is to be asked again.
    fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize>;
}

/// A body that may go out by windows. Its connection says where to put them.
pub trait Through {
    fn through(&mut self, outlet: &Arc<Outlet>);
}

/// A part of a body: bytes, or what stands for a window.
#[derive(Debug)]
pub enum Piece {
    Bytes(Bytes),
    Window { left: usize },
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Window { left } => *left,
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Window { left } => &MARK[..*left],
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Bytes(bytes) => bytes.advance(count),
            Self::Window { left } => *left -= count,
        }
    }
}

/// What a connection's bodies have put out to be sent, in order.
#[derive(Default)]
pub struct Outlet(Mutex<VecDeque<Box<dyn Window>>>);

impl Outlet {
    /// What stands for the window in the body. At most [`LONGEST`] bytes.
    pub fn put(&self, window: Box<dyn Window>) -> Piece {
        let left = window.left();
        self.windows().push_back(window);
        Piece::Window { left }
    }

    fn windows(&self) -> MutexGuard<'_, VecDeque<Box<dyn Window>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outlet").field("windows", &self.windows().len()).finish()
    }
}

/// A plain connection, and where its bodies put their windows.
pub struct Direct {
    stream: TcpStream,
    outlet: Arc<Outlet>,
}

impl Direct {
    pub fn new(stream: TcpStream, outlet: Arc<Outlet>) -> Self {
        Self { stream, outlet }
    }

    /// Calls the system once the socket takes something. `None`: it said that it does not, after all.
    fn poll_call(
        &self,
        cx: &mut Context<'_>,
        call: impl FnOnce(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<Option<usize>>> {
        ready!(self.stream.poll_write_ready(cx))?;
        match self.stream.try_io(Interest::WRITABLE, || call(self.stream.as_fd())) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Poll::Ready(Ok(None))
            }
            done => Poll::Ready(done.map(Some)),
        }
    }

    /// The bytes wait for those behind them, so that they share a segment.
    fn poll_head(&self, cx: &mut Context<'_>, head: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let flags = SendFlags::MORE | SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        loop {
            let sent = self.poll_call(cx, |socket| {
                Ok(sendmsg(socket, head, &mut SendAncillaryBuffer::default(), flags)?)
            });
            if let Some(sent) = ready!(sent)? {
                return Poll::Ready(Ok(sent));
            }
        }
    }

    fn poll_window(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut windows = self.outlet.windows();
        let Some(window) = windows.front_mut() else { return Poll::Ready(Err(astray())) };
        loop {
            // First the socket: what is in memory now need not be when it takes something.
            ready!(self.stream.poll_write_ready(cx))?;
            ready!(window.poll_ready(cx))?;
            if let Some(sent @ 1..) = ready!(self.poll_call(cx, |socket| window.send(socket)))? {
                if window.left() == 0 {
                    windows.pop_front();
                }
                return Poll::Ready(Ok(sent));
            }
        }
    }
}

/// Neither zeros nor somebody else's bytes may go out: whoever reads would take them for the body.
fn astray() -> io::Error {
    io::Error::other("what stands for a part of a file and that part do not come together")
}

impl AsyncWrite for Direct {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let marks = slices.iter().filter(|slice| is_mark(slice)).map(|slice| slice.len()).sum::<usize>();
        let owed = self.outlet.windows().iter().map(|window| window.left()).sum::<usize>();
        if marks != owed {
            return Poll::Ready(Err(astray()));
        }
        if marks == 0 {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        }
        let plain = slices.iter().take_while(|slice| !is_mark(slice)).count();
        if plain == 0 {
            return self.poll_window(cx);
        }
        self.poll_head(cx, &slices[..plain])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl AsyncRead for Direct {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests;

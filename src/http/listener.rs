//! Owns sockets: listening, accepting, the limits of a connection, the graceful stop. Connections are the only
//! tasks that are started here. Must not know: what the requests ask, and on which threads they run.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt as _;
use http::header::CONNECTION;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::fs::Mode;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::caller::Peer;
use super::outlet::{Direct, Outlet, Through};
use super::seldom::Seldom;
use super::threads::Threads;
use super::watched::Watched;

/// How many may wait to be accepted.
const BACKLOG: i32 = 1024;
/// Of the command line on this machine, besides those that the limit counts.
const ADMIN_CONNECTIONS: usize = 64;
/// After an accept failed for want of descriptors or memory. Existing connections end meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Of a whole head. The envelope refuses half of that with a sentence; beyond this, and beyond a hundred headers,
/// hyper answers a bare 431.
const HEADER_BYTES: usize = 64 << 10;
/// Also what hyper queues of a body before it lets the socket drain.
const BUFFER_BYTES: usize = 64 << 10;

/// Answers requests. Cheap to clone: each connection has one.
pub trait Handler: Clone + Send + Sync + 'static {
    type Body: Body<Data: Send, Error: Into<Box<dyn StdError + Send + Sync>>> + Through + Send + 'static;
    /// Held as long as a connection lives.
    type Held: Send;

    fn connected(&self) -> Self::Held;
    fn answer(
        &self,
        request: Request<Incoming>,
        peer: Peer,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// What a connection may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// At once. More wait in the kernel's queue.
    pub connections: usize,
    /// For the first request's head.
    pub first_head: Duration,
    /// Between requests, and for the head of a later one. Longer than that of any proxy in front, which would
    /// otherwise send a request into a connection that is just being closed.
    pub idle: Duration,
    /// For a client that takes nothing while there is something for it.
    pub stalled_write: Duration,
    /// For a client that was refused and still sends.
    pub refused: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            first_head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            stalled_write: Duration::from_secs(60),
            refused: Duration::from_secs(10),
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Admin(AdminListener),
}

impl Listener {
    /// Binds an address that a server before us may just have left.
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Self::Tcp(TcpListener::from_std(socket.into())?))
    }

    /// Makes the admin socket; `None` where its path is longer than a socket's may be. Whoever holds the data directory is the only server in it, so a file left there
    /// by an earlier one is stale.
    pub fn admin(path: &Path) -> io::Result<Option<Self>> {
        let Ok(address) = SockAddr::unix(path) else {
            return Ok(None);
        };
        remove_socket(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // Before the bind, so that there is no moment in which others may open it.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address)?;
        socket.listen(BACKLOG)?;
        Ok(Some(Self::Admin(AdminListener {
            listener: UnixListener::from_std(socket.into())?,
            path: path.to_owned(),
        })))
    }

    /// The address that was bound; port 0 has become a real one.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Admin(_) => None,
        }
    }
}

/// A socket in the file system, gone with its listener.
#[derive(Debug)]
pub struct AdminListener {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for AdminListener {
    fn drop(&mut self) {
        if let Err(error) = remove_socket(&self.path) {
            tracing::warn!(%error, "the admin socket is left behind");
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a socket's file belongs to its listener")]
fn remove_socket(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Connections that were still busy when the grace was over, and were broken.
    pub broken: usize,
}

/// Serves on `threads` until `shutdown`, then lets the requests under way finish for as long as `grace`.
pub async fn serve<H: Handler>(
    listeners: Vec<Listener>,
    handler: H,
    limits: Limits,
    threads: Arc<Threads>,
    shutdown: CancellationToken,
    grace: Duration,
) -> Stopped {
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    let mut accepting = JoinSet::new();
    for listener in listeners {
        let most = match &listener {
            Listener::Tcp(_) => limits.connections,
            Listener::Admin(_) => ADMIN_CONNECTIONS,
        };
        let door = Door {
            handler: handler.clone(),
            limits,
            threads: Arc::clone(&threads),
            room: Arc::new(Semaphore::new(most)),
            connections: connections.clone(),
            stop: shutdown.clone(),
            cut: cut.clone(),
        };
        accepting.spawn(door.accept(listener));
    }
    shutdown.cancelled().await;
    // Ends at once: each loop watches the same token. Sockets are closed with it.
    while accepting.join_next().await.is_some() {}
    connections.close();
    if tokio::time::timeout(grace, connections.wait()).await.is_ok() {
        return Stopped { broken: 0 };
    }
    let broken = connections.len();
    cut.cancel();
    connections.wait().await;
    Stopped { broken }
}

/// One listener's way in.
struct Door<H> {
    handler: H,
    limits: Limits,
    threads: Arc<Threads>,
    room: Arc<Semaphore>,
    connections: TaskTracker,
    stop: CancellationToken,
    /// The grace is over.
    cut: CancellationToken,
}

impl<H: Handler> Door<H> {
    async fn accept(self, listener: Listener) {
        loop {
            let room = self.room.clone().acquire_owned();
            let Some(Ok(permit)) = self.stop.run_until_cancelled(room).await else {
                return;
            };
            let Some(accepted) = self.stop.run_until_cancelled(self.admit(&listener, permit)).await else {
                return;
            };
            if let Err(error) = accepted {
                self.pause(&error).await;
            }
        }
    }

    async fn admit(&self, listener: &Listener, permit: OwnedSemaphorePermit) -> io::Result<()> {
        match listener {
            Listener::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let seat = self.threads.seat();
                let outlet = Arc::new(Outlet::default());
                let stream = Direct::new(seat.take(stream)?, outlet.clone());
                seat.run(
                    &self.connections,
                    self.connection(stream, Peer::Tcp(address), Some(outlet), permit),
                );
            }
            Listener::Admin(admin) => {
                let (stream, _) = admin.listener.accept().await?;
                // On the runtime that serves: commands need no thread of their own.
                self.connections.spawn(self.connection(stream, Peer::Admin, None, permit));
            }
        }
        Ok(())
    }

    fn connection<S>(
        &self,
        stream: S,
        peer: Peer,
        outlet: Option<Arc<Outlet>>,
        permit: OwnedSemaphorePermit,
    ) -> impl Future<Output = ()> + Send + use<S, H>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // Tokens of its own: one that all shared would make every connection wait for the same lock at each turn.
        let (stop, cut) = (self.stop.child_token(), self.cut.child_token());
        let connection =
            Connection { handler: self.handler.clone(), limits: self.limits, stop, cut, peer, outlet };
        async move {
            let outcome = connection.run(stream).await;
            drop(permit);
            if let Err(error) = outcome {
                tracing::debug!(%peer, error = error.as_ref(), "the connection broke");
            }
        }
    }

    /// A client that gave up costs nothing; anything else is a want of ours that time may end.
    async fn pause(&self, error: &io::Error) {
        if is_the_clients_affair(error) {
            return;
        }
        tracing::warn!(%error, "cannot accept a connection; trying again");
        self.stop.run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE)).await;
    }
}

fn is_the_clients_affair(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, InvalidInput, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | InvalidInput | NotConnected)
}

/// One client's connection.
struct Connection<H> {
    handler: H,
    limits: Limits,
    stop: CancellationToken,
    cut: CancellationToken,
    peer: Peer,
    outlet: Option<Arc<Outlet>>,
}

#[derive(Debug, thiserror::Error)]
#[error("no request came in time")]
struct NoRequest;

#[derive(Debug, thiserror::Error)]
#[error("the grace is over")]
struct GraceOver;

impl<H: Handler> Connection<H> {
    async fn run<S>(self, stream: S) -> Result<(), Box<dyn StdError + Send + Sync>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let _held = self.handler.connected();
        let asked = AtomicBool::new(false);
        let refused = AtomicBool::new(false);
        let service = service_fn(|request| {
            asked.store(true, Ordering::Relaxed);
            self.handler.answer(request, self.peer).map(|mut response| {
                if !response.status().is_success() && response.headers().contains_key(CONNECTION) {
                    refused.store(true, Ordering::Relaxed);
                }
                if let Some(outlet) = &self.outlet {
                    response.body_mut().through(outlet);
                }
                Ok::<_, Infallible>(response)
            })
        });
        let io = TokioIo::new(Watched::new(stream, self.limits.stalled_write));
        let mut connection = self.protocol().serve_connection(io, service);
        let mut first_head = pin!(tokio::time::sleep(self.limits.first_head));
        // Looked at no more once there is a request: each turn of the connection comes by here.
        let mut silent = pin!(poll_fn(|cx| match asked.load(Ordering::Relaxed) {
            true => Poll::Pending,
            false => first_head.as_mut().poll(cx),
        }));
        let mut stopping = false;
        loop {
            tokio::select! {
                biased;
                ended = &mut connection => break ended?,
                () = silent.as_mut() => return Err(NoRequest.into()),
                () = self.stop.cancelled(), if !stopping => stopping = true,
                // Only after the stop: to look costs every request. The connection is dropped, and so broken.
                () = self.cut.cancelled(), if stopping => return Err(GraceOver.into()),
            }
            // Nothing but the stop leads here.
            Pin::new(&mut connection).graceful_shutdown();
        }
        if refused.load(Ordering::Relaxed) {
            Box::pin(self.hear_out(connection.into_parts().io.into_inner())).await;
        }
        Ok(())
    }

    /// What was refused may still be on its way. A socket that is closed over it is reset, and who still sends does not
    /// hear why: a proxy then says that nobody answers here. So it is read, and thrown away, until they end it.
    async fn hear_out(&self, mut stream: impl AsyncRead + Unpin) {
        let mut nowhere = tokio::io::sink();
        let heard = tokio::time::timeout(self.limits.refused, tokio::io::copy(&mut stream, &mut nowhere));
        // However it ends, there is nothing more to be said.
        self.cut.run_until_cancelled(heard).await;
    }

    fn protocol(&self) -> http1::Builder {
        let mut builder = http1::Builder::new();
        builder
            .timer(Seldom::default())
            .header_read_timeout(self.limits.idle)
            .max_header_size(HEADER_BYTES)
            .max_buf_size(BUFFER_BYTES)
            .half_close(false);
        builder
    }
}

#[cfg(test)]
mod tests;

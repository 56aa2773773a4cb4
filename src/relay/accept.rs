//! Where processes connect: loopback and unix sockets, and a loop that no error ends.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::either::Either;
use tracing::{debug, warn};

use super::front::{self, Front};
use super::{Listen, Shared};
use crate::identity::{Link, UnixPeer};
use crate::syscall;

/// A process's connection.
pub(super) type Stream = Either<TcpStream, UnixStream>;

#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct BindError {
    address: String,
    source: io::Error,
}

/// How many connections may be there at once. Who is allowed is found out first, and strangers are counted apart: what
/// they hold open is never what an agent waits for.
#[derive(Debug)]
pub(super) struct Seats {
    /// Accepted, and not judged yet.
    door: Arc<Semaphore>,
    served: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

/// Connections that are looked at, or wait for their seat. Those beyond wait in the backlog.
const AT_THE_DOOR: usize = 256;
/// Connections that are only told that they are not allowed. Those beyond are closed.
const STRANGERS: usize = 32;
/// How long a process may take for a head, and a connection may wait for its next.
const HEAD: Duration = Duration::from_mins(1);
/// The same for a stranger.
const STRANGERS_HEAD: Duration = Duration::from_secs(10);

impl Seats {
    pub(super) fn new(served: usize) -> Arc<Self> {
        Arc::new(Self {
            door: Arc::new(Semaphore::new(AT_THE_DOOR)),
            served: Arc::new(Semaphore::new(served)),
            strangers: Arc::new(Semaphore::new(STRANGERS)),
        })
    }

    /// A seat for this connection, and its patience. `None`: the relay ends, or there are too many strangers.
    async fn take(
        &self,
        shared: &Shared,
        front: &Front,
    ) -> Option<(OwnedSemaphorePermit, Duration)> {
        if !front.is_served().await {
            let seat = Arc::clone(&self.strangers).try_acquire_owned().ok();
            if seat.is_none() {
                debug!("too many connections of processes that are not allowed; one is closed");
            }
            return Some((seat?, STRANGERS_HEAD));
        }
        tokio::select! {
            seat = Arc::clone(&self.served).acquire_owned() => Some((seat.ok()?, HEAD)),
            () = shared.drain.cancelled() => None,
        }
    }
}

/// How long the loop rests after an error such as EMFILE: connections wait in the backlog meanwhile.
const REST: Duration = Duration::from_millis(50);

impl Socket {
    /// Opens it. Where processes are told apart everybody may connect to a unix socket, and is refused by who they are.
    pub(super) fn open(listen: &Listen, asks: bool) -> Result<Self, BindError> {
        match listen {
            Listen::Tcp(address) => {
                let open = || {
                    let listener = std::net::TcpListener::bind(address)?;
                    listener.set_nonblocking(true)?;
                    TcpListener::from_std(listener)
                };
                let failed = |source| BindError {
                    address: address.to_string(),
                    source,
                };
                open().map(Self::Tcp).map_err(failed)
            }
            Listen::Unix(path) => {
                let failed = |source| BindError {
                    address: format!("unix:{}", path.display()),
                    source,
                };
                let listener = unix(path, if asks { 0o666 } else { 0o600 });
                let listener = listener.map_err(failed)?;
                Ok(Self::Unix(listener, path.clone()))
            }
        }
    }

    pub(super) fn shown(&self) -> String {
        match self {
            Self::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|_| "tcp".to_owned(), |address| address.to_string()),
            Self::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }

    async fn next(&self) -> io::Result<(Stream, Link)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, theirs) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let link = Link {
                    tcp: Some((stream.local_addr()?, theirs)),
                    ..Link::default()
                };
                Ok((Either::Left(stream), link))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let credentials = stream.peer_cred()?;
                let pid = credentials.pid().and_then(|pid| pid.try_into().ok());
                let peer = UnixPeer {
                    pid: pid.unwrap_or(0),
                    uid: credentials.uid(),
                    gid: credentials.gid(),
                    handle: syscall::peer_process(&stream).ok(),
                    inode: UnixPeer::inode_of(&stream),
                };
                let link = Link {
                    unix: Some(Arc::new(peer)),
                    ..Link::default()
                };
                Ok((Either::Right(stream), link))
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            std::fs::remove_file(path).ok();
        }
    }
}

/// A file left by a process that is gone is replaced; a live one is not, nor one of which nobody knows.
fn unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let connected = std::os::unix::net::UnixStream::connect(path);
    if connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        && std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
    {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

/// Accepts for ever, a task for each connection.
pub(super) async fn serve(shared: Arc<Shared>, socket: Socket, seats: Arc<Seats>) {
    loop {
        let Ok(at_the_door) = Arc::clone(&seats.door).acquire_owned().await else {
            return;
        };
        match socket.next().await {
            Ok((stream, link)) => {
                let mut front = Front::new(Arc::clone(&shared), link);
                let (seats, all) = (Arc::clone(&seats), Arc::clone(&shared));
                shared.tracker.spawn(async move {
                    let seat = seats.take(&all, &front).await;
                    drop(at_the_door);
                    if let Some((seat, patience)) = seat {
                        front.sit(seat);
                        front::serve(front, stream, patience).await;
                    }
                });
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                warn!(%error, "cannot accept; trying again");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

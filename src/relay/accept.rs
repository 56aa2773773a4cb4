//! Where processes connect: loopback and unix sockets, and a loop that no error ends.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::either::Either;
use tracing::warn;

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

/// A file left by a process that is gone is replaced; a live one is not.
fn unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_err()
        && std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
    {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

/// Accepts for ever, a task for each connection.
pub(super) async fn serve(shared: Arc<Shared>, socket: Socket, permits: Arc<Semaphore>) {
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        match socket.next().await {
            Ok((stream, link)) => {
                let front = Front::new(Arc::clone(&shared), link);
                shared.tracker.spawn(async move {
                    front::serve(front, stream).await;
                    drop(permit);
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

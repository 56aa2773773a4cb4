//! Accepting: permits before connections, and a loop that no error ends.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, warn};

use super::Shared;
use super::connect::{self, Front};
use super::settings::{Identify, ListenAddr, ListenerSettings};
use super::stream::AgentStream;
use crate::identity::{Link, Peer, UnixPeer};
use crate::syscall;
use crate::tls::{FrontDoor, Shown};

/// A listener with its sockets open.
#[derive(Debug)]
pub struct Bound {
    settings: Arc<ListenerSettings>,
    sockets: Vec<Socket>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
    Tls(TcpListener, Arc<FrontDoor>),
}

/// A listener that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The address is in use, or not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address as it stands in the file.
        address: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// systemd handed over no socket of this name.
    #[error(
        "systemd handed over no socket named {0}; is there a .socket unit with FileDescriptorName={0}?"
    )]
    NotHandedOver(String),
    /// A `tls:` address, and nothing to show there.
    #[error("a tls: address needs the listener's certificate and key")]
    NoCertificate,
}

/// How long the loop rests after an error such as EMFILE: connections wait in the backlog meanwhile.
const REST: Duration = Duration::from_millis(50);

impl Bound {
    /// Opens the sockets of a listener. `handed` are those that systemd passed, by name; the ones that are named are
    /// taken out. `door` is what `tls:` addresses show.
    ///
    /// # Errors
    /// [`BindError`] names the address.
    pub fn open(
        settings: ListenerSettings,
        door: Option<&Arc<FrontDoor>>,
        handed: &mut Vec<(String, std::net::TcpListener)>,
    ) -> Result<Self, BindError> {
        let mut sockets = Vec::new();
        for address in &settings.listen {
            match address {
                ListenAddr::Tcp(address) => sockets.push(Socket::Tcp(tcp(*address)?)),
                ListenAddr::Tls(address) => {
                    let door = door.ok_or(BindError::NoCertificate)?;
                    sockets.push(Socket::Tls(tcp(*address)?, Arc::clone(door)));
                }
                ListenAddr::Unix(path) => sockets.push(unix(path, settings.identify)?),
                ListenAddr::Systemd(name) => {
                    let wanted = name.clone().unwrap_or_else(|| settings.name.to_string());
                    let before = sockets.len();
                    while let Some(place) = handed.iter().position(|(name, _)| *name == wanted) {
                        let (_, listener) = handed.swap_remove(place);
                        sockets.push(Socket::Tcp(adopt(listener, &wanted)?));
                    }
                    if sockets.len() == before {
                        return Err(BindError::NotHandedOver(wanted));
                    }
                }
            }
        }
        Ok(Self {
            settings: Arc::new(settings),
            sockets,
        })
    }

    /// The listener's name.
    pub fn name(&self) -> &crate::agent::Name {
        &self.settings.name
    }

    /// The TCP addresses, with the ports that were picked.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets
            .iter()
            .filter_map(|socket| match socket {
                Socket::Tcp(listener) | Socket::Tls(listener, _) => listener.local_addr().ok(),
                Socket::Unix(..) => None,
            })
            .collect()
    }

    /// Every address as text, for the start-up log.
    pub fn shown(&self) -> Vec<String> {
        self.sockets
            .iter()
            .map(|socket| match socket {
                Socket::Tcp(listener) => listener
                    .local_addr()
                    .map_or_else(|_| "tcp".to_owned(), |address| address.to_string()),
                Socket::Tls(listener, _) => listener
                    .local_addr()
                    .map_or_else(|_| "tls".to_owned(), |address| format!("tls:{address}")),
                Socket::Unix(_, path) => format!("unix:{}", path.display()),
            })
            .collect()
    }
}

fn failed(address: &dyn ToString) -> impl FnOnce(io::Error) -> BindError {
    let address = address.to_string();
    move |source| BindError::Listen { address, source }
}

fn tcp(address: SocketAddr) -> Result<TcpListener, BindError> {
    let open = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    open().map_err(failed(&address))
}

fn adopt(listener: std::net::TcpListener, name: &str) -> Result<TcpListener, BindError> {
    listener
        .set_nonblocking(true)
        .and_then(|()| TcpListener::from_std(listener))
        .map_err(failed(&format!("systemd:{name}")))
}

/// A unix socket. A file left by a process that is gone is replaced; a live one is not.
fn unix(path: &PathBuf, identify: Identify) -> Result<Socket, BindError> {
    let address = || format!("unix:{}", path.display());
    if std::os::unix::net::UnixStream::connect(path).is_err() {
        match std::fs::symlink_metadata(path) {
            Ok(found) if std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => {
                std::fs::remove_file(path).map_err(failed(&address()))?;
            }
            _ => {}
        }
    }
    let listener = UnixListener::bind(path).map_err(failed(&address()))?;
    // Where a token is asked for, the socket is as open as loopback is; where nothing is asked, it is its owner's.
    let mode = match identify {
        Identify::Required => 0o666,
        Identify::Open => 0o600,
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(failed(&address()))?;
    Ok(Socket::Unix(listener, path.clone()))
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            std::fs::remove_file(path).ok();
        }
    }
}

/// Accepts on every socket of a listener, in a task each.
pub(super) fn serve(shared: &Arc<Shared>, bound: Bound) {
    let permits = Arc::new(Semaphore::new(bound.settings.limits.max_connections));
    for socket in bound.sockets {
        let shared = Arc::clone(shared);
        let tracker = shared.tracker.clone();
        let (settings, permits) = (Arc::clone(&bound.settings), Arc::clone(&permits));
        tracker.spawn(async move {
            let drain = shared.drain.clone();
            tokio::select! {
                () = drain.cancelled() => {}
                () = accept(shared, settings, permits, socket) => {}
            }
        });
    }
}

async fn accept(
    shared: Arc<Shared>,
    settings: Arc<ListenerSettings>,
    permits: Arc<Semaphore>,
    socket: Socket,
) {
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let (stream, peer, link) = match next(&socket).await {
            Ok(accepted) => accepted,
            Err(error) if is_of_peer(&error) => {
                debug!(%error, "a connection was gone before it was accepted");
                continue;
            }
            Err(error) => {
                warn!(%error, listener = %settings.name, "cannot accept; trying again");
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        let seat = Arc::new(Seat::take(&shared, permit));
        let (shared, settings) = (Arc::clone(&shared), Arc::clone(&settings));
        let door = match &socket {
            Socket::Tls(_, door) => Some(Arc::clone(door)),
            Socket::Tcp(_) | Socket::Unix(..) => None,
        };
        shared.tracker.clone().spawn(async move {
            let cut = shared.cut.clone();
            let shaken = tokio::select! {
                () = cut.cancelled() => None,
                shaken = shake(stream, door, settings.limits.header_timeout) => shaken,
            };
            if let Some((stream, certificates)) = shaken {
                let link = Link {
                    certificates,
                    ..link
                };
                connect::serve(Front::new(shared, settings, (peer, link), seat), stream).await;
            }
        });
    }
}

/// The handshake of a `tls:` listener, and what the agent showed in it.
async fn shake(
    stream: AgentStream,
    door: Option<Arc<FrontDoor>>,
    deadline: Duration,
) -> Option<(AgentStream, Shown)> {
    let (tcp, door) = match (stream, door) {
        (AgentStream::Tcp(tcp), Some(door)) => (tcp, door),
        (stream, _) => return Some((stream, Shown::new())),
    };
    match tokio::time::timeout(deadline, door.accept(tcp)).await {
        Ok(Ok((stream, shown))) => Some((AgentStream::Tls(Box::new(stream)), shown)),
        Ok(Err(error)) => {
            debug!(%error, "TLS with an agent failed");
            None
        }
        Err(_) => None,
    }
}

/// An open connection's place among all: held until it ends, also by a panic, and also as a WebSocket.
#[derive(Debug)]
pub(super) struct Seat {
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl Seat {
    pub(super) fn take(shared: &Arc<Shared>, permit: OwnedSemaphorePermit) -> Self {
        shared.metrics.connections.inc();
        Self {
            shared: Arc::clone(shared),
            _permit: permit,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.metrics.connections.dec();
    }
}

async fn next(socket: &Socket) -> io::Result<(AgentStream, Peer, Link)> {
    match socket {
        Socket::Tcp(listener) | Socket::Tls(listener, _) => {
            let (stream, address) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let link = Link {
                tcp: Some((stream.local_addr()?, address)),
                ..Link::default()
            };
            Ok((AgentStream::Tcp(stream), Peer::Tcp(address.ip()), link))
        }
        Socket::Unix(listener, _) => {
            let (stream, _) = listener.accept().await?;
            let peer = unix_peer(&stream)?;
            let uid = peer.uid;
            let link = Link {
                unix: Some(Arc::new(peer)),
                ..Link::default()
            };
            Ok((AgentStream::Unix(stream), Peer::Unix { uid }, link))
        }
    }
}

fn unix_peer(stream: &UnixStream) -> io::Result<UnixPeer> {
    let credentials = stream.peer_cred()?;
    Ok(UnixPeer {
        pid: credentials
            .pid()
            .and_then(|pid| pid.try_into().ok())
            .unwrap_or(0),
        uid: credentials.uid(),
        gid: credentials.gid(),
        handle: syscall::peer_process(stream).ok(),
        inode: UnixPeer::inode_of(stream),
    })
}

/// Whether the error is of one connection, and not of us.
fn is_of_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

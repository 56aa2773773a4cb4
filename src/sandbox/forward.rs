//! Joins each connection of a listener to one address: the isolated command's only way out, where the proxy cannot
//! take the listener itself.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// Accepts on `listener` for ever and joins each connection to `to`; runs until the listener fails or it is dropped.
///
/// The proxy sees connections from this process; who the agent is, its token says. At most 1,024 connections stand at
/// a time; more wait in the kernel's queue.
pub async fn forward(
    listener: std::net::TcpListener,
    to: SocketAddr,
    tracker: TaskTracker,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(PLACES));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return Ok(());
        };
        let (inside, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if passing(&error) => continue,
            Err(error) => return Err(error),
        };
        tracker.spawn(async move {
            let _place = place;
            if let Err(error) = join(inside, to).await {
                tracing::debug!(%error, "a forwarded connection ended early");
            }
        });
    }
}

const PLACES: usize = 1024;

async fn join(mut inside: TcpStream, to: SocketAddr) -> io::Result<()> {
    let mut outside = TcpStream::connect(to).await?;
    inside.set_nodelay(true)?;
    outside.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut inside, &mut outside).await?;
    Ok(())
}

/// A connection that was gone before it was accepted is that connection's matter, not the listener's.
fn passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
    )
}

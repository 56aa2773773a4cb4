//! `[admin] socket`: mode 0600, and the kernel's word for who is at the other end.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use super::Door;

/// The open socket; its file goes with it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Opens it. A socket that nobody listens on any more is replaced; another file is not.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        if std::os::unix::net::UnixStream::connect(path).is_err()
            && std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
        {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    pub(super) async fn accept(&self) -> io::Result<(UnixStream, Door)> {
        let (stream, _) = self.listener.accept().await?;
        // Before the mode was set somebody else may have come in: the peer's uid (SO_PEERCRED) decides.
        let own = rustix::process::geteuid().as_raw();
        let door = match stream.peer_cred() {
            Ok(peer) if peer.uid() == own || peer.uid() == 0 => {
                Door::Socket(format!("uid-{}", peer.uid()).into())
            }
            Ok(_) | Err(_) => Door::Stranger,
        };
        Ok((stream, door))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Gone already is gone.
        std::fs::remove_file(&self.path).ok();
    }
}

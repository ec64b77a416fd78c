//! The listening Unix socket: replaces the file of a server that has died, and removes only its own file.
//!
//! A socket's file outlives its process, and nothing but a refused connection shows that no process listens any
//! more. Servers that share a folder take turns by a lock of it while they bind, replace or remove a file: no
//! server replaces the file of another that has bound it but does not listen yet.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

/// Time to wait for the lock. Another program may hold it for another purpose: then it is left out.
const LOCK_TIMEOUT: Duration = Duration::from_millis(200);
const LOCK_STEP: Duration = Duration::from_millis(2);

/// A bound Unix socket.
#[derive(Debug)]
pub(super) struct UnixSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Device and inode of its file; none if it could not be read.
    file: Option<(u64, u64)>,
}

impl UnixSocket {
    /// Binds a path. The file of a socket on which no process listens is replaced. `mode`: its permissions, if not
    /// those of the process.
    ///
    /// Errors: `AddrInUse` if a process listens there, or the file is not a socket.
    pub(super) fn bind(path: &Path, mode: Option<u32>) -> io::Result<Self> {
        let _lock = FolderLock::take(path);
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
                fs::remove_file(path)?;
                UnixListener::bind(path)?
            }
            result => result?,
        };
        if let Some(mode) = mode {
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        }
        Ok(Self {
            listener,
            path: path.to_owned(),
            file: identity(path),
        })
    }

    /// Removes the file, unless another server has replaced it.
    pub(super) fn remove_file(&self) {
        let _lock = FolderLock::take(&self.path);
        // Its inode is not used again while the socket is open.
        if self.file.is_some() && identity(&self.path) == self.file {
            // Fails if the folder belongs to another user.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Device and inode of a file. A link is not followed.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// True if the file is a socket on which no process listens.
fn is_stale(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    is_socket
        && matches!(connect(path), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Connects without waiting: a server whose backlog is full is in use.
fn connect(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

/// The lock of the folder of a file, until it is dropped.
struct FolderLock {
    _folder: File,
}

impl FolderLock {
    /// None if the folder cannot be read, or another program holds the lock for long.
    fn take(file: &Path) -> Option<Self> {
        let parent = file.parent().filter(|it| !it.as_os_str().is_empty());
        let folder = File::open(parent.unwrap_or(Path::new("."))).ok()?;
        let start = Instant::now();
        while flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err() {
            if start.elapsed() > LOCK_TIMEOUT {
                return None;
            }
            std::thread::sleep(LOCK_STEP);
        }
        Some(Self { _folder: folder })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new folder; removed when dropped.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("wsmsgbroker-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Leaves the file of a socket on which no process listens.
    fn leave_stale(path: &Path) {
        drop(std::os::unix::net::UnixListener::bind(path).unwrap());
    }

    fn is_in_use(path: &Path) -> bool {
        matches!(UnixSocket::bind(path, None), Err(error) if error.kind() == io::ErrorKind::AddrInUse)
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_one_in_use_is_not() {
        let folder = Folder::new("stale");
        let path = folder.0.join("socket");
        leave_stale(&path);
        let socket = UnixSocket::bind(&path, None).unwrap();
        assert!(is_in_use(&path));
        connect(&path).unwrap();
        socket.remove_file();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn other_files_and_links_stay_as_they_are() {
        let folder = Folder::new("files");
        let (file, link) = (folder.0.join("file"), folder.0.join("link"));
        fs::write(&file, "text").unwrap();
        leave_stale(&folder.0.join("socket"));
        std::os::unix::fs::symlink(folder.0.join("socket"), &link).unwrap();
        for path in [&file, &link, &folder.0] {
            assert!(is_in_use(path), "{}", path.display());
        }
        assert_eq!(fs::read(&file).unwrap(), b"text");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[tokio::test]
    async fn the_file_has_the_permissions_of_the_option() {
        let folder = Folder::new("mode");
        let path = folder.0.join("socket");
        let socket = UnixSocket::bind(&path, Some(0o660)).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        socket.remove_file();
    }

    #[tokio::test]
    async fn the_file_of_a_successor_is_not_removed() {
        let folder = Folder::new("successor");
        let path = folder.0.join("socket");
        let first = UnixSocket::bind(&path, None).unwrap();
        fs::remove_file(&path).unwrap();
        let second = UnixSocket::bind(&path, None).unwrap();
        first.remove_file();
        drop(first);
        connect(&path).unwrap();
        second.remove_file();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn one_of_many_servers_gets_a_stale_socket() {
        let folder = Folder::new("race");
        let path = folder.0.join("socket");
        let runtime = tokio::runtime::Handle::current();
        for _ in 0..20 {
            leave_stale(&path);
            let barrier = std::sync::Barrier::new(4);
            let bound = std::thread::scope(|scope| {
                let bind = || {
                    let _entered = runtime.enter();
                    barrier.wait();
                    UnixSocket::bind(&path, None)
                };
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(bind)).collect();
                let results = threads.into_iter().map(|thread| thread.join().unwrap());
                results.filter_map(Result::ok).collect::<Vec<_>>()
            });
            assert_eq!(bound.len(), 1);
            connect(&path).unwrap();
            bound[0].remove_file();
        }
    }
}

//! The files by which a daemon is found: its lock, its socket, and a note on whose it is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};

/// The note beside a socket: with it `pyseidon-daemon` finds the daemons of a project without
/// knowing the attributes that went into their keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) key: String,
    pub(super) root: PathBuf,
    pub(super) script: PathBuf,
    pub(super) python: PathBuf,
    pub(super) pid: i32,
    pub(super) log: Option<PathBuf>,
}

/// What opening the door came to.
pub(super) enum Opening {
    Open(Door),
    /// Another daemon holds the lock.
    Taken,
}

pub(super) struct Door {
    listener: UnixListener,
    socket: PathBuf,
    /// Device and inode: the socket may have been replaced by somebody else's.
    identity: (u64, u64),
    note: PathBuf,
    /// Released last: who gets it finds none of our files.
    _lock: Lock,
}

impl Door {
    pub(super) fn open(socket: &Path, lock: &Path, note: &Note) -> Result<Opening> {
        let Some(held) = Lock::take(lock)? else {
            return Ok(Opening::Taken);
        };
        // Whoever left a socket here does not hold the lock, so it is dead.
        match fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).doing(|| format!("removing the stale `{}`", socket.display()));
            }
            _ => {}
        }
        let doing = || format!("listening on `{}`", socket.display());
        let listener = UnixListener::bind(socket).doing(doing)?;
        listener.set_nonblocking(true).doing(doing)?;
        let found = fs::symlink_metadata(socket).doing(doing)?;
        let place = note_path(socket);
        write_note(&place, note)?;
        Ok(Opening::Open(Self {
            listener,
            socket: socket.to_path_buf(),
            identity: (found.dev(), found.ino()),
            note: place,
            _lock: held,
        }))
    }

    /// The next connection that waits.
    pub(super) fn accept(&self) -> io::Result<Option<UnixStream>> {
        loop {
            return match self.listener.accept() {
                Ok((stream, _)) => Ok(Some(stream)),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => Ok(None),
                    // It left before it was its turn.
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => continue,
                    _ => Err(error),
                },
            };
        }
    }

    /// Lets nobody in any more. Gives those who were waiting: they must be told.
    pub(super) fn close(self) -> Vec<UnixStream> {
        self.withdraw();
        std::iter::from_fn(|| self.accept().ok().flatten()).collect()
    }

    fn withdraw(&self) {
        if self.is_reachable() {
            let _ = fs::remove_file(&self.socket);
            let _ = fs::remove_file(&self.note);
        }
    }

    /// Whether clients still find this daemon.
    pub(super) fn is_reachable(&self) -> bool {
        fs::symlink_metadata(&self.socket)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.identity)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.withdraw();
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// Whoever holds it may make and remove the other files. Its own file goes with it.
struct Lock {
    path: PathBuf,
    file: Flock<File>,
}

/// What a try to lock an open file came to.
enum Try {
    Held(Lock),
    Busy,
    /// The path does not name this file any more: whoever held it has gone.
    Removed,
}

impl Lock {
    /// `None`: somebody else holds it.
    fn take(path: &Path) -> Result<Option<Self>> {
        loop {
            match Self::try_open(path, open_lock(path)?)? {
                Try::Held(lock) => return Ok(Some(lock)),
                Try::Busy => return Ok(None),
                Try::Removed => {}
            }
        }
    }

    /// A lock on a file that was removed between opening and locking keeps nobody out: the next
    /// one to come makes another file. So only the file that the path still names counts.
    fn try_open(path: &Path, mut file: File) -> Result<Try> {
        let doing = || format!("locking `{}`", path.display());
        let locked = loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(locked) => break Ok(locked),
                Err((back, nix::Error::EINTR)) => file = back,
                Err((back, nix::Error::EWOULDBLOCK)) => break Err(back),
                Err((_, error)) => return Err(error).doing(doing),
            }
        };
        let of = locked.as_deref().unwrap_or_else(|file| file);
        Ok(match (is_named(path, of), locked) {
            (false, _) => Try::Removed,
            (true, Err(_)) => Try::Busy,
            (true, Ok(file)) => Try::Held(Self {
                path: path.to_path_buf(),
                file,
            }),
        })
    }
}

impl Drop for Lock {
    /// While it is held: who waits for nothing but this file then finds it removed. Somebody may
    /// have cleared the directory, and the file there be another daemon's.
    fn drop(&mut self) {
        if is_named(&self.path, &self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn open_lock(path: &Path) -> Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .doing(|| format!("opening `{}`", path.display()))
}

fn is_named(path: &Path, file: &File) -> bool {
    let identity = |found: fs::Metadata| (found.dev(), found.ino());
    fs::symlink_metadata(path)
        .and_then(|there| Ok(identity(there) == identity(file.metadata()?)))
        .unwrap_or(false)
}

fn note_path(socket: &Path) -> PathBuf {
    socket.with_extension("json")
}

fn write_note(path: &Path, note: &Note) -> Result<()> {
    let text = serde_json::to_vec(note).map_err(|e| Error::Other(e.to_string()))?;
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&beside)
        .and_then(|mut file| file.write_all(&text))
        .and_then(|()| fs::rename(&beside, path))
        .doing(|| format!("writing `{}`", path.display()))
}

/// The notes of all daemons of this user, dead ones included.
pub(super) fn notes(runtime: &Path) -> Vec<(PathBuf, Note)> {
    let entries = fs::read_dir(runtime).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .filter_map(|path| {
            let note = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
            Some((path.with_extension("sock"), note))
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// Removes what a killed daemon left, unless a living one has taken its place.
pub(super) fn sweep(socket: &Path) {
    if let Ok(Some(_held)) = Lock::take(&socket.with_extension("lock")) {
        let _ = fs::remove_file(socket);
        let _ = fs::remove_file(note_path(socket));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note() -> Note {
        Note {
            key: "k".into(),
            root: "/p".into(),
            script: "/env/bin/pytest".into(),
            python: "/env/bin/python".into(),
            pid: 1,
            log: None,
        }
    }

    fn open(dir: &Path) -> Opening {
        Door::open(&dir.join("k.sock"), &dir.join("k.lock"), &note()).unwrap()
    }

    fn is_empty(dir: &Path) -> bool {
        fs::read_dir(dir).unwrap().next().is_none()
    }

    #[test]
    fn of_two_one_gets_the_door_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let Opening::Open(door) = open(dir.path()) else {
            panic!("taken");
        };
        assert!(matches!(open(dir.path()), Opening::Taken));
        UnixStream::connect(dir.path().join("k.sock")).unwrap();
        assert!(door.accept().unwrap().is_some());
        assert!(door.accept().unwrap().is_none());
        assert_eq!(notes(dir.path()), [(dir.path().join("k.sock"), note())]);
        let _waiting = UnixStream::connect(dir.path().join("k.sock")).unwrap();
        assert_eq!(door.close().len(), 1);
        assert!(is_empty(dir.path()));
        assert!(matches!(open(dir.path()), Opening::Open(_)));
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_strange_one_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("k.sock");
        drop(UnixListener::bind(&socket).unwrap());
        let Opening::Open(door) = open(dir.path()) else {
            panic!("taken");
        };
        assert!(door.is_reachable());
        fs::remove_file(&socket).unwrap();
        let _other = UnixListener::bind(&socket).unwrap();
        assert!(!door.is_reachable());
        drop(door);
        assert!(socket.exists());
    }

    #[test]
    fn what_a_killed_daemon_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("k.sock");
        drop(UnixListener::bind(&socket).unwrap());
        write_note(&note_path(&socket), &note()).unwrap();
        sweep(&socket);
        assert!(is_empty(dir.path()));
    }

    #[test]
    fn a_lock_on_a_removed_file_keeps_nobody_out_and_so_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k.lock");
        let leaving = Lock::take(&path).unwrap().unwrap();
        // Two come while it is held. One has opened the file when it is removed.
        let opened = open_lock(&path).unwrap();
        let busy = open_lock(&path).unwrap();
        assert!(matches!(Lock::try_open(&path, busy), Ok(Try::Busy)));
        drop(leaving);
        assert!(!path.exists());
        let late = opened.try_clone().unwrap();
        assert!(matches!(Lock::try_open(&path, opened), Ok(Try::Removed)));
        // The other gets a file of its own, which is the one that counts.
        let winner = Lock::take(&path).unwrap().unwrap();
        assert!(matches!(Lock::try_open(&path, late), Ok(Try::Removed)));
        assert!(Lock::take(&path).unwrap().is_none());
        drop(winner);
        assert!(is_empty(dir.path()));
    }

    #[test]
    fn the_lock_of_another_daemon_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k.lock");
        let cleared = Lock::take(&path).unwrap().unwrap();
        fs::remove_file(&path).unwrap();
        let _other = Lock::take(&path).unwrap().unwrap();
        drop(cleared);
        assert!(path.exists() && Lock::take(&path).unwrap().is_none());
    }
}

//! Which directories changed, as a hint: what a checkpoint stands for is decided by its trace
//! alone. Changes made through `mmap` or on network file systems are not seen here, and need not
//! be.
//!
//! A thread of its own keeps the watches and collects changes until they settle, so that a
//! checkout of a thousand files wakes the loop once. It wakes it through an `eventfd`.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use crate::error::{Context, Error, Result};

/// Editors write a file in two or three steps within a few milliseconds; formatters on save follow
/// within some tens.
const SETTLED: Duration = Duration::from_millis(100);
/// A change that goes on and on (a build, an installation) is passed on in between.
const LONGEST: Duration = Duration::from_secs(1);

/// How the loop asks for watches. Tests put a record in its place.
pub(super) trait Watch {
    /// Watches these directories and no others.
    fn watch(&mut self, directories: BTreeSet<PathBuf>);
}

enum Message {
    Watch(BTreeSet<PathBuf>),
    Happened(notify::Result<notify::Event>),
}

/// Sets watches.
pub(super) struct Watcher {
    sender: Sender<Message>,
    last: BTreeSet<PathBuf>,
}

/// Where changes come out. Readable when there are some.
pub(super) struct Changes {
    shared: Arc<Shared>,
}

/// When the system has no watches to give.
pub(super) struct Blind;

impl Watch for Blind {
    fn watch(&mut self, _directories: BTreeSet<PathBuf>) {}
}

struct Shared {
    changed: Mutex<BTreeSet<PathBuf>>,
    wake: EventFd,
}

impl Watcher {
    pub(super) fn start() -> Result<(Self, Changes)> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .doing(|| "making an event descriptor".into())?;
        let shared = Arc::new(Shared {
            changed: Mutex::new(BTreeSet::new()),
            wake,
        });
        let (sender, receiver) = channel();
        let happened = sender.clone();
        let notify = notify::recommended_watcher(move |event| {
            let _ = happened.send(Message::Happened(event));
        })
        .map_err(|error| Error::Other(format!("watching for changes: {error}")))?;
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("watcher".into())
            .spawn(move || {
                Thread {
                    notify,
                    shared: theirs,
                    watched: BTreeSet::new(),
                    pending: Pending::default(),
                }
                .run(&receiver);
            })
            .doing(|| "starting the watcher's thread".into())?;
        let watcher = Self {
            sender,
            last: BTreeSet::new(),
        };
        Ok((watcher, Changes { shared }))
    }
}

impl Changes {
    /// The directories that changed since the last call.
    pub(super) fn take(&self) -> BTreeSet<PathBuf> {
        let _ = self.shared.wake.read();
        std::mem::take(
            &mut *self
                .shared
                .changed
                .lock()
                .expect("no panic while it is held"),
        )
    }
}

impl Watch for Watcher {
    fn watch(&mut self, directories: BTreeSet<PathBuf>) {
        if directories != self.last {
            self.last.clone_from(&directories);
            let _ = self.sender.send(Message::Watch(directories));
        }
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.wake.as_fd()
    }
}

/// Changes since they were last passed on.
#[derive(Default)]
struct Pending {
    directories: BTreeSet<PathBuf>,
    /// When the first and the latest of them came.
    span: Option<(Instant, Instant)>,
}

impl Pending {
    fn add(&mut self, directories: impl IntoIterator<Item = PathBuf>, now: Instant) {
        let before = self.directories.len();
        self.directories.extend(directories);
        if self.directories.is_empty() {
            return;
        }
        let (_, latest) = self.span.get_or_insert((now, now));
        if self.directories.len() > before {
            *latest = now;
        }
    }

    /// When they are to be passed on.
    fn due(&self) -> Option<Instant> {
        self.span
            .map(|(first, latest)| (latest + SETTLED).min(first + LONGEST))
    }
}

struct Thread {
    notify: RecommendedWatcher,
    shared: Arc<Shared>,
    watched: BTreeSet<PathBuf>,
    pending: Pending,
}

impl Thread {
    fn run(mut self, messages: &Receiver<Message>) {
        loop {
            let message = match self.pending.due() {
                None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => messages.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            match message {
                Ok(Message::Watch(directories)) => self.watch(directories),
                Ok(Message::Happened(Ok(event))) => self.happened(&event),
                Ok(Message::Happened(Err(error))) => tracing::debug!("watching: {error}"),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.pending.due().is_some_and(|due| due <= Instant::now()) {
                self.pass_on();
            }
        }
    }

    fn watch(&mut self, directories: BTreeSet<PathBuf>) {
        for gone in self.watched.difference(&directories) {
            let _ = self.notify.unwatch(gone);
        }
        let mut watched = BTreeSet::new();
        for directory in directories {
            // One that does not exist, or one too many: the trace notices all the same.
            if self.watched.contains(&directory)
                || self
                    .notify
                    .watch(&directory, RecursiveMode::NonRecursive)
                    .is_ok()
            {
                watched.insert(directory);
            }
        }
        self.watched = watched;
    }

    fn happened(&mut self, event: &notify::Event) {
        // Every opening of a watched file is reported too: all that pytest reads.
        let written = AccessKind::Close(AccessMode::Write);
        if matches!(event.kind, EventKind::Access(kind) if kind != written) {
            return;
        }
        let mut concerned = BTreeSet::new();
        if event.need_rescan() {
            // The kernel's queue ran over: anything may have changed.
            concerned.clone_from(&self.watched);
        }
        for path in &event.paths {
            for directory in [Some(path.as_path()), path.parent()].into_iter().flatten() {
                if self.watched.contains(directory) {
                    concerned.insert(directory.to_path_buf());
                }
            }
            if matches!(event.kind, EventKind::Remove(_)) {
                // A watch goes with its directory: it is set anew when asked for again.
                self.watched.remove::<Path>(path);
            }
        }
        self.pending.add(concerned, Instant::now());
    }

    fn pass_on(&mut self) {
        let settled = std::mem::take(&mut self.pending).directories;
        self.shared
            .changed
            .lock()
            .expect("no panic while it is held")
            .extend(settled);
        let _ = self.shared.wake.write(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn wait(changes: &Changes) -> BTreeSet<PathBuf> {
        let mut fds = [PollFd::new(changes.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(5000u16)).unwrap(), 1);
        changes.take()
    }

    #[test]
    fn changes_settle_before_they_are_passed_on() {
        let now = Instant::now();
        let mut pending = Pending::default();
        assert_eq!(pending.due(), None);
        pending.add(["/a".into()], now);
        assert_eq!(pending.due(), Some(now + SETTLED));
        pending.add(["/b".into()], now + SETTLED / 2);
        assert_eq!(pending.due(), Some(now + SETTLED / 2 + SETTLED));
        // A directory that is known to have changed says nothing new.
        pending.add(["/b".into()], now + SETTLED);
        assert_eq!(pending.due(), Some(now + SETTLED / 2 + SETTLED));
        pending.add(["/c".into()], now + LONGEST);
        assert_eq!(pending.due(), Some(now + LONGEST));
    }

    #[test]
    fn a_written_file_names_its_directory_and_a_read_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::write(path.join("old"), "x").unwrap();
        let (mut watcher, changes) = Watcher::start().unwrap();
        watcher.watch([path.clone()].into());
        // The watch is set by the other thread: write until it is seen.
        let mut fds = [PollFd::new(changes.as_fd(), PollFlags::POLLIN)];
        let mut tries = 0;
        while poll(&mut fds, PollTimeout::from(50u16)).unwrap() == 0 {
            std::fs::write(path.join("new"), "x").unwrap();
            tries += 1;
            assert!(tries < 200, "never seen");
        }
        assert_eq!(wait(&changes), [path.clone()].into());
        // What was written on the way may still come in.
        while poll(&mut fds, PollTimeout::from(300u16)).unwrap() == 1 {
            changes.take();
        }
        std::fs::read(path.join("old")).unwrap();
        assert_eq!(poll(&mut fds, PollTimeout::from(300u16)).unwrap(), 0);
    }
}

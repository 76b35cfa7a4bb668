//! Which directories changed, as a hint: what a checkpoint stands for is decided by its trace
//! alone, right before each run. This is to be early, and never silent where it might be wrong.
//!
//! - [`kernel`]: inotify, which tells of most changes at once
//! - [`polling`]: looking again and again, where it does not
//! - [`filesystem`]: where it does not
//! - [`thread`]: what a thread of its own does with all that
//!
//! What nobody tells of: writing through `mmap` or by another name of the same file, and that a
//! directory above was renamed in which there is no watch. A watch is set only on directories that
//! something was loaded or looked for in; each is set anew whenever a checkpoint comes or goes, so
//! that such a loss lasts no longer than to the next run that notices it.
//!
//! The crate `notify` was used here before, and measured (8.2.1). It asks to be told of every
//! opened file too, which cost 4 µs each: 8 ms for a command that reads 2,000 files. It has one
//! path for a watch where the kernel has one watch for a directory by whatever path (two names of
//! one directory: the first falls silent, and both when one is not wanted any more). It drops the
//! watches below a directory that is renamed, and does not say which. Its `PollWatcher` knows
//! times in seconds, so that of five edits in the second of an earlier one it saw none, and takes
//! 66 ms to read all that lies in the directories of a checkpoint without plugins, where asking
//! for the signatures of what was loaded takes 1.3.
//!
//! From a write to the line in the log that a checkpoint is stale it took, in the median of 15
//! edits and at worst: 21 and 40 ms where the kernel tells, 46 and 66 where there was no watch
//! left, 44 and 117 on a FUSE file system that Python serves.

mod filesystem;
mod kernel;
mod polling;
#[cfg(test)]
mod tests;
mod thread;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::error::{Context, Result};
use crate::trace::Trace;
use filesystem::Home;
use thread::{Message, Thread};

/// How the loop asks for watches. Tests put a record in its place.
pub(super) trait Watch {
    /// Watches all this and nothing else.
    fn watch(&mut self, wanted: Wanted);

    /// Somebody works here: it is worth looking.
    fn awake(&mut self) {}
}

/// What checkpoints were built from, as far as it is watched.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) directories: BTreeSet<PathBuf>,
    /// What was read in them.
    pub(super) files: BTreeSet<PathBuf>,
}

impl Wanted {
    pub(super) fn add(&mut self, trace: &Trace) {
        self.directories.extend(trace.watched());
        let files = trace.watched_files().map(Path::to_path_buf);
        self.files.extend(files);
    }
}

/// Sets watches.
pub(super) struct Watcher {
    sender: Sender<Message>,
    shared: Arc<Shared>,
}

/// Where changes come out. Readable when there are some.
pub(super) struct Changes {
    shared: Arc<Shared>,
}

/// When not even a thread is to be had.
pub(super) struct Blind;

impl Watch for Blind {
    fn watch(&mut self, _wanted: Wanted) {}
}

/// What the loop and the thread have in common.
struct Shared {
    changed: Mutex<BTreeSet<PathBuf>>,
    /// Wakes the loop.
    wake: EventFd,
    /// Wakes the thread.
    asked: EventFd,
    /// Something is polled, so that it matters whether somebody works here.
    polls: AtomicBool,
}

impl Watcher {
    pub(super) fn start() -> Result<(Self, Changes)> {
        Self::start_where(filesystem::home_of)
    }

    /// `home_of` says of what kind the file system of a directory is.
    fn start_where(home_of: fn(&Path) -> Home) -> Result<(Self, Changes)> {
        let descriptor = || {
            EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
                .doing(|| "making an event descriptor".into())
        };
        let shared = Arc::new(Shared {
            changed: Mutex::new(BTreeSet::new()),
            wake: descriptor()?,
            asked: descriptor()?,
            polls: AtomicBool::new(false),
        });
        let (sender, receiver) = channel();
        let thread = Thread::new(Arc::clone(&shared), home_of);
        std::thread::Builder::new()
            .name("watcher".into())
            .spawn(move || thread.run(&receiver))
            .doing(|| "starting the watcher's thread".into())?;
        let changes = Changes {
            shared: Arc::clone(&shared),
        };
        Ok((Self { sender, shared }, changes))
    }

    fn tell(&self, message: Message) {
        if self.sender.send(message).is_ok() {
            let _ = self.shared.asked.write(1);
        }
    }
}

impl Watch for Watcher {
    fn watch(&mut self, wanted: Wanted) {
        self.tell(Message::Watch(wanted));
    }

    fn awake(&mut self) {
        // A run is not to pay for waking a thread that has nothing to do.
        if self.shared.polls.load(Ordering::Relaxed) {
            self.tell(Message::Awake);
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.tell(Message::End);
    }
}

impl Shared {
    fn add(&self, directories: BTreeSet<PathBuf>) {
        let mut changed = self.changed.lock().expect("no panic while it is held");
        changed.extend(directories);
        let _ = self.wake.write(1);
    }
}

impl Changes {
    /// The directories that changed since the last call.
    pub(super) fn take(&self) -> BTreeSet<PathBuf> {
        let _ = self.shared.wake.read();
        let mut changed = self.shared.changed.lock();
        std::mem::take(changed.as_mut().expect("no panic while it is held"))
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.wake.as_fd()
    }
}

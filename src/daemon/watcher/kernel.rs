//! Watches of the kernel, and what it says.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

/// Not that a file was opened or read: that is most of what happens, and no change.
const ASKED: AddWatchFlags = AddWatchFlags::IN_MODIFY
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_MOVE)
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF);

/// A name came to mean something else, or nothing.
const NAMING: AddWatchFlags = AddWatchFlags::IN_MOVE
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_DELETE);

/// One reading gives 4 KiB, some hundred events; the queue holds 16,384. Who writes for ever must
/// not keep the thread from passing on what it has heard.
const READINGS: usize = 200;

pub(super) struct Kernel {
    inotify: Inotify,
    watches: BTreeMap<PathBuf, WatchDescriptor>,
    /// A directory has one watch, by whatever names it was asked for.
    names: HashMap<WatchDescriptor, BTreeSet<PathBuf>>,
}

/// What the kernel has said.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Places in which something changed.
    pub(super) changed: BTreeSet<PathBuf>,
    /// Here and below, paths may lead to other directories than those that are watched.
    pub(super) moved: BTreeSet<PathBuf>,
    /// More happened than it could keep in mind: anything may have changed.
    pub(super) too_much: bool,
}

impl Kernel {
    pub(super) fn start() -> Result<Self, Errno> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        Ok(Self {
            inotify,
            watches: BTreeMap::new(),
            names: HashMap::new(),
        })
    }

    /// Watches what the path leads to now. True if that was not watched by this name before.
    pub(super) fn set(&mut self, place: &Path) -> Result<bool, Errno> {
        // The kernel answers with the watch that the directory has already, if it has one: so
        // asking again also says whether it is still the same directory.
        let found = self.inotify.add_watch(place, ASKED);
        let before = self.watches.get(place).copied();
        if found.ok() == before && before.is_some() {
            return Ok(false);
        }
        self.unset(place);
        let watch = found?;
        self.watches.insert(place.to_path_buf(), watch);
        let names = self.names.entry(watch).or_default();
        names.insert(place.to_path_buf());
        Ok(true)
    }

    pub(super) fn unset(&mut self, place: &Path) {
        let Some(watch) = self.watches.remove(place) else {
            return;
        };
        let Some(names) = self.names.get_mut(&watch) else {
            return;
        };
        names.remove(place);
        if names.is_empty() {
            self.names.remove(&watch);
            // Fails if it has gone with its directory.
            let _ = self.inotify.rm_watch(watch);
        }
    }

    /// All that it has to say at the moment.
    pub(super) fn hear(&mut self) -> Result<Heard, Errno> {
        let mut heard = Heard::default();
        for _ in 0..READINGS {
            match self.inotify.read_events() {
                Ok(events) => {
                    for event in events {
                        self.take_in(&event, &mut heard);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(heard)
    }

    fn take_in(&mut self, event: &InotifyEvent, heard: &mut Heard) {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            heard.too_much = true;
        }
        // What is not found was not wanted any more when it was said.
        let Some(names) = self.names.get(&event.wd) else {
            return;
        };
        heard.changed.extend(names.iter().cloned());
        if let Some(entry) = event
            .name
            .as_ref()
            .filter(|_| event.mask.intersects(NAMING))
        {
            heard
                .moved
                .extend(names.iter().map(|name| name.join(entry)));
        }
        let gone = event.mask.contains(AddWatchFlags::IN_IGNORED);
        if gone || event.mask.contains(AddWatchFlags::IN_MOVE_SELF) {
            heard.moved.extend(names.iter().cloned());
        }
        if gone {
            for name in self.names.remove(&event.wd).into_iter().flatten() {
                self.watches.remove(&name);
            }
        }
    }
}

impl AsFd for Kernel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

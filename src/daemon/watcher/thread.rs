//! The thread that keeps the watches, and passes on what it learns.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::filesystem::Home;
use super::kernel::Kernel;
use super::polling::{Poller, look};
use super::{Shared, Wanted};

/// Editors write a file in two or three steps within a few milliseconds. (What formatters on save
/// do some tens of milliseconds later, a build waits for.)
const SETTLED: Duration = Duration::from_millis(15);
/// A change that goes on (a checkout, an installation) is not waited for.
const LONGEST: Duration = Duration::from_millis(40);
/// It is passed on in between, but not all the time: a check takes some milliseconds. It has to be
/// more often than a build waits for, or one would begin in the middle.
const BETWEEN: Duration = Duration::from_millis(60);

pub(super) enum Message {
    Watch(Wanted),
    Awake,
    End,
}

/// Changes since they were last passed on.
#[derive(Default)]
pub(super) struct Pending {
    directories: BTreeSet<PathBuf>,
    /// When the first and the latest of them came.
    span: Option<(Instant, Instant)>,
    passed_on: Option<Instant>,
}

impl Pending {
    pub(super) fn add(&mut self, directories: impl IntoIterator<Item = PathBuf>, now: Instant) {
        self.directories.extend(directories);
        if !self.directories.is_empty() {
            self.span.get_or_insert((now, now)).1 = now;
        }
    }

    /// When they are to be passed on.
    pub(super) fn due(&self) -> Option<Instant> {
        let (first, latest) = self.span?;
        let settled = (latest + SETTLED).min(first + LONGEST);
        let not_before = self.passed_on.map(|before| before + BETWEEN);
        Some(settled.max(not_before.unwrap_or(settled)))
    }

    #[cfg(test)]
    pub(super) fn has(&self, directory: &Path) -> bool {
        self.directories.contains(directory)
    }

    pub(super) fn take(&mut self, now: Instant) -> BTreeSet<PathBuf> {
        self.span = None;
        self.passed_on = Some(now);
        std::mem::take(&mut self.directories)
    }
}

/// A directory that is watched.
#[derive(Default)]
struct Place {
    /// Whom a change here concerns: itself, and directories with links to files that are here.
    concerns: BTreeSet<PathBuf>,
    /// What was loaded from here.
    files: Vec<PathBuf>,
    /// It was there once.
    known: bool,
    polled: bool,
}

/// Where to watch to know of all that is wanted.
fn places(wanted: Wanted) -> BTreeMap<PathBuf, Place> {
    let mut places: BTreeMap<PathBuf, Place> = BTreeMap::new();
    for directory in wanted.directories {
        let place = places.entry(directory.clone()).or_default();
        place.concerns.insert(directory);
    }
    for file in wanted.files {
        let Some(directory) = file.parent().map(Path::to_path_buf) else {
            continue;
        };
        // What is written through a link happens where the file is.
        let is_link = fs::symlink_metadata(&file).is_ok_and(|data| data.is_symlink());
        let target = is_link.then(|| fs::canonicalize(&file).ok()).flatten();
        if let Some(there) = target.as_deref().and_then(Path::parent) {
            let place = places.entry(there.to_path_buf()).or_default();
            place.concerns.insert(directory.clone());
            place.files.extend(target.clone());
        }
        places.entry(directory).or_default().files.push(file);
    }
    places
}

pub(super) struct Thread {
    shared: Arc<Shared>,
    home_of: fn(&Path) -> Home,
    /// None where there is no inotify, or no instance of it left.
    pub(super) kernel: Option<Kernel>,
    poller: Poller,
    places: BTreeMap<PathBuf, Place>,
    pub(super) pending: Pending,
    /// Why there was no watch, the last time that this was said.
    said: Option<Errno>,
}

impl Thread {
    pub(super) fn new(shared: Arc<Shared>, home_of: fn(&Path) -> Home) -> Self {
        Self {
            shared,
            home_of,
            kernel: None,
            poller: Poller::new(Instant::now()),
            places: BTreeMap::new(),
            pending: Pending::default(),
            said: None,
        }
    }

    pub(super) fn run(mut self, messages: &Receiver<Message>) {
        loop {
            let due = self.pending.due().into_iter().chain(self.poller.due());
            if self.wait(due.min()) {
                self.hear();
            }
            let _ = self.shared.asked.read();
            loop {
                match messages.try_recv() {
                    Ok(Message::Watch(wanted)) => self.watch(wanted),
                    Ok(Message::Awake) => self.poller.awake(Instant::now()),
                    Err(TryRecvError::Empty) => break,
                    Ok(Message::End) | Err(TryRecvError::Disconnected) => return,
                }
            }
            let now = Instant::now();
            if self.poller.due().is_some_and(|due| due <= now) {
                self.look();
            }
            if self.pending.due().is_some_and(|due| due <= Instant::now()) {
                let settled = self.pending.take(Instant::now());
                self.shared.add(settled);
            }
        }
    }

    /// Waits for something to happen or to be due. True if the kernel has something to say.
    fn wait(&mut self, due: Option<Instant>) -> bool {
        let timeout = due.map_or(PollTimeout::NONE, |due| {
            super::super::timeout(due.saturating_duration_since(Instant::now()))
        });
        let mut fds = vec![PollFd::new(self.shared.asked.as_fd(), PollFlags::POLLIN)];
        let kernel = self.kernel.as_ref().map(AsFd::as_fd);
        fds.extend(kernel.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Ok(_) => fds.get(1).is_some_and(|fd| fd.any().unwrap_or(true)),
            // There is no memory, or an interruption: reading does no harm.
            Err(_) => self.kernel.is_some(),
        }
    }

    pub(super) fn watch(&mut self, wanted: Wanted) {
        let before = std::mem::replace(&mut self.places, places(wanted));
        for (path, place) in before {
            match self.places.get_mut(&path) {
                Some(kept) => (kept.known, kept.polled) = (place.known, place.polled),
                None => {
                    if let Some(kernel) = &mut self.kernel {
                        kernel.unset(&path);
                    }
                }
            }
        }
        let all = self.places.keys().cloned().collect();
        self.set(all);
        self.update_poller();
    }

    /// Sets watches anew, which says where they were lost. What is watched only now may have
    /// changed before.
    fn set(&mut self, paths: BTreeSet<PathBuf>) {
        let mut error = self.start_kernel().err();
        let mut changed = BTreeSet::new();
        let mut other_polled = false;
        for path in paths {
            let Some(place) = self.places.get_mut(&path) else {
                continue;
            };
            let told = match self.kernel.as_mut().map(|kernel| kernel.set(&path)) {
                Some(Ok(is_new)) => {
                    if is_new {
                        changed.insert(path.clone());
                    }
                    Ok(())
                }
                Some(Err(error)) => Err(error),
                None => Err(error.unwrap_or(Errno::ENOSYS)),
            };
            let absent = match told {
                Err(Errno::ENOENT | Errno::ENOTDIR) => true,
                Err(why) => {
                    error = Some(why);
                    // Without an inotify nobody has said whether it is there.
                    self.kernel.is_none() && !path.exists()
                }
                Ok(()) => false,
            };
            if absent && place.known && !place.polled {
                changed.insert(path.clone());
            }
            place.known |= !absent;
            let polled = match absent {
                // What was there may come back. What never was, nothing was loaded from.
                true => place.known,
                false => told.is_err() || (self.home_of)(&path) == Home::Elsewhere,
            };
            other_polled |= polled != place.polled;
            place.polled = polled;
        }
        if other_polled {
            self.update_poller();
        }
        self.say(error);
        self.note(&changed);
    }

    fn start_kernel(&mut self) -> Result<(), Errno> {
        if self.kernel.is_none() {
            self.kernel = Some(Kernel::start()?);
        }
        Ok(())
    }

    fn update_poller(&mut self) {
        let polled = self.places.iter().filter(|(_, place)| place.polled);
        let looked_at = polled.map(|(path, place)| {
            let paths = std::iter::once(path).chain(&place.files).cloned();
            (path.clone(), paths.collect())
        });
        self.poller.look_at(&looked_at.collect());
        let polls = !self.poller.is_idle();
        self.shared.polls.store(polls, Ordering::Relaxed);
    }

    /// Once, until there are watches again or another reason why not.
    fn say(&mut self, error: Option<Errno>) {
        if let Some(error) = error.filter(|error| self.said != Some(*error)) {
            let polled = self.places.values().filter(|place| place.polled).count();
            let hint = match error {
                Errno::ENOSPC => " (hint: raise `fs.inotify.max_user_watches`)",
                Errno::EMFILE => " (hint: raise `fs.inotify.max_user_instances`)",
                _ => "",
            };
            tracing::warn!("no watch for each directory, polling {polled}: {error}{hint}");
        }
        self.said = error;
    }

    fn note(&mut self, places: &BTreeSet<PathBuf>) {
        let now = Instant::now();
        if !places.is_empty() {
            self.poller.awake(now);
        }
        let places = places.iter().filter_map(|path| self.places.get(path));
        let concerned = places.flat_map(|place| place.concerns.iter().cloned());
        self.pending.add(concerned, now);
    }

    /// Nobody can say what changed.
    fn note_all(&mut self) {
        let all: BTreeSet<_> = self.places.keys().cloned().collect();
        self.note(&all);
        self.set(all);
    }

    pub(super) fn hear(&mut self) {
        let Some(kernel) = &mut self.kernel else {
            return;
        };
        match kernel.hear() {
            Ok(heard) if heard.too_much => {
                tracing::info!("too many changes to be told of: everything is checked");
                self.note_all();
            }
            Ok(heard) => {
                self.note(&heard.changed);
                let mut lost = BTreeSet::new();
                for moved in &heard.moved {
                    let from_there = self.places.range(moved.clone()..);
                    let below = from_there.take_while(|(path, _)| path.starts_with(moved));
                    lost.extend(below.map(|(path, _)| path.clone()));
                }
                if !lost.is_empty() {
                    self.set(lost);
                }
            }
            Err(error) => {
                tracing::warn!("the watches are lost: {error}");
                self.kernel = None;
                self.note_all();
            }
        }
    }

    fn look(&mut self) {
        let changed = self.poller.turn(look, Instant::now);
        if !changed.is_empty() {
            self.note(&changed);
            // It may have come back, or gone.
            self.set(changed);
        }
    }
}

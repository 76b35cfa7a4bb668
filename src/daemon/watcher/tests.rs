//! Real directories, and a thread that watches them.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;

use super::filesystem::{Home, home_of};
use super::kernel::Kernel;
use super::polling::{AWAKE, Poller, look};
use super::thread::{Pending, Thread};
use super::{Changes, Shared, Wanted, Watch, Watcher};
use crate::trace::Signature;

const MS: Duration = Duration::from_millis(1);

fn here(_: &Path) -> Home {
    Home::Here
}

fn elsewhere(_: &Path) -> Home {
    Home::Elsewhere
}

/// A watcher and a directory for it.
struct Bench {
    _dir: tempfile::TempDir,
    base: PathBuf,
    watcher: Watcher,
    changes: Changes,
}

impl Bench {
    fn new(home_of: fn(&Path) -> Home) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(dir.path()).unwrap();
        let (watcher, changes) = Watcher::start_where(home_of).unwrap();
        Self {
            _dir: dir,
            base,
            watcher,
            changes,
        }
    }

    fn directory(&self, name: &str) -> PathBuf {
        let path = self.base.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// Watches, and waits until it does: whatever is watched only now is said to have changed.
    fn watch(&mut self, directories: &[&PathBuf], files: &[&PathBuf]) {
        let all = |paths: &[&PathBuf]| paths.iter().map(|path| (*path).clone()).collect();
        let directories: BTreeSet<PathBuf> = all(directories);
        self.watcher.watch(Wanted {
            directories: directories.clone(),
            files: all(files),
        });
        let mut seen = BTreeSet::new();
        while !seen.is_superset(&directories) {
            seen.extend(self.next());
        }
        self.rest();
    }

    fn is_there(&self, patience: u16) -> bool {
        let mut fds = [PollFd::new(self.changes.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(patience)).unwrap() == 1
    }

    fn next(&self) -> BTreeSet<PathBuf> {
        assert!(self.is_there(10_000), "never said");
        self.changes.take()
    }

    /// Takes what still comes of what was done. Nothing tells of an end: a quarter of a second
    /// without a word is one, and if it is not, the test fails for want of a change, or says so.
    fn rest(&self) {
        while self.is_there(250) {
            self.changes.take();
        }
    }

    /// The change is noticed in this directory.
    fn notices(&self, directory: &Path, change: impl FnOnce()) {
        self.rest();
        change();
        while !self.next().contains(directory) {}
    }
}

/// Writes without a system call. The file stays open: that it is closed would be told.
struct Mapped {
    _file: fs::File,
    at: *mut u8,
}

impl Mapped {
    fn open(path: &Path) -> Self {
        let mut options = fs::File::options();
        let file = options.read(true).write(true).open(path).unwrap();
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, of a file that has at least one byte.
        let at = unsafe {
            let any = std::ptr::null_mut();
            libc::mmap(any, 1, access, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        assert_ne!(at, libc::MAP_FAILED);
        Self {
            _file: file,
            at: at.cast(),
        }
    }

    fn write(&self) {
        // SAFETY: it is mapped until the end of the process. The kernel notes the time of the
        // first write after it has written the page back.
        unsafe {
            self.at
                .write_volatile(self.at.read_volatile().wrapping_add(1));
            libc::msync(self.at.cast(), 1, libc::MS_SYNC);
        }
    }
}

// ------------------------------------------------------------------ when it is passed on

#[test]
fn one_change_is_passed_on_when_the_editor_is_done_with_it() {
    let now = Instant::now();
    let mut pending = Pending::default();
    assert_eq!(pending.due(), None);
    pending.add(["/a".into()], now);
    pending.add(["/a".into()], now + 5 * MS);
    assert_eq!(pending.due(), Some(now + 20 * MS));
    assert_eq!(pending.take(now + 20 * MS), ["/a".into()].into());
    assert_eq!(pending.due(), None);
}

/// Each change is known to the loop within 100 ms, and the loop hears of many seldom: but more
/// often than a build waits for quiet.
#[test]
fn many_changes_are_passed_on_seldom_and_in_time() {
    let start = Instant::now();
    let mut pending = Pending::default();
    let mut passed = Vec::new();
    let mut oldest = None;
    for millisecond in 0..10_000 {
        let now = start + millisecond * MS;
        pending.add(["/a".into()], now);
        oldest.get_or_insert(now);
        if pending.due().unwrap() <= now {
            pending.take(now);
            assert!(now - oldest.take().unwrap() <= 100 * MS);
            passed.push(now);
        }
    }
    assert!(passed.len() <= 170, "{}", passed.len());
    let gaps = passed.windows(2).map(|pair| pair[1] - pair[0]);
    assert!(gaps.max().unwrap() < super::super::builds::AFTER_CHANGE);
}

// ------------------------------------------------------------------ told by the kernel

#[test]
fn what_is_written_is_noticed_and_what_is_read_is_not() {
    let mut bench = Bench::new(here);
    let at = bench.directory("a");
    let file = at.join("m.py");
    fs::write(&file, "one").unwrap();
    bench.watch(&[&at], &[&file]);
    bench.notices(&at, || fs::write(&file, "two").unwrap());
    bench.notices(&at, || fs::write(at.join("new.py"), "").unwrap());
    bench.notices(&at, || fs::rename(at.join("new.py"), &file).unwrap());
    bench.notices(&at, || fs::remove_file(&file).unwrap());
    bench.notices(&at, || fs::create_dir(at.join("package")).unwrap());
    fs::write(&file, "three").unwrap();
    bench.rest();
    fs::read(&file).unwrap();
    fs::read_dir(&at).unwrap().for_each(drop);
    assert!(!bench.is_there(300), "nothing was written");
}

#[test]
fn a_directory_is_watched_by_all_its_names() {
    let mut bench = Bench::new(here);
    let at = bench.directory("lib");
    let link = bench.base.join("lib64");
    std::os::unix::fs::symlink(&at, &link).unwrap();
    bench.watch(&[&at, &link], &[]);
    bench.notices(&link, || fs::write(at.join("1"), "").unwrap());
    bench.notices(&at, || fs::write(link.join("2"), "").unwrap());
    bench.watcher.watch(Wanted {
        directories: [at.clone()].into(),
        ..Wanted::default()
    });
    bench.notices(&at, || fs::write(link.join("3"), "").unwrap());
}

#[test]
fn a_link_is_followed_to_the_file_that_was_read() {
    let mut bench = Bench::new(here);
    let (at, store) = (bench.directory("site-packages"), bench.directory("store"));
    let (link, file) = (at.join("m.py"), store.join("m-1.0.py"));
    fs::write(&file, "one").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    bench.watch(&[&at], &[&link]);
    bench.notices(&at, || fs::write(&link, "two").unwrap());
}

#[test]
fn directories_that_go_and_come_again_are_watched_again() {
    let mut bench = Bench::new(here);
    let outer = bench.directory("a");
    let inner = bench.directory("a/b/c");
    bench.watch(&[&outer, &inner], &[]);
    // As `git checkout` does, to a branch without it and back.
    for _ in 0..2 {
        bench.notices(&inner, || fs::remove_dir_all(&outer).unwrap());
        bench.notices(&inner, || fs::create_dir_all(&inner).unwrap());
        bench.notices(&inner, || fs::write(inner.join("new"), "").unwrap());
    }
    // The one in between is not watched.
    let between = outer.join("b");
    let aside = outer.join("aside");
    bench.notices(&inner, || fs::rename(&between, &aside).unwrap());
    bench.notices(&inner, || fs::create_dir_all(&inner).unwrap());
    bench.notices(&inner, || fs::write(inner.join("new"), "").unwrap());
    fs::write(aside.join("c/other"), "").unwrap();
    assert!(!bench.is_there(300), "that is somewhere else now");
    // Another one is put in its place.
    let other = bench.directory("a/other/c").parent().unwrap().to_owned();
    bench.notices(&inner, || {
        fs::rename(&between, outer.join("away")).unwrap();
        fs::rename(&other, &between).unwrap();
    });
    bench.notices(&inner, || fs::write(inner.join("newer"), "").unwrap());
}

#[test]
fn a_directory_that_never_was_there_is_noticed_where_its_parent_is_watched() {
    let mut bench = Bench::new(here);
    let outer = bench.directory("a");
    let inner = outer.join("later");
    bench.watcher.watch(Wanted {
        directories: [outer.clone(), inner.clone()].into(),
        ..Wanted::default()
    });
    while !bench.next().contains(&outer) {}
    bench.notices(&inner, || fs::create_dir(&inner).unwrap());
    bench.notices(&inner, || fs::write(inner.join("m.py"), "").unwrap());
}

/// A directory above, in which there is no watch, is renamed: nobody says so. It is found out
/// when the next checkpoint is ready, as watches are asked for then.
#[test]
fn what_was_moved_unseen_is_found_when_watches_are_asked_for_again() {
    let mut bench = Bench::new(here);
    let at = bench.directory("above/a");
    let above = bench.base.join("above");
    bench.watch(&[&at], &[]);
    fs::rename(&above, bench.base.join("aside")).unwrap();
    fs::create_dir_all(&at).unwrap();
    bench.notices(&at, || {
        bench.watcher.tell(super::Message::Watch(Wanted {
            directories: [at.clone()].into(),
            ..Wanted::default()
        }));
    });
    bench.notices(&at, || fs::write(at.join("new"), "").unwrap());
}

fn thread(home_of: fn(&Path) -> Home) -> Thread {
    let shared = Arc::new(Shared {
        changed: Mutex::default(),
        wake: EventFd::new().unwrap(),
        asked: EventFd::new().unwrap(),
        polls: AtomicBool::new(false),
    });
    Thread::new(shared, home_of)
}

/// The kernel keeps 16,384 events, and then says only that there were more. The thread is not
/// started here, so that it cannot read them in time.
#[test]
fn more_changes_than_the_kernel_keeps_mean_that_all_may_have_changed() {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    let bench = Bench::new(here);
    let (quiet, busy) = (bench.directory("quiet"), bench.directory("busy"));
    let mut thread = thread(here);
    thread.watch(Wanted {
        directories: [quiet.clone(), busy.clone()].into(),
        ..Wanted::default()
    });
    let mut concerned = thread.pending.take(Instant::now());
    assert_eq!(concerned.len(), 2, "watched only now");
    fs::write(busy.join("a"), "").unwrap();
    thread.hear();
    concerned = thread.pending.take(Instant::now());
    assert_eq!(concerned, [busy.clone()].into());
    // A renaming is two events.
    for _ in 0..limit / 4 + 1 {
        fs::rename(busy.join("a"), busy.join("b")).unwrap();
        fs::rename(busy.join("b"), busy.join("a")).unwrap();
    }
    // Of these nobody is told.
    fs::remove_dir(&quiet).unwrap();
    fs::create_dir(&quiet).unwrap();
    while !thread.pending.has(&quiet) {
        thread.hear();
    }
    thread.pending.take(Instant::now());
    fs::write(quiet.join("new"), "").unwrap();
    thread.hear();
    assert_eq!(thread.pending.take(Instant::now()), [quiet].into());
}

// ------------------------------------------------------------------ polled

#[test]
fn a_file_system_that_others_change_is_polled() {
    let mut bench = Bench::new(elsewhere);
    let at = bench.directory("a");
    let (file, other) = (at.join("m.py"), at.join("other.py"));
    fs::write(&file, "one").unwrap();
    fs::write(&other, "one").unwrap();
    bench.watch(&[&at], &[&file]);
    let (mapped, other) = (Mapped::open(&file), Mapped::open(&other));
    // Nobody is told of this: so it was seen by looking.
    bench.notices(&at, || mapped.write());
    bench.rest();
    // Nothing was loaded from there.
    other.write();
    assert!(!bench.is_there(300));
}

/// So does the one above prove something.
#[test]
fn what_is_written_through_a_mapping_is_not_told() {
    let mut bench = Bench::new(here);
    let at = bench.directory("a");
    let file = at.join("m.py");
    fs::write(&file, "one").unwrap();
    bench.watch(&[&at], &[&file]);
    let mapped = Mapped::open(&file);
    mapped.write();
    assert!(!bench.is_there(300));
}

/// Without inotify: its looks are all there is.
#[test]
fn looking_finds_every_kind_of_change() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_path_buf();
    let file = at.join("m.py");
    fs::write(&file, "one").unwrap();
    let mut poller = Poller::new(Instant::now());
    poller.look_at(&[(at.clone(), vec![at.clone(), file.clone()])].into());
    let mut seen = || poller.turn(look, Instant::now);
    assert_eq!(seen(), [at.clone()].into(), "it may have changed before");
    assert!(seen().is_empty());
    let old = at.join("old");
    fs::write(&old, "two").unwrap();
    let mapped = Mapped::open(&file);
    let start = Instant::now();
    let changes: [(&str, &dyn Fn()); 6] = [
        ("new", &|| fs::write(at.join("new.py"), "").unwrap()),
        ("rewritten", &|| fs::write(&file, "two").unwrap()),
        ("mapped", &|| mapped.write()),
        ("replaced by an older one", &|| {
            let then = std::time::UNIX_EPOCH;
            let opened = fs::File::options().write(true).open(&old).unwrap();
            opened.set_modified(then).unwrap();
            fs::rename(&old, &file).unwrap();
        }),
        ("gone", &|| fs::remove_file(&file).unwrap()),
        ("all gone", &|| fs::remove_dir_all(&at).unwrap()),
    ];
    for (what, change) in changes {
        seen();
        change();
        // A clock that ticks every 4 ms stamps files here: within one tick two writes of the same
        // length are one.
        while seen().is_empty() {
            assert!(start.elapsed() < Duration::from_secs(10), "{what}");
            match what {
                "rewritten" | "mapped" => change(),
                _ => {}
            }
        }
        assert!(seen().is_empty(), "{what}: once");
    }
}

#[test]
fn looking_is_a_tenth_of_the_time_and_nothing_when_nobody_is_there() {
    let start = Instant::now();
    let now = std::cell::Cell::new(start);
    let paths: Vec<_> = (0..100).map(|n| PathBuf::from(n.to_string())).collect();
    let mut poller = Poller::new(start);
    assert_eq!(poller.due(), None, "there is nothing to look at");
    poller.look_at(&[("/far".into(), paths)].into());
    let slow = |_: &Path| {
        now.set(now.get() + MS);
        None::<Signature>
    };
    let mut looked = Duration::ZERO;
    while let Some(due) = poller.due() {
        now.set(now.get().max(due));
        let before = now.get();
        poller.turn(slow, || now.get());
        assert!(now.get() - before <= 6 * MS, "others wait meanwhile");
        looked += now.get() - before;
    }
    let all = now.get() - start;
    assert!(all >= AWAKE - Duration::from_secs(1) && all <= AWAKE + Duration::from_secs(1));
    assert!(looked <= all / 10 + 5 * MS);
    assert!(looked >= all / 20, "and not less than it may");
    poller.awake(now.get());
    assert!(poller.due().is_some_and(|due| due <= now.get() + 100 * MS));
}

#[test]
fn one_look_that_had_to_wait_is_not_followed_by_a_long_rest() {
    let start = Instant::now();
    let now = std::cell::Cell::new(start);
    let mut poller = Poller::new(start);
    poller.look_at(&[("/far".into(), vec!["/far/m.py".into()])].into());
    for patience in [1, 1, 50, 1] {
        let slow = |_: &Path| {
            now.set(now.get() + patience * MS);
            None::<Signature>
        };
        now.set(now.get().max(poller.due().unwrap()));
        poller.turn(slow, || now.get());
        assert!(poller.due().unwrap() <= now.get() + 60 * MS);
    }
}

#[test]
fn file_systems_are_told_apart() {
    let tmpfs = Path::new("/dev/shm");
    if fs::read_to_string("/proc/mounts")
        .unwrap()
        .contains(" /dev/shm tmpfs ")
    {
        assert_eq!(home_of(tmpfs), Home::Here);
    }
    // Nobody is told of what changes in there, which is what matters.
    assert_eq!(home_of(Path::new("/proc")), Home::Elsewhere);
    assert_eq!(home_of(Path::new("/no/such/directory")), Home::Elsewhere);
}

#[test]
fn asking_again_for_a_watch_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut kernel = Kernel::start().unwrap();
    assert_eq!(kernel.set(dir.path()), Ok(true));
    assert_eq!(kernel.set(dir.path()), Ok(false));
    let nothing = kernel.set(&dir.path().join("nothing"));
    assert_eq!(nothing, Err(nix::errno::Errno::ENOENT));
}

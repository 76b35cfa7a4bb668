//! Makes a fresh child the process that the caller would have started: what the kernel keeps of
//! a process, but for its descriptors' content. (Python's own state: `worker.py`.)

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use pyseidon::protocol::Run;

unsafe extern "C" {
    static mut environ: *mut *mut libc::c_char;
}

/// Puts the caller's descriptors at the caller's numbers and closes all others.
///
/// `fds` are in the order of `numbers`. Afterwards this process has exactly those open, and those
/// of `ours`, which come back at numbers above them.
pub(crate) fn place_descriptors(
    fds: Vec<OwnedFd>,
    numbers: &[RawFd],
    ours: Vec<OwnedFd>,
) -> io::Result<Vec<OwnedFd>> {
    let top = numbers.iter().copied().max().unwrap_or(-1) + 1;
    raise_descriptor_limit();
    let mut high = Vec::with_capacity(fds.len());
    for fd in &fds {
        // Above every target, so that no dup2 hits a descriptor that is still to be moved.
        // SAFETY: plain fcntl on a descriptor that we own.
        let moved = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD, top.max(3)) };
        if moved < 0 {
            return Err(io::Error::last_os_error());
        }
        high.push(moved);
    }
    let mut kept = Vec::with_capacity(ours.len());
    for fd in &ours {
        // SAFETY: as above; the new descriptor is ours.
        unsafe {
            match libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, top.max(3)) {
                -1 => return Err(io::Error::last_os_error()),
                moved => kept.push(OwnedFd::from_raw_fd(moved)),
            }
        }
    }
    for fd in fds.into_iter().chain(ours) {
        // They are closed below, with all the rest.
        std::mem::forget(fd);
    }
    for (from, to) in high.iter().zip(numbers) {
        // SAFETY: dup2 of a descriptor that is open.
        if unsafe { libc::dup2(*from, *to) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let mut keep: Vec<RawFd> = numbers.to_vec();
    keep.extend(kept.iter().map(AsRawFd::as_raw_fd));
    close_all_but(&keep);
    Ok(kept)
}

/// Closes every descriptor of this process that is not among `kept`.
pub(crate) fn close_all_but(kept: &[RawFd]) {
    let mut kept = kept.to_vec();
    kept.sort_unstable();
    let mut next = 0;
    for number in kept {
        if number > next {
            close_range(next, number - 1);
        }
        next = number + 1;
    }
    close_range(next, RawFd::MAX);
}

/// The zygote's soft limit may be lower than the caller's numbers are high; the caller's own is
/// set later, by [`take_over`].
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn close_range(first: RawFd, last: RawFd) {
    // SAFETY: closes descriptors only; whoever owned them is of another process's life.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if done == 0 {
        return;
    }
    // Before Linux 5.9.
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        let open: Vec<RawFd> = entries
            .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        for fd in open.into_iter().filter(|fd| (first..=last).contains(fd)) {
            // SAFETY: as above.
            unsafe { libc::close(fd) };
        }
    }
}

/// Group, session and name of the process.
pub(crate) fn lead_group(run: &Run) {
    let name = run.script.rsplit(|b| *b == b'/').next().unwrap_or_default();
    let name = CString::new(&name[..name.len().min(15)]).unwrap_or_default();
    // SAFETY: plain system calls on this process.
    unsafe {
        if run.session_leader {
            libc::setsid();
        } else {
            libc::setpgid(0, 0);
        }
        // What the kernel names a process that it started from a script.
        libc::prctl(libc::PR_SET_NAME, name.as_ptr());
        libc::prctl(libc::PR_SET_PDEATHSIG, 0);
    }
}

/// The caller's working directory, by descriptor: it may have been renamed or removed.
pub(crate) fn take_over_directory(cwd: &OwnedFd) -> io::Result<()> {
    // SAFETY: a plain system call on a descriptor that we own.
    match unsafe { libc::fchdir(cwd.as_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Umask, CPUs, soft limits.
pub(crate) fn take_over(run: &Run) {
    // SAFETY: plain system calls with valid pointers to live buffers.
    unsafe {
        libc::umask(run.umask as libc::mode_t);
        if !run.affinity.is_empty() {
            libc::sched_setaffinity(0, run.affinity.len(), run.affinity.as_ptr().cast());
        }
        for (resource, soft, hard) in &run.rlimits {
            let limit = libc::rlimit {
                rlim_cur: *soft,
                rlim_max: *hard,
            };
            libc::setrlimit(*resource as _, &limit);
        }
    }
}

/// The mask that the caller has.
pub(crate) fn block_signals(blocked: u64) {
    // SAFETY: a local set, filled by libc's own functions.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in 1..=64 {
            if blocked & (1 << (signal - 1)) != 0 {
                libc::sigaddset(&mut set, signal);
            }
        }
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
    }
}

/// The environment of C code, entry for entry in the caller's order. `os.environ` is set apart.
pub(crate) fn set_environ(env: &[Vec<u8>]) {
    let mut pointers: Vec<*mut libc::c_char> = env
        .iter()
        .filter_map(|entry| Some(CString::new(entry.as_slice()).ok()?.into_raw()))
        .collect();
    pointers.push(std::ptr::null_mut());
    // SAFETY: single-threaded; `environ` may point to any null-terminated array that lives for
    // ever, and these strings are leaked for that.
    unsafe { environ = Box::leak(pointers.into_boxed_slice()).as_mut_ptr() };
}

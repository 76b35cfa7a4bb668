//! All that this process was given and pytest would have been given in its place.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl, open};
use nix::sys::stat::Mode;

use crate::error::{Context, Error, Result};
use crate::project::{Attributes, Environment};
use crate::protocol::{FDS_LIMIT, Run};

/// The working directory goes along, and the daemon adds the client's connection.
const CALLER_FDS_LIMIT: usize = FDS_LIMIT - 2;

/// CPU masks come in whole words; 1,024 bytes are the 8,192 CPUs that Linux can have at most.
const AFFINITY_BYTES: usize = 1024;

pub(super) struct Inherited {
    fds: Vec<RawFd>,
    cwd: OwnedFd,
    /// Occupy closed ones of 0, 1, 2, so that nothing of ours is opened there and a message to
    /// stderr cannot end up in a socket. Writing to them fails like writing to a closed one.
    _standing_in: Vec<OwnedFd>,
    umask: u32,
    rlimits: Vec<(u32, u64, u64)>,
    affinity: Vec<u8>,
    ignored: u64,
    blocked: u64,
    session_leader: bool,
}

impl Inherited {
    /// To be called before this process opens, blocks or changes anything that stays.
    pub(super) fn capture(attributes: &Attributes) -> Result<Self> {
        let fds = inherited_fds()?;
        if fds.len() > CALLER_FDS_LIMIT {
            return Err(Error::TooManyDescriptors {
                count: fds.len(),
                limit: CALLER_FDS_LIMIT,
            });
        }
        let here = || {
            open(
                ".",
                OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
                Mode::empty(),
            )
            .doing(|| "opening the working directory".into())
        };
        let mut standing_in = Vec::new();
        let mut cwd = here()?;
        while cwd.as_raw_fd() <= 2 {
            standing_in.push(std::mem::replace(&mut cwd, here()?));
        }
        Ok(Self {
            fds,
            cwd,
            _standing_in: standing_in,
            umask: attributes.umask(),
            rlimits: attributes.rlimits.clone(),
            affinity: affinity(),
            ignored: attributes.signals("SigIgn"),
            blocked: attributes.signals("SigBlk"),
            // SAFETY: both only ask for numbers.
            session_leader: unsafe { libc::getsid(0) == libc::getpid() },
        })
    }

    pub(super) fn ignored(&self) -> u64 {
        self.ignored
    }

    /// The run as it is sent; its descriptors are [`Self::descriptors`]. Without an environment it
    /// is one of the general server's.
    pub(super) fn run(
        &self,
        environment: Option<&Environment>,
        argv: &[Vec<u8>],
        cwd: &Path,
    ) -> Run {
        let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
        Run {
            script: environment.map_or_else(Vec::new, |e| bytes(&e.script)),
            python: environment.map_or_else(Vec::new, |e| bytes(&e.python)),
            python_options: environment.map_or_else(Vec::new, |e| {
                e.python_options
                    .iter()
                    .map(|option| option.as_bytes().to_vec())
                    .collect()
            }),
            argv: argv.to_vec(),
            env: environ(),
            cwd: bytes(cwd),
            fds: self.fds.clone(),
            umask: self.umask,
            rlimits: self.rlimits.clone(),
            affinity: self.affinity.clone(),
            ignored: self.ignored,
            blocked: self.blocked,
            session_leader: self.session_leader,
        }
    }

    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let callers = self.fds.iter().map(|fd| {
            // SAFETY: they were open at the start, and nothing here closes what it did not open.
            unsafe { BorrowedFd::borrow_raw(*fd) }
        });
        std::iter::once(self.cwd.as_fd()).chain(callers).collect()
    }
}

/// The descriptors that an `execve` would pass on, in ascending order.
fn inherited_fds() -> Result<Vec<RawFd>> {
    let listing = std::fs::read_dir("/proc/self/fd").doing(|| "reading `/proc/self/fd`".into())?;
    let mut fds: Vec<RawFd> = listing
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|fd| {
            // SAFETY: a number from the listing; if it is closed by now, fcntl says so.
            let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
            // The listing's own descriptor is closed on exec too.
            fcntl(fd, FcntlArg::F_GETFD).is_ok_and(|flags| flags & FdFlag::FD_CLOEXEC.bits() == 0)
        })
        .collect();
    fds.sort_unstable();
    Ok(fds)
}

/// The environment as it is, duplicates and malformed entries too: Python sees the same.
fn environ() -> Vec<Vec<u8>> {
    unsafe extern "C" {
        static environ: *const *const libc::c_char;
    }
    let mut entries = Vec::new();
    // SAFETY: `environ` is null or a null-terminated array of C strings, and this process, which
    // has a single thread, does not change it.
    unsafe {
        let mut at = environ;
        while !at.is_null() && !(*at).is_null() {
            entries.push(CStr::from_ptr(*at).to_bytes().to_vec());
            at = at.add(1);
        }
    }
    entries
}

fn affinity() -> Vec<u8> {
    let mut mask = vec![0u8; AFFINITY_BYTES];
    // SAFETY: the kernel writes at most as many bytes as the buffer has. libc's own function does
    // not tell how many they were.
    let count = unsafe {
        libc::syscall(
            libc::SYS_sched_getaffinity,
            0,
            mask.len(),
            mask.as_mut_ptr(),
        )
    };
    mask.truncate(usize::try_from(count).unwrap_or(0));
    mask
}

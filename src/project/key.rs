//! Which processes may share a daemon: those between which nothing differs that a child of the
//! daemon could not take on by itself.
//!
//! The client starts the daemon, so the daemon has these attributes from the first client, and
//! every client whose key is equal has them too.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Environment;
use crate::error::{Context, Result};
use crate::protocol::VERSION;

/// `RLIMIT_CPU` to `RLIMIT_RTTIME`: all that Linux has.
const RESOURCES: u32 = 16;

/// The lines of `/proc/self/status` that no process can change for the better.
const FIXED: [&str; 11] = [
    "Uid",
    "Gid",
    "Groups",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
];

const NAMESPACES: [&str; 8] = ["mnt", "net", "user", "pid", "ipc", "uts", "cgroup", "time"];

/// What this process is and inherited, read once.
#[derive(Debug)]
pub struct Attributes {
    status: String,
    /// `(resource, soft, hard)`.
    pub rlimits: Vec<(u32, u64, u64)>,
    digest: [u8; 32],
}

impl Attributes {
    pub fn read() -> Result<Self> {
        let status = read("/proc/self/status").doing(|| "reading `/proc/self/status`".into())?;
        let status = String::from_utf8_lossy(&status).into_owned();
        let rlimits = rlimits();
        let mut hasher = blake3::Hasher::new();
        let mut add = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        for name in FIXED {
            add(field(&status, name).unwrap_or_default().as_bytes());
        }
        for &(resource, soft, hard) in &rlimits {
            add(&hard.to_le_bytes());
            // The kernel lays out a program's address space by the stack limit at `execve`.
            if resource == libc::RLIMIT_STACK {
                add(&soft.to_le_bytes());
            }
        }
        for name in NAMESPACES {
            let link = fs::read_link(format!("/proc/self/ns/{name}")).unwrap_or_default();
            add(link.as_os_str().as_bytes());
        }
        for path in [
            "/proc/self/cgroup",
            "/proc/self/oom_score_adj",
            "/proc/self/attr/current",
        ] {
            add(&read(path).unwrap_or_default());
        }
        let top = fs::metadata("/")
            .map(|m| (m.dev(), m.ino()))
            .unwrap_or_default();
        add(format!("{top:?}{:?}", scheduling()).as_bytes());
        let digest = *hasher.finalize().as_bytes();
        Ok(Self {
            status,
            rlimits,
            digest,
        })
    }

    /// A signal set of `/proc/self/status`: bit `n - 1` stands for signal `n`.
    pub fn signals(&self, name: &str) -> u64 {
        field(&self.status, name)
            .and_then(|mask| u64::from_str_radix(mask, 16).ok())
            .unwrap_or(0)
    }

    /// The file mode creation mask, read without touching it.
    pub fn umask(&self) -> u32 {
        field(&self.status, "Umask")
            .and_then(|mask| u32::from_str_radix(mask, 8).ok())
            .unwrap_or(0o022)
    }
}

/// Reads a small file of `/proc` at one go; they have no size, so `fs::read` would take many.
fn read(path: &str) -> io::Result<Vec<u8>> {
    let mut content = Vec::with_capacity(4096);
    File::open(path)?.read_to_end(&mut content)?;
    Ok(content)
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.strip_prefix(':')?;
        Some(value.trim())
    })
}

fn rlimits() -> Vec<(u32, u64, u64)> {
    (0..RESOURCES)
        .filter_map(|resource| {
            let mut limit = libc::rlimit64 {
                rlim_cur: 0,
                rlim_max: 0,
            };
            // SAFETY: prlimit64 writes one limit through a valid pointer and sets nothing.
            let done = unsafe { libc::prlimit64(0, resource as _, std::ptr::null(), &mut limit) };
            (done == 0).then_some((resource, limit.rlim_cur, limit.rlim_max))
        })
        .collect()
}

/// Nice value, scheduler and its priority, I/O priority, personality, timer slack.
fn scheduling() -> [i64; 6] {
    // 0xffffffff asks for the personality and sets nothing (`personality(2)`).
    const ASK: libc::c_ulong = 0xffff_ffff;
    // `IOPRIO_WHO_PROCESS` of `ioprio_get(2)`, which libc does not name.
    const WHO_PROCESS: libc::c_int = 1;
    // SAFETY: all of these only read attributes of this process.
    unsafe {
        let mut param: libc::sched_param = std::mem::zeroed();
        libc::sched_getparam(0, &mut param);
        [
            i64::from(libc::getpriority(libc::PRIO_PROCESS, 0)),
            i64::from(libc::sched_getscheduler(0)),
            i64::from(param.sched_priority),
            libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, 0),
            i64::from(libc::personality(ASK)),
            i64::from(libc::prctl(libc::PR_GET_TIMERSLACK, 0, 0, 0, 0)),
        ]
    }
}

/// The name of the daemon that may serve this process: 32 hex digits.
///
/// `binaries` is where Pyseidon's own programs are: another installation, or one with other
/// messages, has its own daemon.
pub fn key(
    environment: &Environment,
    cwd: &Path,
    binaries: &Path,
    attributes: &Attributes,
) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut add = |bytes: &OsStr| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes.as_bytes());
    };
    add(environment.root.as_os_str());
    // `venv/bin/pytest` and `./venv/bin/../bin/pytest` are one environment.
    let script = cwd.join(&environment.script);
    let place: Option<PathBuf> = script.parent().and_then(|dir| dir.canonicalize().ok());
    add(place.as_deref().unwrap_or(&script).as_os_str());
    add(environment.python.as_os_str());
    for option in &environment.python_options {
        add(option);
    }
    add(binaries.as_os_str());
    hasher.update(&VERSION.to_le_bytes());
    hasher.update(&attributes.digest);
    hasher.finalize().to_hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        Environment {
            root: "/p".into(),
            script: "/usr/bin/pytest".into(),
            python: "/usr/bin/python3".into(),
            python_options: vec![],
        }
    }

    fn key_of(environment: &Environment) -> String {
        let attributes = Attributes::read().unwrap();
        key(environment, Path::new("/"), Path::new("/b"), &attributes)
    }

    #[test]
    fn the_key_is_stable_and_short() {
        let key = key_of(&environment());
        assert_eq!(key, key_of(&environment()));
        assert_eq!(key.len(), 32);
    }

    #[test]
    fn everything_that_names_an_environment_changes_the_key() {
        let base = key_of(&environment());
        for change in [
            |e: &mut Environment| e.root = "/q".into(),
            |e: &mut Environment| e.script = "/bin/../etc/pytest".into(),
            |e: &mut Environment| e.python = "/usr/bin/python3.9".into(),
            |e: &mut Environment| e.python_options = vec!["-I".into()],
        ] {
            let mut other = environment();
            change(&mut other);
            assert_ne!(key_of(&other), base, "{other:?}");
        }
    }

    #[test]
    fn the_spelling_of_the_script_does_not_change_the_key() {
        let mut other = environment();
        other.script = "usr/./bin/pytest".into();
        assert_eq!(key_of(&other), key_of(&environment()));
    }

    #[test]
    fn status_fields_are_read() {
        let attributes = Attributes::read().unwrap();
        assert_eq!(attributes.rlimits.len(), RESOURCES as usize);
        assert!(attributes.umask() <= 0o777);
        assert_eq!(field("SigIgn:\t000f\nSigCgt:\t1", "SigIgn"), Some("000f"));
        assert_eq!(field("Seccomp_filters:\t0", "Seccomp"), None);
    }
}

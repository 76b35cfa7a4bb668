//! Starting a Z0: the only place where the daemon becomes another program.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::OFlag;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;

use crate::error::{Context, Error, Result};
use crate::protocol::Run;
use crate::trace::path_of;

/// How a root gets its first process. Tests put a thread in its place.
pub(super) trait Spawn {
    /// Starts what will park as a Z0 for runs like this one and speaks over `control`. Gives the
    /// process group it runs in.
    fn z0(&mut self, run: &Run, control: OwnedFd, output: &File) -> Result<Option<i32>>;
}

/// Starts the user's python.
#[derive(Debug)]
pub(super) struct Python {
    pub(super) boot: PathBuf,
    /// The caller's soft limit of open files; the daemon has raised its own.
    pub(super) open_files: u64,
}

impl Spawn for Python {
    fn z0(&mut self, run: &Run, control: OwnedFd, output: &File) -> Result<Option<i32>> {
        let cwd = open_dir(&run.cwd)?;
        let number = control.as_raw_fd();
        let mut argv = vec![run.python.clone()];
        argv.extend(run.python_options.iter().cloned());
        argv.push(path_bytes(&self.boot));
        argv.push(number.to_string().into_bytes());
        argv.push(run.script.clone());
        let program = text(run.python.clone())?;
        let argv = Texts::new(argv)?;
        let env = Texts::new(run.env.clone())?;
        let open_files = self.open_files;

        let mut command = Command::new(path_of(&run.python));
        let duplicate = || output.try_clone().doing(|| "copying a descriptor".into());
        command
            .stdin(Stdio::null())
            .stdout(duplicate()?)
            .stderr(duplicate()?);
        // SAFETY: between fork and exec the closure makes only system calls that are safe there,
        // on memory that was allocated before. It executes the program by itself because
        // `Command` would sort the environment and drop entries without a name.
        unsafe {
            command.pre_exec(move || {
                prepare(cwd.as_raw_fd(), number, open_files)?;
                libc::execve(program.as_ptr(), argv.pointers(), env.pointers());
                Err(io::Error::last_os_error())
            });
        }
        let child = command
            .spawn()
            .doing(|| format!("starting `{}`", String::from_utf8_lossy(&run.python)))?;
        // The loop reaps it: waiting through `Child` would race with that.
        Ok(Some(child.id() as i32))
    }
}

/// Puts the new process into the state in which a shell would have started it.
fn prepare(cwd: RawFd, control: RawFd, open_files: u64) -> io::Result<()> {
    let check = |result: i32| match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    };
    // SAFETY: plain system calls on this process, which has one thread.
    unsafe {
        check(libc::setpgid(0, 0))?;
        check(libc::fchdir(cwd))?;
        libc::umask(0o022);
        for signal in 1..=libc::SIGRTMAX() {
            // Refused for KILL, STOP and those of the C library.
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        check(libc::sigprocmask(
            libc::SIG_SETMASK,
            &none,
            std::ptr::null_mut(),
        ))?;
        let mut limit: libc::rlimit = std::mem::zeroed();
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit))?;
        limit.rlim_cur = open_files.min(limit.rlim_max);
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &limit))?;
        check(libc::fcntl(control, libc::F_SETFD, 0))
    }
}

/// Raises the soft limits of the daemon and what it starts to what the hard limits allow: a
/// caller's soft limit on processor time or file size is meant for its run, which gets it back in
/// the worker. Gives the former limit of open files. The stack limit stays: it is in the key.
pub(super) fn raise_limits() -> u64 {
    let open_files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    for resource in [
        Resource::RLIMIT_NOFILE,
        Resource::RLIMIT_CPU,
        Resource::RLIMIT_FSIZE,
        Resource::RLIMIT_AS,
        Resource::RLIMIT_DATA,
    ] {
        if let Ok((_, hard)) = getrlimit(resource) {
            let _ = setrlimit(resource, hard, hard);
        }
    }
    open_files
}

/// A file in memory to which a zygote writes what it prints.
pub(super) fn output_file() -> Result<File> {
    memfd_create(c"pyseidon-output", MFdFlags::MFD_CLOEXEC)
        .map(File::from)
        .doing(|| "making a file for a zygote's output".into())
}

/// Opens a directory so that another process can go there.
pub(super) fn open_dir(path: &[u8]) -> Result<OwnedFd> {
    let path = path_of(path);
    nix::fcntl::open(
        &path,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .doing(|| format!("opening `{}`", path.display()))
}

fn path_bytes(path: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str().as_bytes().to_vec()
}

fn text(bytes: Vec<u8>) -> Result<CString> {
    CString::new(bytes).map_err(|_| Error::Other("a NUL byte in a command line".into()))
}

/// What `execve` wants: pointers to texts, ending with a null pointer.
struct Texts {
    /// Keeps alive what the pointers point to.
    _texts: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl Texts {
    fn new(texts: Vec<Vec<u8>>) -> Result<Self> {
        let texts = texts.into_iter().map(text).collect::<Result<Vec<_>>>()?;
        let mut pointers: Vec<_> = texts.iter().map(|t| t.as_ptr()).collect();
        pointers.push(std::ptr::null());
        Ok(Self {
            _texts: texts,
            pointers,
        })
    }

    fn pointers(&self) -> *const *const libc::c_char {
        self.pointers.as_ptr()
    }
}

// SAFETY: the pointers point into heap memory that the same value owns and never changes.
unsafe impl Send for Texts {}
// SAFETY: as above; there is nothing to change through a shared reference.
unsafe impl Sync for Texts {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::tests::fakes::run;
    use std::os::unix::fs::FileExt;

    #[test]
    fn the_program_gets_its_arguments_environment_directory_and_channel() {
        let script = "echo $2 $HOME $(pwd) $(umask); [ -e /proc/self/fd/$1 ] && echo open; exit 3";
        let dir = tempfile::tempdir().unwrap();
        let boot = dir.path().join("boot.sh");
        std::fs::write(&boot, script).unwrap();
        let mut python = Python {
            boot,
            open_files: 64,
        };
        let mut run = run();
        run.python = b"/bin/sh".to_vec();
        let output = output_file().unwrap();
        let (ours, _theirs) = crate::transport::Connection::pair().unwrap();
        let control = OwnedFd::from(ours.into_stream());
        let pid = python.z0(&run, control, &output).unwrap().unwrap();
        nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).unwrap();
        let mut bytes = vec![0; 200];
        let count = output.read_at(&mut bytes, 0).unwrap();
        let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
        assert_eq!(text, "/env/bin/pytest /home/me / 0022\nopen\n");
    }

    #[test]
    fn an_interpreter_that_is_not_there_is_an_error() {
        let mut python = Python {
            boot: "/nowhere".into(),
            open_files: 64,
        };
        let (ours, _theirs) = crate::transport::Connection::pair().unwrap();
        let control = OwnedFd::from(ours.into_stream());
        let error = python
            .z0(&run(), control, &output_file().unwrap())
            .unwrap_err();
        assert!(error.to_string().contains("/env/bin/python"), "{error}");
    }
}

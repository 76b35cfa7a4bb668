//! Reaching a daemon, and starting one where there is none: for the client, and for people.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;

use crate::error::{Context, Error, Result};
use crate::project::Environment;
use crate::protocol::{Hello, Readiness, VERSION};
use crate::transport::{Connection, Filled, Frame};

/// How long a daemon may take to accept and greet. It does so from its event loop in well under a
/// millisecond; on a machine that swaps or has fifty jobs per core, hundreds have been seen.
/// Whoever is silent for longer is stopped or hung, and waiting would not be better than plain
/// pytest.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a new daemon may take until it listens. It execs, takes a lock and binds: a few
/// milliseconds; the rest is room for cold disks.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to a socket and hears out the greeting. `None` if nobody listens there.
pub fn dial(path: &Path) -> Result<Option<Connection>> {
    let Some(mut connection) = connect(path)? else {
        return Ok(None);
    };
    match greeting(&mut connection)? {
        Some(hello) if hello.version == VERSION => Ok(Some(connection)),
        Some(hello) => Err(Error::Other(format!(
            "the daemon speaks version {} of the protocol, not {VERSION}",
            hello.version
        ))),
        // It has just closed its socket: the next try finds nobody.
        None => Ok(None),
    }
}

/// What a daemon says first; `None` if it hangs up instead.
pub fn greeting(connection: &mut Connection) -> Result<Option<Hello>> {
    receive_within(connection, HELLO_TIMEOUT, "greet")?
        .map(|frame| frame.decode())
        .transpose()
}

/// Connects to a socket, if its server is this user's. `None` if nobody listens there.
pub fn connect(path: &Path) -> Result<Option<Connection>> {
    let shown = path.display();
    let address = UnixAddr::new(path).doing(|| format!("cannot use the socket `{shown}`"))?;
    let socket = loop {
        let socket = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .doing(|| "making a socket".into())?;
        // A daemon that accepts nothing has a full queue one day; then connecting waits.
        let patience = TimeVal::new(HELLO_TIMEOUT.as_secs() as _, 0);
        setsockopt(&socket, sockopt::SendTimeout, &patience)
            .doing(|| "setting a socket's timeout".into())?;
        match nix::sys::socket::connect(socket.as_raw_fd(), &address) {
            Ok(()) => break socket,
            Err(nix::Error::EINTR) => {}
            Err(nix::Error::ENOENT | nix::Error::ECONNREFUSED) => return Ok(None),
            Err(nix::Error::EAGAIN) => return Err(silent("accept a connection", HELLO_TIMEOUT)),
            Err(error) => {
                return Err(error).doing(|| format!("cannot connect to `{shown}`"));
            }
        }
    };
    let connection = Connection::new(UnixStream::from(socket));
    let owner = connection.peer()?.uid();
    if owner != nix::unistd::geteuid().as_raw() {
        return Err(Error::Unsafe {
            path: path.into(),
            why: format!("its server runs as user `{owner}`"),
            hint: "have that server stopped, and remove the socket".into(),
        });
    }
    Ok(Some(connection))
}

/// The next frame, or `None` at the end of the conversation.
pub fn receive_within(
    connection: &mut Connection,
    limit: Duration,
    what: &str,
) -> Result<Option<Frame>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(frame) = connection.next_frame()? {
            return Ok(Some(frame));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(connection.as_fd(), PollFlags::POLLIN)];
        // Rounded up: a poll of 0 ms would spin through the last millisecond.
        let wait = PollTimeout::try_from(left.as_millis() as i32 + 1).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, wait) {
            Ok(0) if Instant::now() >= deadline => return Err(silent(what, limit)),
            Ok(0) | Err(nix::Error::EINTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error).doing(|| "waiting for the daemon".into()),
        }
        if connection.fill()? == Filled::Eof {
            return Ok(None);
        }
    }
}

fn silent(what: &str, limit: Duration) -> Error {
    Error::Other(format!(
        "the daemon did not {what} within {} s",
        limit.as_secs()
    ))
}

/// The daemon that this run asks for, running or not.
pub struct Daemon<'a> {
    pub environment: &'a Environment,
    pub key: &'a str,
    pub socket: &'a Path,
    /// The script's path, absolute.
    pub script: PathBuf,
    pub program: PathBuf,
}

impl Daemon<'_> {
    /// Starts a daemon and connects to it, or to the one that was faster.
    pub fn start(&self) -> Result<Connection> {
        // A loser may be told of a winner that leaves at that moment: so a second time.
        for _ in 0..2 {
            if let Readiness::Failed(why) = self.spawn()? {
                return Err(Error::Other(format!("the daemon could not start: {why}")));
            }
            if let Some(connection) = dial(self.socket)? {
                return Ok(connection);
            }
        }
        Err(Error::Other("a new daemon went away at once".into()))
    }

    /// Returns when some daemon listens, or none will.
    pub fn spawn(&self) -> Result<Readiness> {
        let (ours, theirs) = Connection::pair()?;
        let ready_fd = theirs.as_fd().as_raw_fd().to_string();
        let mut command = Command::new(&self.program);
        command
            .arg("run")
            .args(["--ready-fd", &ready_fd])
            .args([OsStr::new("--root"), self.environment.root.as_os_str()])
            .args([OsStr::new("--script"), self.script.as_os_str()])
            .args([OsStr::new("--python"), self.environment.python.as_os_str()]);
        for option in &self.environment.python_options {
            // One word, because the option begins with a dash.
            let mut word = OsString::from("--python-option=");
            word.push(option);
            command.arg(word);
        }
        command
            .args(["--key", self.key])
            // Not to keep the user's directory busy.
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let ready = theirs.into_stream().into();
        // SAFETY: the closure makes system calls only, on descriptors it owns, in a child of a
        // process that has a single thread.
        unsafe { command.pre_exec(move || detach(&ready)) };
        let mut between = command
            .spawn()
            .doing(|| format!("cannot start `{}`", self.program.display()))?;
        // Drops our copy of the daemon's end, so that its death is seen as the end of file.
        drop(command);
        // With SIGCHLD ignored there is nothing left to wait for.
        let _ = between.wait();
        let mut ours = ours;
        match receive_within(&mut ours, START_TIMEOUT, "start")? {
            Some(frame) => frame.decode(),
            None => Err(Error::Other("the daemon died while it started".into())),
        }
    }
}

/// In the child, before it becomes the daemon: leaves the caller's session and family. The rest of
/// what it inherited it puts off by itself.
///
/// The daemon must not be a child of this process, which may become plain pytest: a test that
/// waits for any child would meet it.
fn detach(ready: &OwnedFd) -> io::Result<()> {
    // SAFETY: plain system calls with valid arguments. `fork`: the closure's contract.
    unsafe {
        libc::setsid();
        match libc::fork() {
            -1 => return Err(io::Error::last_os_error()),
            0 => {}
            _ => libc::_exit(0),
        }
        if libc::fcntl(ready.as_raw_fd(), libc::F_SETFD, 0) == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

//! What `pyseidon-daemon` does for people: finding daemons and speaking to them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::door::{Note, notes, sweep};
use super::learned::project_of;
use super::status::Document;
use crate::error::{Context, Error, Result};
use crate::process::terminate;
use crate::project::{self, Attributes, Caller, Environment, find_script, key, runtime_dir};
use crate::protocol::{Hello, Readiness, Reply, Request, VERSION};
use crate::transport::{Connection, Filled};

/// `status`: nothing is running. As `systemctl status` has it.
pub const NOT_RUNNING: i32 = 3;

/// A daemon answers from its loop in milliseconds; reading the memory of ten processes with a
/// gigabyte each takes tens of them.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

const PYTEST_HINT: &str =
    "install pytest there, or name the environment's Python in `PYSEIDON_PYTHON`";

/// How often a followed log is looked at.
const FOLLOW_PAUSE: Duration = Duration::from_millis(200);

/// Which daemons a command is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Those of the project that the working directory belongs to.
    Project,
    /// All of this user.
    All,
}

/// A daemon that listens.
struct Found {
    note: Note,
    connection: Connection,
    /// From the kernel.
    pid: i32,
    /// What it said on being called.
    greeting: Result<Hello>,
}

impl Found {
    fn ask(&mut self, request: &Request) -> Result<Reply> {
        self.connection.send(request, &[])?;
        answer(&mut self.connection)
    }

    fn name(&self) -> String {
        format!(
            "the daemon of `{}` (pid {})",
            self.note.root.display(),
            self.pid
        )
    }

    /// It speaks as we do.
    fn is_ours(&self) -> bool {
        self.greeting
            .as_ref()
            .is_ok_and(|hello| hello.version == VERSION)
    }
}

fn env(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name)
}

fn here() -> Result<PathBuf> {
    std::env::current_dir().doing(|| "looking up the working directory".into())
}

/// The daemons that run; what is left of dead ones is removed on the way.
fn find(whose: Whose) -> Result<Vec<Found>> {
    let root = project::root(&here()?);
    let runtime = runtime_dir(&env)?;
    let mut found = Vec::new();
    for (socket, note) in notes(&runtime) {
        if whose == Whose::Project && note.root != root {
            continue;
        }
        let Some(connection) = dial(&socket)? else {
            sweep(&socket);
            continue;
        };
        let peer = connection.peer()?;
        if peer.uid() != nix::unistd::geteuid().as_raw() {
            return Err(Error::Unsafe {
                path: socket,
                why: format!("its server runs as user `{}`", peer.uid()),
            });
        }
        let mut connection = connection;
        let greeting = answer(&mut connection);
        found.push(Found {
            note,
            connection,
            pid: peer.pid(),
            greeting,
        });
    }
    Ok(found)
}

/// `None`: nobody listens.
fn dial(socket: &Path) -> Result<Option<Connection>> {
    match UnixStream::connect(socket) {
        Ok(stream) => Ok(Some(Connection::new(stream))),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error).doing(|| format!("cannot connect to `{}`", socket.display())),
    }
}

fn answer<T: serde::de::DeserializeOwned>(connection: &mut Connection) -> Result<T> {
    let deadline = Instant::now() + ANSWER_LIMIT;
    loop {
        if let Some(frame) = connection.next_frame()? {
            return frame.decode();
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::Other(format!(
                "the daemon did not answer within {} s",
                ANSWER_LIMIT.as_secs()
            )));
        }
        let mut fds = [PollFd::new(connection.as_fd(), PollFlags::POLLIN)];
        let ms = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, ms) {
            Ok(0) | Err(nix::Error::EINTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error).doing(|| "waiting for the daemon".into()),
        }
        if connection.fill()? == Filled::Eof {
            return Err(Error::Closed);
        }
    }
}

fn print(text: &str) {
    // Somebody closed the pipe: they have seen enough.
    let _ = io::stdout().write_all(text.as_bytes());
}

/// `status`. Returns the exit status.
pub fn status(whose: Whose, json: bool) -> Result<i32> {
    let mut documents = Vec::new();
    for mut daemon in find(whose)? {
        if daemon.greeting.is_ok() && !daemon.is_ours() {
            return Err(Error::Other(format!(
                "{} is of another version of pyseidon\n\nhint: `pyseidon-daemon restart`",
                daemon.name()
            )));
        }
        match daemon.ask(&Request::Status) {
            Ok(Reply::Status(text)) => documents.push(text),
            Ok(_) => return Err(Error::Malformed),
            // It left at this moment.
            Err(Error::Closed) => {}
            Err(error) => return Err(silent(&daemon, &error)),
        }
    }
    if json {
        print(&format!("[{}]\n", documents.join(",")));
    } else if documents.is_empty() {
        print(&nothing_runs(whose)?);
    } else {
        let colour = console::colors_enabled();
        for (at, text) in documents.iter().enumerate() {
            let document: Document = serde_json::from_str(text).map_err(|_| {
                Error::Other(
                    "a daemon of another build of pyseidon answered\n\nhint: `pyseidon-daemon restart`"
                        .into(),
                )
            })?;
            if at > 0 {
                print("\n");
            }
            print(&document.render(colour));
        }
    }
    Ok(if documents.is_empty() { NOT_RUNNING } else { 0 })
}

fn silent(daemon: &Found, error: &Error) -> Error {
    Error::Other(format!(
        "{}: {error}\n\nhint: `kill -9 {}`",
        daemon.name(),
        daemon.pid
    ))
}

fn nothing_runs(whose: Whose) -> Result<String> {
    Ok(match whose {
        Whose::All => "no daemon is running\n".into(),
        Whose::Project => format!(
            "no daemon is running for `{}`\n",
            project::root(&here()?).display()
        ),
    })
}

/// `stop`. Runs that have begun go on to their end.
pub fn stop(whose: Whose) -> Result<i32> {
    let daemons = find(whose)?;
    if daemons.is_empty() {
        print(&nothing_runs(whose)?);
    }
    for mut daemon in daemons {
        if daemon.greeting.is_ok() && !daemon.is_ours() {
            // What a request looks like may have changed; what a signal means has not.
            terminate(daemon.pid);
            print(&format!("asked {} to go\n", daemon.name()));
            continue;
        }
        match daemon.ask(&Request::Stop) {
            Ok(Reply::Done) | Err(Error::Closed) => print(&format!("stopped {}\n", daemon.name())),
            Ok(_) => return Err(Error::Malformed),
            Err(error) => return Err(silent(&daemon, &error)),
        }
    }
    Ok(0)
}

/// `start`. Says so if one is running already.
pub fn start() -> Result<i32> {
    let cwd = here()?;
    let exe = std::env::current_exe().doing(|| "finding this program".into())?;
    let argv0 = std::env::args_os().next().unwrap_or_default();
    let caller = Caller {
        argv0: &argv0,
        env: &env,
        cwd: &cwd,
        exe: &exe,
    };
    let environment = find_script(&caller)
        .and_then(|script| Environment::of(script, &caller))
        .map_err(|why| Error::Other(format!("{why}\n\nhint: {PYTEST_HINT}")))?;
    let binaries = exe.parent().unwrap_or(Path::new("/"));
    let key = key(&environment, &cwd, binaries, &Attributes::read()?);
    let root = environment.root.display().to_string();
    match spawn(&exe, &cwd, &environment, &key)? {
        Readiness::Ready => print(&format!("started a daemon for `{root}`\n")),
        Readiness::AlreadyRunning => print(&format!("a daemon is running for `{root}` already\n")),
        Readiness::Failed(why) => {
            return Err(Error::Other(format!("the daemon could not start: {why}")));
        }
    }
    Ok(0)
}

fn spawn(exe: &Path, cwd: &Path, environment: &Environment, key: &str) -> Result<Readiness> {
    let (mut ours, theirs) = Connection::pair()?;
    let number = theirs.as_fd().as_raw_fd();
    let mut command = Command::new(exe);
    command
        .arg("run")
        .args(["--ready-fd", &number.to_string()])
        .args([OsStr::new("--root"), environment.root.as_os_str()])
        .args([
            OsStr::new("--script"),
            cwd.join(&environment.script).as_os_str(),
        ])
        .args([OsStr::new("--python"), environment.python.as_os_str()])
        .args(["--key", key]);
    for option in &environment.python_options {
        // One word, because the option begins with a dash.
        let mut word = std::ffi::OsString::from("--python-option=");
        word.push(option);
        command.arg(word);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: the closure makes one system call; everything else is left to the daemon itself.
    unsafe {
        command.pre_exec(move || match libc::fcntl(number, libc::F_SETFD, 0) {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    command
        .spawn()
        .doing(|| format!("cannot start `{}`", exe.display()))?;
    // Our copy of the daemon's end: its death is to be seen as the end of the channel.
    drop(theirs);
    match answer(&mut ours) {
        Err(Error::Closed) => Err(Error::Other("the daemon died while it started".into())),
        other => other,
    }
}

/// `restart`.
pub fn restart() -> Result<i32> {
    stop(Whose::Project)?;
    start()
}

/// `log`: prints the logs of the project's daemons, living or dead.
pub fn log(follow: bool) -> Result<i32> {
    let root = project::root(&here()?);
    let mut logs: Vec<PathBuf> = notes(&runtime_dir(&env)?)
        .into_iter()
        .filter(|(_, note)| note.root == root)
        .filter_map(|(_, note)| note.log)
        .collect();
    let cache = project::place::cache_dir(&env);
    for entry in cache.iter().flat_map(fs::read_dir).flatten().flatten() {
        let path = entry.path();
        let log = path.with_extension("log");
        let is_store = path.extension().is_some_and(|e| e == "json");
        if is_store && !logs.contains(&log) && project_of(&path).is_some_and(|of| of == root) {
            logs.push(log);
        }
    }
    logs.retain(|log| log.is_file());
    if logs.is_empty() {
        print(&format!("there is no log for `{}`\n", root.display()));
        return Ok(0);
    }
    let mut files = Vec::new();
    for path in &logs {
        let doing = || format!("reading `{}`", path.display());
        let mut file = File::open(path).doing(doing)?;
        if logs.len() > 1 {
            print(&format!("==> {} <==\n", path.display()));
        }
        copy(&mut file).doing(doing)?;
        files.push((path, file));
    }
    if !follow {
        return Ok(0);
    }
    loop {
        std::thread::sleep(FOLLOW_PAUSE);
        for (path, file) in &mut files {
            let doing = || format!("reading `{}`", path.display());
            let ours = file.metadata().doing(doing)?.ino();
            // A log that grew too long was put aside.
            if fs::metadata(path.as_path()).is_ok_and(|now| now.ino() != ours) {
                *file = File::open(path.as_path()).doing(doing)?;
            }
            copy(file).doing(doing)?;
        }
    }
}

fn copy(file: &mut File) -> io::Result<()> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    match io::stdout().write_all(&bytes) {
        // Nobody reads any more.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other,
    }
}

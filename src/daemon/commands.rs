//! What `pyseidon-daemon` does for people: finding daemons and speaking to them.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::door::{Note, notes, sweep};
use super::learned::project_of;
use super::status::Document;
use crate::error::{Context, Error, Result};
use crate::process::terminate;
use crate::project::{self, Attributes, Caller, Environment, find_script, key, runtime_dir};
use crate::protocol::{Distrust, Hello, Question, Readiness, Reply, Request, VERSION};
use crate::reach::{Daemon, connect, greeting, receive_within};
use crate::transport::Connection;

/// `status`: nothing is running; `log`: there is none. As `systemctl status` has it.
pub const NOT_RUNNING: i32 = 3;

/// As the program ends with any other error.
const COMPLAINED: i32 = 1;

/// A daemon answers from its loop in milliseconds; reading the memory of ten processes with a
/// gigabyte each takes tens of them.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

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

/// How much of a log is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lines {
    All,
    Last(usize),
}

impl FromStr for Lines {
    type Err = String;

    fn from_str(word: &str) -> std::result::Result<Self, String> {
        if word == "all" {
            return Ok(Self::All);
        }
        let number = word.parse().map(Self::Last);
        number.map_err(|_| "a number or `all` is expected".into())
    }
}

impl Lines {
    /// The end of a text. Its last line may not be finished.
    fn of(self, text: &[u8]) -> &[u8] {
        let Self::Last(count) = self else { return text };
        let starts = text.iter().rposition(|byte| *byte != b'\n').map(|last| {
            let breaks = text[..last].iter().enumerate().rev();
            let mut breaks = breaks.filter(|(_, byte)| **byte == b'\n');
            breaks
                .nth(count.saturating_sub(1))
                .map_or(0, |(at, _)| at + 1)
        });
        match count {
            0 => &[],
            _ => &text[starts.unwrap_or(0)..],
        }
    }
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
        receive_within(&mut self.connection, ANSWER_LIMIT, "answer")?
            .ok_or(Error::Closed)?
            .decode()
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

pub(super) fn env(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name)
}

pub(super) fn here() -> Result<PathBuf> {
    std::env::current_dir().doing(|| "looking up the working directory".into())
}

/// What a search came to.
struct Search {
    found: Vec<Found>,
    /// Something that may be a daemon could not be spoken to. The user has been told.
    trouble: bool,
}

/// The daemons that run; what is left of dead ones is removed on the way.
fn find(whose: Whose) -> Result<Search> {
    let root = project::root(&here()?);
    let runtime = runtime_dir(&env)?;
    let mut search = Search {
        found: Vec::new(),
        trouble: false,
    };
    for (socket, note) in notes(&runtime) {
        if whose == Whose::Project && note.root != root {
            continue;
        }
        match call(&socket, note) {
            Ok(Some(found)) => search.found.push(found),
            Ok(None) => sweep(&socket),
            Err(error) => search.trouble = complain(&error),
        }
    }
    Ok(search)
}

/// `None`: nobody listens.
fn call(socket: &Path, note: Note) -> Result<Option<Found>> {
    let Some(mut connection) = connect(socket)? else {
        return Ok(None);
    };
    let pid = connection.peer()?.pid();
    let greeting = greeting(&mut connection).and_then(|hello| hello.ok_or(Error::Closed));
    Ok(Some(Found {
        note,
        connection,
        pid,
        greeting,
    }))
}

/// One daemon's trouble is not another's: the command goes on. Always true.
fn complain(error: &Error) -> bool {
    eprintln!("error: {error}");
    true
}

pub(super) fn print(text: &str) {
    // Somebody closed the pipe: they have seen enough.
    let _ = io::stdout().write_all(text.as_bytes());
}

/// `status`. Returns the exit status.
pub fn status(whose: Whose, json: bool) -> Result<i32> {
    let Search { found, mut trouble } = find(whose)?;
    let mut documents = Vec::new();
    for mut daemon in found {
        match document(&mut daemon) {
            Ok(text) => documents.extend(text),
            Err(error) => trouble = complain(&error),
        }
    }
    if json {
        print(&format!("[{}]\n", documents.join(",")));
    } else if documents.is_empty() && !trouble {
        print(&nothing_runs(whose)?);
    } else {
        let colour = console::colors_enabled();
        for (at, text) in documents.iter().enumerate() {
            let Ok(document) = serde_json::from_str::<Document>(text) else {
                trouble = complain(&other_build());
                continue;
            };
            if at > 0 {
                print("\n");
            }
            print(&document.render(colour));
        }
    }
    Ok(match (trouble, documents.is_empty()) {
        (true, _) => COMPLAINED,
        (false, true) => NOT_RUNNING,
        (false, false) => 0,
    })
}

/// What the daemons of the project that the working directory belongs to say of themselves.
///
/// An error if one cannot be asked; the reasons are on stderr then.
pub(super) fn documents() -> Result<Vec<Document>> {
    let Search { found, trouble } = find(Whose::Project)?;
    if trouble {
        return Err(unasked());
    }
    let mut documents = Vec::new();
    for mut daemon in found {
        let Some(text) = document(&mut daemon)? else {
            continue;
        };
        documents.push(serde_json::from_str(&text).map_err(|_| other_build())?);
    }
    Ok(documents)
}

/// What the daemons of the same project answer, as documents.
pub(super) fn explanations(question: &Question) -> Result<Vec<String>> {
    let Search { found, trouble } = find(Whose::Project)?;
    if trouble {
        return Err(unasked());
    }
    let mut documents = Vec::new();
    for mut daemon in found {
        documents.extend(explanation(&mut daemon, question)?);
    }
    Ok(documents)
}

fn unasked() -> Error {
    Error::Other("a daemon of this project cannot be asked".into())
}

pub(super) fn other_build() -> Error {
    Error::Other(
        "a daemon of another build of pyseidon answered\n\nhint: `pyseidon-daemon restart`".into(),
    )
}

/// What a daemon says of itself; `None` if it left at this moment.
fn document(daemon: &mut Found) -> Result<Option<String>> {
    match answer(daemon, &Request::Status)? {
        Some(Reply::Status(text)) => Ok(Some(text)),
        Some(_) => Err(Error::Malformed),
        None => Ok(None),
    }
}

fn explanation(daemon: &mut Found, question: &Question) -> Result<Option<String>> {
    match answer(daemon, &Request::Explain(Box::new(question.clone())))? {
        Some(Reply::Explained(text)) => Ok(Some(text)),
        Some(_) => Err(Error::Malformed),
        None => Ok(None),
    }
}

/// What the daemons of the same project answer: whether anything has changed, and all names.
pub(super) fn distrusted(request: &Distrust) -> Result<Vec<(bool, Vec<String>)>> {
    let Search { found, trouble } = find(Whose::Project)?;
    if trouble {
        return Err(unasked());
    }
    let mut answers = Vec::new();
    for mut daemon in found {
        match answer(&mut daemon, &Request::Distrust(request.clone()))? {
            Some(Reply::Distrusted(has_changed, names)) => answers.push((has_changed, names)),
            Some(_) => return Err(Error::Malformed),
            None => {}
        }
    }
    Ok(answers)
}

/// What a daemon of this version answers; `None` if it left at this moment.
fn answer(daemon: &mut Found, request: &Request) -> Result<Option<Reply>> {
    if daemon.greeting.is_ok() && !daemon.is_ours() {
        return Err(Error::Other(format!(
            "{} is of another version of pyseidon\n\nhint: `pyseidon-daemon restart`",
            daemon.name()
        )));
    }
    match daemon.ask(request) {
        Ok(reply) => Ok(Some(reply)),
        Err(Error::Closed) => Ok(None),
        Err(error) => Err(silent(daemon, &error)),
    }
}

fn silent(daemon: &Found, error: &Error) -> Error {
    Error::Other(format!(
        "{}: {error}\n\nhint: `kill -9 {}`",
        daemon.name(),
        daemon.pid
    ))
}

pub(super) fn nothing_runs_here() -> Result<String> {
    nothing_runs(Whose::Project)
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
    let search = find(whose)?;
    if search.found.is_empty() && !search.trouble {
        print(&nothing_runs(whose)?);
    }
    Ok(stop_all(search))
}

/// Returns the exit status.
fn stop_all(search: Search) -> i32 {
    let Search { found, mut trouble } = search;
    for mut daemon in found {
        if daemon.greeting.is_ok() && !daemon.is_ours() {
            // What a request looks like may have changed; what a signal means has not.
            terminate(daemon.pid);
            print(&format!("asked {} to go\n", daemon.name()));
            continue;
        }
        match daemon.ask(&Request::Stop) {
            Ok(Reply::Done) | Err(Error::Closed) => print(&format!("stopped {}\n", daemon.name())),
            Ok(_) => trouble = complain(&Error::Malformed),
            Err(error) => trouble = complain(&silent(&daemon, &error)),
        }
    }
    if trouble { COMPLAINED } else { 0 }
}

/// `start`. Says so if one is running already.
pub fn start() -> Result<i32> {
    calling(|caller| {
        let environment = find_script(caller)
            .and_then(|script| Environment::of(script, caller))
            .map_err(Error::Other)?;
        let binaries = caller.exe.parent().unwrap_or(Path::new("/"));
        let key = key(&environment, caller.cwd, binaries, &Attributes::read()?);
        let root = environment.root.display().to_string();
        let daemon = Daemon {
            environment: &environment,
            key: &key,
            // It is not to be called.
            socket: Path::new(""),
            script: caller.cwd.join(&environment.script),
            program: caller.exe.to_path_buf(),
        };
        match daemon.spawn()? {
            Readiness::Ready => print(&format!("started a daemon for `{root}`\n")),
            Readiness::AlreadyRunning => {
                print(&format!("a daemon is running for `{root}` already\n"));
            }
            Readiness::Failed(why) => {
                return Err(Error::Other(format!("the daemon could not start: {why}")));
            }
        }
        Ok(0)
    })
}

/// Calls `with` with what the search for an environment's script depends on.
pub(super) fn calling<T>(with: impl FnOnce(&Caller<'_>) -> Result<T>) -> Result<T> {
    let cwd = here()?;
    let exe = std::env::current_exe().doing(|| "finding this program".into())?;
    let argv0 = std::env::args_os().next().unwrap_or_default();
    with(&Caller {
        argv0: &argv0,
        env: &env,
        cwd: &cwd,
        exe: &exe,
    })
}

/// `restart`.
pub fn restart() -> Result<i32> {
    match stop_all(find(Whose::Project)?) {
        0 => start(),
        status => Ok(status),
    }
}

/// `log`: prints the logs of the project's daemons, living or dead. Returns the exit status.
pub fn log(lines: Lines, follow: bool) -> Result<i32> {
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
        eprintln!("there is no log for `{}`", root.display());
        return Ok(NOT_RUNNING);
    }
    logs.sort_by_cached_key(|log| fs::metadata(log).and_then(|found| found.modified()).ok());
    let mut files = Vec::new();
    for path in &logs {
        let doing = || format!("reading `{}`", path.display());
        let mut file = File::open(path).doing(doing)?;
        if logs.len() > 1 {
            print(&format!("==> {} <==\n", path.display()));
        }
        show(lines, &mut file).doing(doing)?;
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
            show(Lines::All, file).doing(doing)?;
        }
    }
}

/// Prints the end of what has not been read of it.
fn show(lines: Lines, file: &mut File) -> io::Result<()> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    match io::stdout().write_all(lines.of(&bytes)) {
        // Nobody reads any more.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_log_the_last_lines_are_shown() {
        let of = |word: &str, text: &'static str| {
            let lines: Lines = word.parse().unwrap();
            std::str::from_utf8(lines.of(text.as_bytes())).unwrap()
        };
        assert_eq!(of("all", "a\nb\nc\n"), "a\nb\nc\n");
        assert_eq!(of("2", "a\nb\nc\n"), "b\nc\n");
        assert_eq!(of("1", "a\n\nc"), "c");
        assert_eq!(of("3", "a\nb\nc\n"), "a\nb\nc\n");
        assert_eq!(of("9", "a\nb\n"), "a\nb\n");
        assert_eq!(of("0", "a\nb\n"), "");
        assert_eq!(of("5", ""), "");
        assert!("-1".parse::<Lines>().is_err() && "some".parse::<Lines>().is_err());
    }
}

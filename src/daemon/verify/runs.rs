//! One run of the selection, plain or warm, and what it showed.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::compare::{Aspect, Facts, Group, Key, Map};
use super::interrupt;
use super::mask::mask;
use super::tree::Tree;
use crate::daemon::commands::{calling, env};
use crate::daemon::history::Record;
use crate::daemon::{commands, dispatcher};
use crate::error::{Context, Error, Result};
use crate::project::{self, find_script};

/// Fixed in all runs alike where the caller leaves it to chance: a worker has its zygote's seed.
const SEED: (&str, &str) = ("PYTHONHASHSEED", "0");

const WITNESS: &str = "pyseidon.witness";
const WITNESS_VARIABLE: &str = "PYSEIDON_WITNESS";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Plain,
    Warm,
}

/// What one run showed.
pub(super) struct Seen {
    pub(super) facts: Facts,
    /// As `waitpid` has it.
    pub(super) status: i32,
    /// Whether it came to pytest's end: without that there is less to compare.
    pub(super) witnessed: bool,
    /// Tests that were called.
    pub(super) tests: usize,
    /// What the daemon knows of it; `None` for a plain run, or if it never came to a daemon.
    pub(super) record: Option<Record>,
    /// What `pyseidon-test` said on stderr of why it is plain pytest.
    pub(super) excuse: Option<String>,
}

/// How the selection is run.
pub(super) struct Selection {
    arguments: Vec<OsString>,
    cwd: PathBuf,
    root: PathBuf,
    pytest: PathBuf,
    pyseidon: PathBuf,
    scratch: Scratch,
    show: bool,
    /// How often it has been run.
    pub(super) executions: usize,
}

/// A directory of ours, gone with this value.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Selection {
    pub(super) fn new(arguments: &[OsString], show: bool) -> Result<Self> {
        let (cwd, pytest, pyseidon) = calling(|caller| {
            let pytest = find_script(caller).map_err(Error::Other)?;
            let pyseidon = beside(&pytest, caller.exe);
            Ok((caller.cwd.to_path_buf(), pytest, pyseidon))
        })?;
        let scratch = nix::unistd::mkdtemp(&std::env::temp_dir().join("pyseidon-verify-XXXXXX"))
            .doing(|| "making a temporary directory".into())?;
        let mut words = vec!["-p".into(), WITNESS.into()];
        words.extend_from_slice(arguments);
        Ok(Self {
            arguments: words,
            root: project::root(&cwd),
            pyseidon,
            cwd,
            pytest,
            scratch: Scratch(scratch),
            show,
            executions: 0,
        })
    }

    fn scratch(&self, name: &str) -> PathBuf {
        self.scratch.0.join(name)
    }

    /// Runs it once, to its end.
    pub(super) fn run(&mut self, how: How) -> Result<Seen> {
        self.executions += 1;
        let tree = Tree::read(&self.root, &self.scratch.0);
        let witness = self.scratch("witness.json");
        let _ = fs::remove_file(&witness);
        let program = match how {
            How::Plain => &self.pytest,
            How::Warm => &self.pyseidon,
        };
        let streams = [self.scratch("stdout"), self.scratch("stderr")];
        let open =
            |path: &Path| File::create(path).doing(|| format!("making `{}`", path.display()));
        let mut command = Command::new(program);
        command
            .args(&self.arguments)
            .env("PYSEIDON", "1")
            .env(WITNESS_VARIABLE, &witness)
            .stdin(Stdio::null())
            .stdout(open(&streams[0])?)
            .stderr(open(&streams[1])?);
        if env(SEED.0).is_none_or(|value| value.is_empty()) {
            command.env(SEED.0, SEED.1);
        }
        let since = dispatcher::wall_clock();
        let doing = || format!("cannot run `{}`", program.display());
        let status = interrupt::wait(command.spawn().doing(doing)?).doing(doing)?;
        let [stdout, stderr] = streams.map(|path| fs::read(path).unwrap_or_default());
        if self.show {
            // Whoever closed the pipe has seen enough.
            let _ = io::stdout().write_all(&stdout);
            let _ = io::stderr().write_all(&stderr);
        }
        let record = match how {
            How::Plain => None,
            How::Warm => self.record(since)?,
        };
        let witness = read_witness(&witness)?;
        let status = status.into_raw();
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        let mut facts = Facts::from([
            (
                Group::Status,
                Aspect::Map(only(told_status(status, witness.is_some()))),
            ),
            (
                Group::Stdout,
                Aspect::Text(mask(&String::from_utf8_lossy(&stdout))),
            ),
            (Group::Stderr, Aspect::Text(mask(&stderr))),
            (Group::Files, Aspect::Map(tree.changes())),
        ]);
        let witnessed = witness.is_some();
        let tests = witness.as_ref().map_or(0, Witness::tests);
        if let Some(witness) = witness {
            witness.tell(&mut facts);
        }
        let excuse = |line: &str| {
            let said = line.strip_prefix("pyseidon: ")?;
            Some(
                said.strip_prefix("running plain pytest: ")
                    .unwrap_or(said)
                    .to_owned(),
            )
        };
        Ok(Seen {
            facts,
            status,
            witnessed,
            tests,
            record,
            excuse: stderr.lines().find_map(excuse),
        })
    }

    /// What the project's daemons know of the run that has begun since then.
    fn record(&self, since: f64) -> Result<Option<Record>> {
        let shown = |word: &OsString| word.to_string_lossy().into_owned();
        let argv: Vec<String> = self.arguments.iter().map(shown).collect();
        let documents = commands::documents()?;
        let mut runs = documents
            .iter()
            .filter_map(|document| document.run(&argv, &self.cwd, since));
        Ok(runs.next_back().cloned())
    }
}

/// Our `pyseidon-test`, spelled as the script is: it then finds the same one.
fn beside(pytest: &Path, exe: &Path) -> PathBuf {
    const NAME: &str = "pyseidon-test";
    let ours = exe.parent().unwrap_or(Path::new("/")).join(NAME);
    let spelled = pytest.parent().map(|directory| directory.join(NAME));
    let is_ours = |path: &PathBuf| {
        let real = fs::canonicalize(path).ok();
        real.is_some() && real == fs::canonicalize(&ours).ok()
    };
    spelled.filter(is_ours).unwrap_or(ours)
}

fn only(value: String) -> Map {
    let (family, name) = (String::new(), "the run".into());
    Map::from([(Key { family, name }, value)])
}

/// How a run ended, in words.
pub(in crate::daemon) fn told_status(status: i32, has_witness: bool) -> String {
    let end = if libc::WIFSIGNALED(status) {
        format!("signal {}", libc::WTERMSIG(status))
    } else {
        format!("exit {}", libc::WEXITSTATUS(status))
    };
    if has_witness {
        end
    } else {
        format!("{end}, before pytest's end")
    }
}

/// What `pyseidon.witness` writes.
#[derive(Debug, Deserialize)]
struct Witness {
    outcomes: Vec<Report>,
    collection: Vec<Report>,
    warnings: Vec<Warning>,
    modules: Vec<String>,
    namespaces: std::collections::BTreeMap<String, std::collections::BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
struct Report {
    node: String,
    when: String,
    outcome: String,
    /// The failure's text.
    text: String,
    /// What was captured.
    captured: String,
}

#[derive(Debug, Deserialize)]
struct Warning {
    category: String,
    message: String,
    file: String,
    line: i64,
    when: String,
    node: String,
}

/// `None`: the run did not come to pytest's end.
fn read_witness(path: &Path) -> Result<Option<Witness>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).doing(|| format!("reading `{}`", path.display())),
    };
    let read = serde_json::from_slice(&text);
    read.map(Some).map_err(|error| {
        Error::Other(format!(
            "what `{WITNESS}` wrote cannot be understood: {error}"
        ))
    })
}

impl Witness {
    fn tests(&self) -> usize {
        let called = |report: &&Report| report.when == "call";
        self.outcomes.iter().filter(called).count()
    }

    fn tell(self, facts: &mut Facts) {
        let order = self
            .outcomes
            .iter()
            .map(|report| format!("{} {}", report.node, report.when));
        facts.insert(Group::Order, Aspect::Order(order.collect()));
        for (group, reports) in [
            (Group::Outcomes, self.outcomes),
            (Group::Collection, self.collection),
        ] {
            let mut told = Map::new();
            for (key, text) in reports.into_iter().map(Report::entry) {
                // A test may be run more than once.
                let known: &mut String = told.entry(key).or_default();
                known.push_str(&text);
                known.push('\n');
            }
            facts.insert(group, Aspect::Map(told));
        }
        let mut warnings = Map::new();
        for warning in self.warnings {
            let key = warning.key();
            let known = warnings.entry(key).or_insert_with(|| "0 times".to_owned());
            let count: usize = known
                .split(' ')
                .next()
                .and_then(|n| n.parse().ok())
                .unwrap_or(0);
            *known = format!("{} times", count + 1);
        }
        facts.insert(Group::Warnings, Aspect::Map(warnings));
        let modules = self.modules.iter().map(|name| {
            let family = name.split('.').next().unwrap_or_default().to_owned();
            let name = name.clone();
            (Key { family, name }, "imported".to_owned())
        });
        facts.insert(Group::Modules, Aspect::Map(modules.collect()));
        facts.insert(Group::ImportOrder, Aspect::Order(self.modules));
        let mut held = Map::new();
        for (module, names) in self.namespaces {
            for (name, value) in names {
                let key = Key {
                    family: module.clone(),
                    name: format!("{module}.{}", mask(&name)),
                };
                held.insert(key, mask(&value));
            }
        }
        facts.insert(Group::Namespaces, Aspect::Map(held));
    }
}

impl Report {
    fn entry(self) -> (Key, String) {
        let file = self.node.split("::").next().unwrap_or_default();
        let key = Key {
            family: file.to_owned(),
            name: mask(&format!("{} ({})", self.node, self.when)),
        };
        let told = [self.outcome, self.text, self.captured].join("\n");
        (key, mask(told.trim_end()))
    }
}

impl Warning {
    fn key(&self) -> Key {
        let Self {
            category,
            message,
            file,
            line,
            when,
            node,
        } = self;
        let message = message.lines().next().unwrap_or_default();
        let test = if node.is_empty() { when } else { node };
        Key {
            family: file.clone(),
            name: mask(&format!("{test}: {file}:{line}: {category}: {message}")),
        }
    }
}

/// For messages: how a program is called on a command line.
pub(in crate::daemon) fn command_line(words: &[OsString]) -> String {
    let quoted = |word: &OsString| {
        let text = word.to_string_lossy();
        let is_plain = |c: char| c.is_alphanumeric() || "-_./:=,@%+[]".contains(c);
        if !text.is_empty() && text.chars().all(is_plain) {
            text.into_owned()
        } else {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// Whether plain pytest is asked for in a way that [`How::Warm`] does not overrule.
pub(super) fn random_seed() -> bool {
    env(SEED.0).as_deref() == Some(OsStr::new("random"))
}

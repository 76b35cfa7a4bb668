//! What the daemon knows of its checkpoints, as a document: why they are as they are, and what
//! they save.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::super::choose::Answer;
use super::super::dispatcher::{Dispatcher, wall_clock};
use super::super::history::{Incident, Kind, Record};
use super::super::level::Level;
use super::super::root::Root;
use super::super::shape::{RootKey, shown_argv};
use super::super::status::{Unprepared, pss_kib, state_of, zygote_state};
use super::super::supervisor::{State, Zygote, ZygoteId};
use crate::protocol::{Asked, Load, LoadEnd, Loads, Question, Run};

/// Changes when a field goes or gets another meaning; new fields do not count.
const VERSION: u32 = 1;

/// So many loads fit into an answer, at a hundred bytes each, whatever number of checkpoints there
/// is.
const MOST_LOADS: usize = 60_000;

/// As many packages of each checkpoint as anybody will read.
const MOST_PACKAGES: usize = 20;

/// Command lines of which it is told what their runs imported themselves.
const MOST_RECORDINGS: usize = 3;

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::daemon) struct Explanation {
    version: u32,
    pub(super) project: PathBuf,
    pub(super) python: PathBuf,
    pub(super) pid: u32,
    /// What a run with the arguments that were asked for would get now.
    pub(super) asked: Option<Verdict>,
    pub(super) roots: Vec<Tree>,
    /// Modules that the user has each run import itself.
    pub(super) distrusted: Vec<String>,
    /// The last runs, with what each was spared.
    pub(super) runs: Vec<Record>,
    /// What runs imported behind their checkpoints.
    pub(super) natural: Vec<Natural>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Verdict {
    pub(super) argv: Vec<String>,
    /// The level; none: plain pytest.
    pub(super) checkpoint: Option<String>,
    pub(super) pid: Option<i32>,
    /// It is known to stand for such runs: else it may refuse, and what lies above serves.
    pub(super) certain: bool,
    /// Why it is plain, or why nothing deeper.
    pub(super) why: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Tree {
    pub(super) id: String,
    /// `ready`, `building`, `failed` or `waiting`.
    pub(super) state: String,
    pub(super) why: Option<String>,
    pub(super) checkpoints: Vec<Branch>,
    /// Kinds of runs for which a level has no checkpoint.
    pub(super) missing: Vec<Unprepared>,
    /// The latest last.
    pub(super) incidents: Vec<Incident>,
}

/// A checkpoint and those that were forked from it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Branch {
    pub(super) level: String,
    /// For what runs it was grown.
    pub(super) shape: Option<String>,
    pub(super) state: String,
    /// Why it leaves.
    pub(super) leaves: Option<String>,
    pub(super) pid: Option<i32>,
    pub(super) pss_kib: Option<u64>,
    pub(super) holds: String,
    pub(super) not_deeper: Option<String>,
    pub(super) age_seconds: f64,
    pub(super) build_seconds: f64,
    /// What a run is spared, estimated.
    pub(super) spares_seconds: f64,
    /// Modules in `sys.modules`, and how many of them are not in what it was forked from.
    pub(super) modules: u32,
    pub(super) added: u32,
    pub(super) served: u32,
    pub(super) imports: Imports,
    pub(super) deeper: Vec<Branch>,
}

/// What the build of a checkpoint imported.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Imports {
    /// Whether its build was watched module by module.
    pub(super) watched: bool,
    pub(super) count: usize,
    pub(super) seconds: f64,
    /// The most expensive ones first, at most twenty of `package_count`.
    pub(super) packages: Vec<Package>,
    pub(super) package_count: usize,
    /// Modules that were loaded and are not in `sys.modules` any more.
    pub(super) away: usize,
    /// The most expensive ones, in the order in which they began.
    pub(super) loads: Vec<Load>,
    /// The others, and the seconds that they took without what they loaded in turn.
    pub(super) left_out: usize,
    pub(super) left_out_seconds: f64,
}

/// All modules of a top-level name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) modules: usize,
    /// Without what other packages took on their behalf.
    pub(super) seconds: f64,
}

/// What the last run of a command line imported, or looked for, itself.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Natural {
    pub(super) argv: Vec<String>,
    pub(super) cwd: PathBuf,
    pub(super) modules: usize,
    /// Top-level names and how many modules of each, the most first. What they took is not
    /// recorded in runs.
    pub(super) packages: Vec<(String, usize)>,
}

/// Of what is to be told: nothing is left out without it.
struct Focus {
    root: Option<RootKey>,
    levels: Vec<Level>,
    /// What would serve such a run, and what that was forked from.
    chain: Vec<ZygoteId>,
}

impl Focus {
    fn has(&self, zygote: &Zygote) -> bool {
        let is_for_all = zygote.level.shape().is_none();
        self.root == Some(zygote.root)
            && (is_for_all
                || self.levels.contains(&zygote.level)
                || self.chain.contains(&zygote.id))
    }
}

impl Dispatcher {
    /// Notes what became of a zygote.
    pub(in crate::daemon) fn note_incident(&mut self, id: ZygoteId, kind: Kind, why: &str) {
        let Some(zygote) = self.zygotes.get(&id) else {
            return;
        };
        let (key, level) = (zygote.root, zygote.level.clone());
        let ends_it = !matches!(kind, Kind::Refused | Kind::Unsettled);
        let along = if ends_it {
            self.along_with(id)
        } else {
            Vec::new()
        };
        self.note_incident_of(key, &level, kind, why, along);
    }

    pub(in crate::daemon) fn note_incident_of(
        &mut self,
        key: RootKey,
        level: &Level,
        kind: Kind,
        why: &str,
        along: Vec<String>,
    ) {
        let Some(root) = self.root(key) else { return };
        root.incidents.add(Incident {
            at: wall_clock(),
            times: 1,
            level: level.name().to_owned(),
            depth: level.depth(),
            shape: level.describe(),
            kind,
            why: why.to_owned(),
            along,
        });
    }

    /// The levels of the checkpoints that go when this one goes: with a Z0 all of its generation.
    pub(in crate::daemon) fn along_with(&self, id: ZygoteId) -> Vec<String> {
        let mut generations = self.roots.iter().flat_map(Root::generations);
        let members = generations.find(|generation| generation.z0 == id);
        let members = members.into_iter().flat_map(|it| &it.prepared);
        let zygotes = members.filter_map(|id| self.zygotes.get(id));
        let ready = zygotes.filter(|zygote| zygote.is_ready());
        ready.map(|zygote| zygote.name().to_owned()).collect()
    }

    /// The document, as JSON.
    pub(in crate::daemon) fn explanation(&mut self, question: &Question, now: Instant) -> String {
        let (asked, focus) = match &question.of {
            Some(asked) => {
                let (verdict, focus) = self.judge(asked, now);
                (Some(verdict), Some(focus))
            }
            None => (None, None),
        };
        let focus = focus.as_ref();
        let is_shown = |zygote: &&Zygote| focus.is_none_or(|focus| focus.has(zygote));
        let shown = self.zygotes.values().filter(is_shown).count();
        let most = (question.loads as usize).min(MOST_LOADS / shown.max(1));
        let roots = self
            .roots
            .iter()
            .filter(|root| focus.is_none_or(|focus| focus.root == Some(root.key)))
            .map(|root| self.tree(root, focus, most, now))
            .collect();
        let argv = asked.as_ref().map(|it| &it.argv);
        let document = Explanation {
            version: VERSION,
            project: self.identity.root.clone(),
            python: self.identity.python.clone(),
            pid: std::process::id(),
            runs: self
                .history
                .records()
                .filter(|run| argv.is_none_or(|argv| run.argv == *argv))
                .cloned()
                .collect(),
            natural: self.natural(argv),
            distrusted: self.learned.distrusted().cloned().collect(),
            roots,
            asked,
        };
        serde_json::to_string(&document).expect("it holds text and numbers only")
    }

    /// What would become of a run with these arguments.
    fn judge(&mut self, asked: &Asked, now: Instant) -> (Verdict, Focus) {
        let mut verdict = Verdict {
            argv: shown_argv(&asked.argv),
            checkpoint: None,
            pid: None,
            certain: true,
            why: None,
        };
        let mut focus = Focus {
            root: None,
            levels: Vec::new(),
            chain: Vec::new(),
        };
        let as_of = |root: &Root| Run {
            argv: asked.argv.clone(),
            env: asked.env.clone(),
            cwd: asked.cwd.clone(),
            ..(*root.template).clone()
        };
        let run = self.roots.iter().map(as_of).find(|run| {
            let key = RootKey::of(run);
            self.roots.iter().any(|root| root.key.is_sibling_of(key))
        });
        let Some(run) = run else {
            verdict.why = Some("the first run of its kind".into());
            return (verdict, focus);
        };
        let key = self.root_for(&run, asked.tty, now);
        focus.root = Some(key);
        focus.levels = Level::all(&run);
        match self.would_serve(key, &run, asked.tty, now) {
            _ if !self.settings.enabled() => {
                verdict.why = Some("switched off in `pyproject.toml`".into());
            }
            Err(why) => verdict.why = Some(why),
            Ok((id, why)) => {
                let mut at = Some(id);
                while let Some(zygote) = at.and_then(|id| self.zygotes.get(&id)) {
                    focus.chain.push(zygote.id);
                    at = zygote.parent;
                }
                let zygote = &self.zygotes[&id];
                verdict.checkpoint = Some(zygote.name().to_owned());
                verdict.pid = zygote.pid;
                verdict.certain = zygote.answer(&focus.levels) == Answer::Accepts;
                verdict.why = why;
            }
        }
        (verdict, focus)
    }

    fn tree(&self, root: &Root, focus: Option<&Focus>, most: usize, now: Instant) -> Tree {
        let (state, why) = state_of(root, self.memory.shortage.is_some());
        let own: BTreeMap<ZygoteId, &Zygote> = self
            .zygotes
            .values()
            .filter(|zygote| zygote.root == root.key)
            .filter(|zygote| focus.is_none_or(|focus| focus.has(zygote)))
            .map(|zygote| (zygote.id, zygote))
            .collect();
        let is_top = |zygote: &&&Zygote| zygote.parent.is_none_or(|it| !own.contains_key(&it));
        let tops = own.values().filter(is_top);
        let wanted = |level: &Level| focus.is_none_or(|focus| focus.levels.contains(level));
        let shapes: Option<Vec<_>> =
            focus.map(|focus| focus.levels.iter().map(Level::describe).collect());
        Tree {
            id: root.key.short(),
            state: state.to_owned(),
            why,
            checkpoints: tops.map(|top| branch(root, top, &own, most, now)).collect(),
            missing: self.unprepared(root, wanted),
            incidents: root
                .incidents
                .records()
                .filter(|it| {
                    let shapes = shapes.as_ref();
                    it.shape.is_none() || shapes.is_none_or(|all| all.contains(&it.shape))
                })
                .cloned()
                .collect(),
        }
    }

    fn natural(&self, argv: Option<&Vec<String>>) -> Vec<Natural> {
        let recordings = self.learned.recordings().iter().rev();
        recordings
            .filter(|it| argv.is_none_or(|argv| it.argv == *argv))
            .take(MOST_RECORDINGS)
            .map(|it| {
                let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
                for name in &it.imports {
                    *counts.entry(top_level(name)).or_default() += 1;
                }
                let mut packages: Vec<_> =
                    counts.iter().map(|(n, c)| ((*n).to_owned(), *c)).collect();
                packages.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
                Natural {
                    argv: it.argv.clone(),
                    cwd: it.cwd.clone(),
                    modules: it.imports.len(),
                    packages,
                }
            })
            .collect()
    }
}

fn branch(
    root: &Root,
    zygote: &Zygote,
    own: &BTreeMap<ZygoteId, &Zygote>,
    most: usize,
    now: Instant,
) -> Branch {
    let children = own.values().filter(|it| it.parent == Some(zygote.id));
    Branch {
        level: zygote.name().to_owned(),
        shape: zygote.level.describe(),
        state: zygote_state(root, zygote).to_owned(),
        leaves: match &zygote.state {
            State::Leaving(why) => Some(why.clone()),
            State::Starting | State::Ready => None,
        },
        pid: zygote.pid,
        pss_kib: zygote.pid.and_then(pss_kib),
        holds: zygote.holds.clone(),
        not_deeper: zygote.shallow.clone(),
        age_seconds: now.saturating_duration_since(zygote.started).as_secs_f64(),
        build_seconds: zygote.build_seconds,
        spares_seconds: zygote.spares(),
        modules: zygote.modules,
        added: zygote.added(),
        served: zygote.served,
        imports: Imports::of(&zygote.loads, most),
        deeper: children
            .map(|child| branch(root, child, own, most, now))
            .collect(),
    }
}

impl Imports {
    fn of(loads: &Loads, most: usize) -> Self {
        let seconds = |micros: u64| micros as f64 / 1e6;
        let mut costs: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
        for load in &loads.made {
            let (modules, micros) = costs.entry(top_level(&load.name)).or_default();
            *modules += usize::from(load.end != LoadEnd::Failed);
            *micros += u64::from(load.own);
        }
        let mut packages: Vec<_> = costs.into_iter().collect();
        packages.sort_by_key(|(_, (_, micros))| std::cmp::Reverse(*micros));
        let count = loads.made.len() + loads.left_out as usize;
        let is_away = |load: &&Load| load.end == LoadEnd::Away;
        let mut shown = loads.clone();
        shown.keep(most);
        Self {
            watched: loads.watched,
            count,
            seconds: seconds(loads.own_micros()),
            package_count: packages.len(),
            packages: packages
                .into_iter()
                .take(MOST_PACKAGES)
                .map(|(name, (modules, micros))| Package {
                    name: name.to_owned(),
                    modules,
                    seconds: seconds(micros),
                })
                .collect(),
            away: loads.made.iter().filter(is_away).count(),
            left_out: shown.left_out as usize,
            left_out_seconds: seconds(shown.left_out_own),
            loads: shown.made,
        }
    }
}

/// The package that a module belongs to.
pub(super) fn top_level(name: &str) -> &str {
    name.split('.').next().unwrap_or_default()
}

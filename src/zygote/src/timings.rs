//! When each module's load began and ended while plugins and conftests are loaded: what a
//! checkpoint spares its runs, module by module.
//!
//! The audit event of an import tells its begin only, and `importlib.import_module` raises none.
//! The profile function, which watches these builds anyway, is called when the import system's own
//! functions begin and return. Of a call only the code's address is compared, of a return only the
//! frame's: a build takes no longer for it. Nothing of this is left once a zygote has parked.
//!
//! Being watched makes imports two or three times as slow. So the calls of the profile function are
//! counted, and what they took is taken off: what is told is near what plain Python needs.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyModule};
use pyseidon::protocol::{Load, LoadEnd, Loads};

use crate::codes::watch_code;

/// As many as there is a use for in a picture, about 250 kB.
const MOST: usize = 5000;

/// What a function of the import system is called with, under this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Given {
    /// The name of the module that it loads: `name`.
    Name,
    /// The module: `module`.
    Module,
}

struct Recording {
    /// By the address of their code.
    functions: HashMap<usize, Given>,
    made: Vec<Made>,
    /// When a load began or ended, in order, and how many events there had been.
    moments: Vec<(Instant, u64)>,
    /// What watching adds to each event.
    cost: Duration,
    /// The loads that are under way, the innermost last.
    open: Vec<Open>,
}

struct Made {
    name: String,
    depth: usize,
    /// Places in `moments`.
    begin: usize,
    end: Option<usize>,
    failed: bool,
}

struct Open {
    /// The address of its frame, and its place in `made`.
    frame: usize,
    at: usize,
    given: Given,
}

/// Calls of the profile function.
static EVENTS: AtomicU64 = AtomicU64::new(0);

static RECORDING: Mutex<Option<Recording>> = Mutex::new(None);

/// Begins to record. Each pair is the code of a function that loads a module, and whether it is
/// given the module's `name` or the `module`.
#[pyfunction]
pub(crate) fn record_loads(functions: Vec<(Bound<'_, PyAny>, String)>) {
    let functions = functions.iter().map(|(code, given)| {
        let given = match given.as_str() {
            "module" => Given::Module,
            _ => Given::Name,
        };
        let at = code.as_ptr() as usize;
        watch_code(at);
        (at, given)
    });
    *RECORDING.lock().expect("no panic while held") = Some(Recording {
        functions: functions.collect(),
        made: Vec::new(),
        moments: Vec::new(),
        cost: Duration::ZERO,
        open: Vec::new(),
    });
}

/// Says how many seconds watching adds to each event, as was found by trying.
#[pyfunction]
pub(crate) fn cost_of_watching(seconds: f64) {
    if let Some(recording) = RECORDING.lock().expect("no panic while held").as_mut() {
        recording.cost = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    }
}

/// The profile function is called.
pub(crate) fn on_event() {
    EVENTS.fetch_add(1, Ordering::Relaxed);
}

impl Recording {
    /// It is now that something begins or ends. Gives its place in `moments`.
    fn now(&mut self) -> usize {
        self.moments
            .push((Instant::now(), EVENTS.load(Ordering::Relaxed)));
        self.moments.len() - 1
    }

    /// Microseconds since `since` of each moment, as if nobody had watched.
    fn unwatched(&self, since: Instant) -> Vec<u32> {
        let mut events_before = None;
        let mut latest = 0;
        let moments = self.moments.iter().map(|(at, events)| {
            let first = *events_before.get_or_insert(*events);
            let watching = self.cost.as_secs_f64() * (events - first) as f64;
            let seconds = at.saturating_duration_since(since).as_secs_f64() - watching;
            // Of a stretch with cheaper events than others too much may be taken off.
            latest = latest.max((seconds * 1e6) as u32);
            latest
        });
        moments.collect()
    }
}

/// A function whose code is at this address is called. Gives the module whose load begins by it.
pub(crate) fn on_call(frame: &Bound<'_, PyAny>, code: usize) -> Option<String> {
    let given = RECORDING.try_lock().ok().and_then(|guard| {
        let recording = guard.as_ref()?;
        recording.functions.get(&code).copied()
    })?;
    // Python builds the mapping of locals: not to be done with the lock held.
    let name = name_of(frame, given)?;
    let mut guard = RECORDING.try_lock().ok()?;
    let recording = guard.as_mut()?;
    let innermost = recording.open.last();
    if given == Given::Module && innermost.is_some_and(|it| recording.made[it.at].name == name) {
        // The second half of a load that has begun by its name.
        return None;
    }
    let begin = recording.now();
    recording.open.push(Open {
        frame: frame.as_ptr() as usize,
        at: recording.made.len(),
        given,
    });
    recording.made.push(Made {
        name: name.clone(),
        depth: recording.open.len() - 1,
        begin,
        end: None,
        failed: false,
    });
    Some(name)
}

/// A function returns `result`, or raises (`None`).
pub(crate) fn on_return(frame: &Bound<'_, PyAny>, result: &Bound<'_, PyAny>) {
    let Ok(mut guard) = RECORDING.try_lock() else {
        return;
    };
    let Some(recording) = guard.as_mut() else {
        return;
    };
    let innermost = recording.open.last();
    let Some(open) = innermost.filter(|open| open.frame == frame.as_ptr() as usize) else {
        return;
    };
    let (at, given) = (open.at, open.given);
    recording.open.pop();
    recording.made[at].end = Some(recording.now());
    recording.made[at].failed = given == Given::Name && result.is_none();
}

/// The name of what is loaded, without running any code of the user's.
fn name_of(frame: &Bound<'_, PyAny>, given: Given) -> Option<String> {
    let py = frame.py();
    let locals = frame.getattr(intern!(py, "f_locals")).ok()?;
    if given == Given::Name {
        return locals.get_item(intern!(py, "name")).ok()?.extract().ok();
    }
    let module = locals.get_item(intern!(py, "module")).ok()?;
    let module = module.cast_into::<PyModule>().ok()?;
    let name = module.dict().get_item(intern!(py, "__name__")).ok()??;
    name.extract().ok()
}

/// What was loaded since `since`, and ends the recording. `hidden` are modules that count as held.
pub(crate) fn take(py: Python<'_>, since: Instant, hidden: &BTreeSet<String>) -> Loads {
    let recording = RECORDING.lock().expect("no panic while held").take();
    let Some(mut recording) = recording else {
        return Loads::default();
    };
    let now = recording.now();
    let moments = recording.unwatched(since);
    let modules = modules(py);
    let mut made: Vec<Load> = Vec::with_capacity(recording.made.len());
    // Of each depth the load that has begun last.
    let mut outer: Vec<usize> = Vec::new();
    for load in recording.made {
        let start = moments[load.begin];
        let took = moments[load.end.unwrap_or(now)] - start;
        outer.truncate(load.depth);
        if let Some(parent) = outer.last() {
            made[*parent].own = made[*parent].own.saturating_sub(took);
        }
        outer.push(made.len());
        made.push(Load {
            end: if load.failed {
                LoadEnd::Failed
            } else if modules.contains(&load.name).unwrap_or(false) || hidden.contains(&load.name) {
                LoadEnd::Held
            } else {
                LoadEnd::Away
            },
            name: load.name,
            depth: u16::try_from(load.depth).unwrap_or(u16::MAX),
            start,
            took,
            own: took,
        });
    }
    let mut loads = Loads {
        watched: true,
        made,
        ..Loads::default()
    };
    loads.keep(MOST);
    loads
}

/// Ends the recording.
pub(crate) fn forget() {
    let recording = RECORDING.lock().expect("no panic while held").take();
    drop(recording);
}

/// How many modules this process holds.
pub(crate) fn count(py: Python<'_>) -> u32 {
    u32::try_from(modules(py).len()).unwrap_or(u32::MAX)
}

/// Their names.
pub(crate) fn names(py: Python<'_>) -> Vec<String> {
    let keys = modules(py).keys();
    keys.iter().filter_map(|name| name.extract().ok()).collect()
}

/// `sys.modules`, as the interpreter itself has it.
fn modules(py: Python<'_>) -> Bound<'_, PyDict> {
    // SAFETY: gives a borrowed dictionary; the interpreter is held.
    unsafe { Bound::from_borrowed_ptr(py, ffi::PyImport_GetModuleDict()).cast_into_unchecked() }
}

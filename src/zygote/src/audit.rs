//! The audit hook: what a build reads, what it must not do, what a run imports.
//!
//! A hook cannot be removed, so it stays in workers; there it looks at one atomic number, and at
//! the names of three kinds of events. It is set through the C interface and not visible to Python.

use std::collections::btree_map::Entry;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};
use pyseidon::trace::{Signature, now_ns};

use crate::ahead;
use crate::distrust;
use crate::fail::fail_now;
use crate::following;
use crate::page::Page;
use crate::profile;
use crate::record::source_of;
use crate::seen::{absolute, note_relative, seen};

type Hook = extern "C" fn(*const c_char, *mut ffi::PyObject, *mut c_void) -> c_int;

unsafe extern "C" {
    // In every CPython since 3.8, and in the limited interface since 3.13: nothing of its
    // signature has changed between.
    fn PySys_AddAuditHook(hook: Hook, data: *mut c_void) -> c_int;
}

/// What the hook does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mode {
    Off = 0,
    /// A zygote on its way to where it parks.
    Build = 1,
    /// A worker in pytest.
    Run = 2,
}

static MODE: AtomicU8 = AtomicU8::new(Mode::Off as u8);
/// The process whose imports are recorded: a test's own children share the hook and the page.
static RUNNER: AtomicI32 = AtomicI32::new(0);
static PAGE: Mutex<Option<std::mem::ManuallyDrop<Page>>> = Mutex::new(None);

/// The code that has asked for a frame, and its caller's.
type Asker = (Py<PyAny>, Option<Py<PyAny>>);
static FRAMES: Mutex<Option<Vec<Asker>>> = Mutex::new(None);

pub(crate) fn set_mode(mode: Mode) {
    MODE.store(mode as u8, Ordering::Relaxed);
}

/// Installs the hook and starts to record a build.
#[pyfunction]
pub(crate) fn watch() -> PyResult<()> {
    // SAFETY: the hook has the required signature and is never unloaded: extension modules stay.
    if unsafe { PySys_AddAuditHook(hook, std::ptr::null_mut()) } != 0 {
        return Err(PyRuntimeError::new_err("no audit hook could be set"));
    }
    resume();
    Ok(())
}

/// Stops recording.
#[pyfunction]
pub(crate) fn unwatch() {
    set_mode(Mode::Off);
}

/// Goes on recording, in a child that is to become a deeper checkpoint: what its parent has read
/// is in its parent's trace.
#[pyfunction]
pub(crate) fn resume() {
    let mut seen = seen();
    seen.forget();
    seen.since_ns = now_ns();
    drop(seen);
    set_mode(Mode::Build);
}

/// Records the imports of this process, a worker about to enter pytest, in `page`.
pub(crate) fn record_run(page: std::mem::ManuallyDrop<Page>) {
    RUNNER.store(std::process::id() as i32, Ordering::Relaxed);
    *PAGE.lock().expect("no panic while held") = Some(page);
    set_mode(Mode::Run);
}

extern "C" fn hook(event: *const c_char, args: *mut ffi::PyObject, _: *mut c_void) -> c_int {
    let mode = MODE.load(Ordering::Relaxed);
    if mode == Mode::Off as u8 {
        return 0;
    }
    // SAFETY: Python gives a null-terminated string that lives during the call.
    let event = unsafe { CStr::from_ptr(event) }.to_bytes();
    if mode == Mode::Run as u8 {
        match event {
            b"import" => {}
            b"gc.get_objects" | b"gc.get_referrers" => {}
            // Somebody is about to listen to what a run imports.
            b"sys.addaudithook" => {
                ahead::forget();
                return 0;
            }
            _ => return 0,
        }
    }
    if args.is_null() {
        return 0;
    }
    // SAFETY: an audit hook with arguments is called with the interpreter held; `args` is a
    // borrowed tuple.
    Python::attach(|py| unsafe {
        let args = Bound::from_borrowed_ptr(py, args);
        let Ok(args) = args.cast_into::<PyTuple>() else {
            return 0;
        };
        if mode == Mode::Build as u8 {
            during_build(py, event, &args);
            return 0;
        }
        match during_run(py, event, &args) {
            Ok(()) => 0,
            Err(error) => {
                error.restore(py);
                -1
            }
        }
    })
}

/// An error is raised by what has raised the event.
fn during_run(py: Python<'_>, event: &[u8], args: &Bound<'_, PyTuple>) -> PyResult<()> {
    if event != b"import" {
        // Somebody looks at the collector's objects. Those from before the fork are kept from it
        // for speed; plain Python would show them.
        set_unfrozen(py);
        return Ok(());
    }
    if RUNNER.load(Ordering::Relaxed) != std::process::id() as i32 {
        return Ok(());
    }
    // The lock is not held on: Python code will run, and may import.
    let page = PAGE
        .lock()
        .expect("no panic while held")
        .as_ref()
        .map(|page| page.share());
    if let (Some(page), Some(name)) = (page, text(args, 0)) {
        page.import(name.as_bytes());
        ahead::on_import(py, &name, &page)?;
    }
    Ok(())
}

fn set_unfrozen(py: Python<'_>) {
    if let Ok(gc) = py.import("gc") {
        let _ = gc.call_method0("unfreeze");
    }
}

fn during_build(py: Python<'_>, event: &[u8], args: &Bound<'_, PyTuple>) {
    match event {
        b"import" => {
            if let Some(name) = text(args, 0) {
                distrust::on_load(&name);
                profile::on_import(&name);
                seen().imported.insert(name);
            }
            note_search_path(args);
        }
        b"open" => open(py, args),
        b"os.putenv" | b"os.unsetenv" => {
            let bytes = |at: usize| {
                args.get_item(at)
                    .and_then(|arg| arg.extract::<Vec<u8>>())
                    .ok()
            };
            if let Some(name) = bytes(0) {
                let value = bytes(1);
                seen().written.insert(name, value);
            }
        }
        b"ctypes.dlsym" if text(args, 1).is_some_and(|name| name.ends_with("getenv")) => {
            veto("ctypes.dlsym", text(args, 1));
        }
        b"sys.setprofile" | b"sys.settrace" if is_our_own(&caller(py).unwrap_or_default()) => {}
        b"sys.settrace" if following::is_leaving() => {}
        b"os.listdir" | b"os.scandir" => list(py, args),
        b"sys._getframe" => note_frame(py),
        _ if is_veto(event) && !is_harmless(py, event, args) => {
            veto(&String::from_utf8_lossy(event), text(args, 0));
        }
        _ => {}
    }
}

/// Begins to note who asks for frames, for [`frames`].
#[pyfunction]
pub(crate) fn note_frames() {
    *FRAMES.lock().expect("no panic while held") = Some(Vec::new());
}

/// Who has asked for a frame since the last call: the code of each, and that of its caller.
#[pyfunction]
pub(crate) fn frames() -> Vec<Asker> {
    let mut frames = FRAMES.lock().expect("no panic while held");
    frames.replace(Vec::new()).unwrap_or_default()
}

fn note_frame(py: Python<'_>) {
    if let Some(codes) = FRAMES.lock().expect("no panic while held").as_mut()
        && let Some(frame) = frame(py)
        && let Ok(code) = frame.getattr("f_code")
    {
        let back = frame.getattr("f_back").and_then(|f| f.getattr("f_code"));
        codes.push((code.unbind(), back.ok().map(Bound::unbind)));
    }
}

fn open(py: Python<'_>, args: &Bound<'_, PyTuple>) {
    const WRITING: i64 = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC) as i64;
    let Some(path) = path(args, 0) else {
        // A descriptor, opened before.
        return;
    };
    let mode = text(args, 1).unwrap_or_default();
    let flags: i64 = args
        .get_item(2)
        .ok()
        .and_then(|f| f.extract().ok())
        .unwrap_or(0);
    if mode.contains(['w', 'a', 'x', '+']) || flags & WRITING != 0 {
        if path != Path::new("/dev/null") && !is_for_capture(py) {
            veto("open to write", Some(path.display().to_string()));
        }
        return;
    }
    let by = caller(py).unwrap_or_default();
    if is_our_own(&by) {
        return;
    }
    note_relative(&path);
    let path = absolute(&path);
    if path.to_str().is_none() {
        // A trace is text.
        veto("open", Some(path.display().to_string()));
    }
    if path.starts_with("/proc") || path.starts_with("/sys") {
        // The machine's present state, which no trace can hold. psutil only counts the fields of
        // a line there when it is imported.
        if !by.ends_with("/psutil/_pslinux.py") && !by.ends_with("/psutil/_common.py") {
            veto("open", Some(path.display().to_string()));
        }
        return;
    }
    if path.starts_with("/dev") && !path.is_file() && !path.is_dir() {
        // Some always say the same. Others say something else each time.
        if !["/dev/null", "/dev/zero", "/dev/full"]
            .map(Path::new)
            .contains(&&*path)
        {
            veto("open", Some(path.display().to_string()));
        }
        return;
    }
    let is_source = path.extension().is_some_and(|end| end == "py");
    let is_import = by.starts_with("<frozen importlib");
    let of = if is_source {
        Some(path.clone())
    } else {
        source_of(&path)
    };
    let is_load = !is_source || is_for_load(py);
    // (Python 3.9 tells twice of what `Path.open` opens.)
    let is_told = name_of(py).is_some_and(|name| name == "_opener");
    let mut seen = seen();
    if is_source && is_import {
        seen.compiled.insert(path.clone());
    }
    if let Some(source) = of
        && !is_told
        && (!seen.loaded.insert((source.clone(), !is_source)) || !is_load)
    {
        seen.texts.insert(source);
    }
    if let Entry::Vacant(entry) = seen.opened.entry(path) {
        let before = Signature::of(entry.key());
        entry.insert(before);
    }
}

fn list(py: Python<'_>, args: &Bound<'_, PyTuple>) {
    let by = caller(py).unwrap_or_default();
    let is_search = by.starts_with("<frozen importlib");
    if !is_search && (is_our_own(&by) || is_for_conftests(py)) {
        return;
    }
    let path = path(args, 0)
        .or_else(|| opened_as(args, 0))
        .unwrap_or_else(|| ".".into());
    note_relative(&path);
    let path = absolute(&path);
    if is_search {
        // Resolution of names: recorded as such.
        seen().searched.insert(path);
        return;
    }
    if path.starts_with("/proc") || path.starts_with("/sys") || path.to_str().is_none() {
        veto("list", Some(path.display().to_string()));
    }
    // (Before Python 3.10 it is one file.)
    let metadata = [
        "/importlib/metadata/",
        "/importlib/metadata.py",
        "/importlib_metadata/",
    ];
    let for_dists = metadata.iter().any(|part| by.contains(part));
    let mut seen = seen();
    let only_dists = seen.listed.entry(path).or_insert(true);
    *only_dists &= for_dists;
}

fn is_our_own(file: &str) -> bool {
    const FILES: [&str; 3] = ["observe.py", "barriers.py", "open_modules.py"];
    let own = |name: &&str| {
        file.strip_suffix(*name)
            .is_some_and(|it| it.ends_with("/pyseidon/"))
    };
    FILES.iter().any(own)
}

/// What code run in the background must not do: a checkpoint of it would have effects that the
/// user did not ask for, or hold what a fork cannot share.
fn is_veto(event: &[u8]) -> bool {
    const EVENTS: [&[u8]; 49] = [
        b"_thread.start_new_thread",
        b"_thread.start_joinable_thread",
        b"ftplib.connect",
        b"http.client.connect",
        b"os.chmod",
        b"os.chown",
        b"os.exec",
        b"os.fork",
        b"os.forkpty",
        b"os.kill",
        b"os.killpg",
        b"os.lchown",
        b"os.link",
        b"os.lockf",
        b"os.mkdir",
        b"os.posix_spawn",
        b"os.remove",
        b"os.removexattr",
        b"os.rename",
        b"os.rmdir",
        b"os.setxattr",
        b"os.symlink",
        b"os.system",
        b"os.truncate",
        b"os.utime",
        b"pty.spawn",
        b"shutil.chown",
        b"shutil.copyfile",
        b"shutil.copymode",
        b"shutil.copystat",
        b"shutil.copytree",
        b"shutil.make_archive",
        b"shutil.move",
        b"shutil.rmtree",
        b"shutil.unpack_archive",
        b"signal.pthread_kill",
        b"smtplib.connect",
        b"socket.bind",
        b"socket.connect",
        b"socket.getaddrinfo",
        b"socket.gethostbyname",
        b"socket.sendto",
        b"sqlite3.connect",
        b"subprocess.Popen",
        b"sys.addaudithook",
        b"sys.monitoring.register_callback",
        b"sys.setprofile",
        b"sys.settrace",
        b"urllib.Request",
    ];
    EVENTS.contains(&event)
}

fn is_harmless(py: Python<'_>, event: &[u8], args: &Bound<'_, PyTuple>) -> bool {
    match event {
        b"os.remove" => is_for_capture(py),
        b"sqlite3.connect" => text(args, 0).as_deref() == Some(":memory:"),
        // `ctypes.util.find_library` lets it print its cache.
        b"subprocess.Popen" if text(args, 0).as_deref() == Some("/sbin/ldconfig") => {
            let mut seen = seen();
            let cache = PathBuf::from("/etc/ld.so.cache");
            let before = Signature::of(&cache);
            seen.opened.entry(cache).or_insert(before);
            true
        }
        // urllib3 asks once whether the machine has IPv6, and closes the socket.
        b"socket.bind" => caller(py).is_some_and(|by| by.ends_with("/urllib3/util/connection.py")),
        _ => false,
    }
}

/// Ends a build before the thing is done. Nothing can swallow this, and nothing is half done.
fn veto(what: &str, of: Option<String>) -> ! {
    let stage = seen().stage.clone();
    let of = of.map(|of| format!(" (`{of}`)")).unwrap_or_default();
    fail_now(&stage, &format!("`{what}`{of} during a background build"))
}

/// Whether pytest makes the nameless files that it captures output in: `tempfile` first tries
/// whether a directory can be written to.
fn is_for_capture(py: Python<'_>) -> bool {
    is_asked_by(py, &["/tempfile.py"], "/_pytest/capture.py")
}

/// Whether a source is read to execute it as a module, by the import system or by pytest.
fn is_for_load(py: Python<'_>) -> bool {
    let names = [
        // `SourceLoader.get_code` is called by others too.
        ["get_data", "get_code", "exec_module"].as_slice(),
        ["_rewrite_test", "exec_module"].as_slice(),
    ];
    let mut frame = frame(py);
    let mut found = Vec::new();
    while let Some(at) = frame
        && found.len() < 3
    {
        let is_path =
            file_of(&at).is_some_and(|file| GLOBBING.iter().any(|end| file.ends_with(end)));
        let name = at
            .getattr("f_code")
            .and_then(|code| code.getattr("co_name"));
        match name.and_then(|name| name.extract::<String>()) {
            Ok(_) if is_path => {}
            Ok(name) => found.push(name),
            Err(_) => return false,
        }
        frame = at.getattr("f_back").ok().filter(|back| !back.is_none());
    }
    names
        .iter()
        .any(|names| found.iter().zip(*names).all(|(one, other)| one == other))
}

/// Whether pytest looks where conftests may be, which is compared when a worker is let go.
fn is_for_conftests(py: Python<'_>) -> bool {
    is_asked_by(py, &GLOBBING, "/_pytest/config/__init__.py")
}

/// Where the methods of `Path` are, before Python 3.13 and since.
const GLOBBING: [&str; 4] = [
    "/pathlib.py",
    "/pathlib/_local.py",
    "/pathlib/_abc.py",
    "/glob.py",
];

/// Whether the innermost code that is in none of the files `through` is in the file `by`.
fn is_asked_by(py: Python<'_>, through: &[&str], by: &str) -> bool {
    let mut frame = frame(py);
    while let Some(at) = frame {
        match file_of(&at) {
            Some(file) if through.iter().any(|end| file.ends_with(end)) => {}
            Some(file) => return file.ends_with(by),
            None => return false,
        }
        frame = at.getattr("f_back").ok().filter(|back| !back.is_none());
    }
    false
}

/// The file of the innermost Python frame.
fn caller(py: Python<'_>) -> Option<String> {
    file_of(&frame(py)?)
}

fn frame(py: Python<'_>) -> Option<Bound<'_, PyAny>> {
    // SAFETY: gives a borrowed frame or null; the interpreter is held.
    unsafe { Bound::from_borrowed_ptr_or_opt(py, ffi::PyEval_GetFrame().cast::<ffi::PyObject>()) }
}

/// The innermost Python function.
fn name_of(py: Python<'_>) -> Option<String> {
    let code = frame(py)?.getattr("f_code").ok()?;
    code.getattr("co_name").ok()?.extract().ok()
}

fn file_of(frame: &Bound<'_, PyAny>) -> Option<String> {
    let code = frame.getattr("f_code").ok()?;
    code.getattr("co_filename").ok()?.extract().ok()
}

/// Notes where an import looks: `(module, file, sys.path, ...)`. A directory may be on the search
/// path for this import alone, and need not be there yet.
fn note_search_path(args: &Bound<'_, PyTuple>) {
    let Ok(entries) = args
        .get_item(2)
        .and_then(|path| Ok(path.cast_into::<PyList>()?))
    else {
        return;
    };
    for entry in entries {
        if let Ok(path) = entry.extract::<PathBuf>() {
            note_relative(&path);
            let path = absolute(if path.as_os_str().is_empty() {
                Path::new(".")
            } else {
                &path
            });
            seen().searched.insert(path);
        }
    }
}

/// An argument that is a path: a string, bytes or a path object, of names in whatever encoding.
fn path(args: &Bound<'_, PyTuple>, at: usize) -> Option<PathBuf> {
    let arg = args.get_item(at).ok()?;
    arg.extract::<PathBuf>().ok().or_else(|| {
        let bytes = arg.call_method0("__fspath__").unwrap_or(arg);
        let bytes = bytes.cast_into::<PyBytes>().ok()?;
        Some(OsStr::from_bytes(bytes.as_bytes()).into())
    })
}

/// What an argument that is a descriptor was opened as.
fn opened_as(args: &Bound<'_, PyTuple>, at: usize) -> Option<PathBuf> {
    let fd: i32 = args.get_item(at).ok()?.extract().ok()?;
    std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()
}

/// An argument that is a string, bytes, or a path object.
fn text(args: &Bound<'_, PyTuple>, at: usize) -> Option<String> {
    let arg = args.get_item(at).ok()?;
    if let Ok(text) = arg.extract::<String>() {
        return Some(text);
    }
    if let Ok(bytes) = arg.extract::<Vec<u8>>() {
        return Some(String::from_utf8_lossy(&bytes).into_owned());
    }
    if arg.is_none() || arg.extract::<i64>().is_ok() {
        return None;
    }
    arg.str().ok().map(|text| text.to_string())
}

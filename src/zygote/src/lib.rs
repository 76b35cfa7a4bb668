//! The extension module `pyseidon._zygote`: turns the user's own Python process into a zygote.
//!
//! In this order; none uses one that stands below it:
//!
//! - [`fork`]: the fork and its contract
//! - [`page`]: the memory that a worker shares with its zygote
//! - [`touched`]: the pages that runs write to, copied ahead
//! - [`seen`]: what a build has read
//! - [`record`]: a trace from what was seen
//! - [`role`]: what this process is
//! - [`codes`]: what the profile function looks at closer
//! - [`loads`]: where loads of modules begin and end, and who is to blame
//! - [`fail`]: the end of a build that came to nothing
//! - [`classes`]: classes that no `__subclasses__()` shows
//! - [`ahead`]: an import that was made before the fork, hidden until a run makes it
//! - [`finding`]: stand-ins for the two functions of the import system that all imports go through
//! - [`trial`]: a call in a forked child, to see what comes of it
//! - [`timings`]: when each module's load began and ended
//! - [`distrust`]: modules that no checkpoint may hold
//! - [`profile`]: reads that raise no audit event, seen as calls of C functions
//! - [`following`]: a module's execution that is left and goes on in the code of the file as it is now
//! - [`audit`]: the audit hook: what a build reads, what it must not do, what a run imports
//! - [`readline`]: the size of the terminal, as the readline library tells it
//! - [`inherit`]: makes a fresh child the process that the caller would have started
//! - [`steps`]: how a process becomes the next thing
//! - [`grow`]: a deeper zygote, forked from a parked one
//! - [`standby`]: a child forked ahead, which waits for its run
//! - [`report`]: what a zygote tells of itself when it parks
//! - [`serve`]: the loop of a parked process: forks, relays signals, reaps, reports
//! - [`ends`]: what an object may do when it is destroyed
//! - [`leave`]: the end of a worker
//! - [`launch`]: gives the process a main thread without a frame of ours, runs the script there
//!
//! Everything here runs on one thread with the interpreter held. On other systems than Linux the
//! library is empty and never loaded.
#![cfg(all(target_os = "linux", not(pyseidon_portable)))]

mod ahead;
mod audit;
mod classes;
mod codes;
mod distrust;
mod ends;
mod fail;
mod finding;
mod following;
mod fork;
mod grow;
mod inherit;
mod launch;
mod leave;
mod loads;
mod page;
mod profile;
mod readline;
mod record;
mod report;
mod role;
mod seen;
mod serve;
mod standby;
mod steps;
mod timings;
mod touched;
mod trial;

use pyo3::prelude::*;

#[pymodule]
fn _zygote(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<role::Order>()?;
    module.add_function(wrap_pyfunction!(launch::launch, module)?)?;
    module.add_function(wrap_pyfunction!(launch::on_import, module)?)?;
    module.add_function(wrap_pyfunction!(steps::begin, module)?)?;
    module.add_function(wrap_pyfunction!(serve::park, module)?)?;
    module.add_function(wrap_pyfunction!(fail::fail, module)?)?;
    module.add_function(wrap_pyfunction!(fail::broken, module)?)?;
    module.add_function(wrap_pyfunction!(steps::refuse, module)?)?;
    module.add_function(wrap_pyfunction!(steps::inherited, module)?)?;
    module.add_function(wrap_pyfunction!(readline::tell_screen_size, module)?)?;
    module.add_function(wrap_pyfunction!(steps::enter, module)?)?;
    module.add_function(wrap_pyfunction!(trial::attempt, module)?)?;
    module.add_function(wrap_pyfunction!(trial::attempt_beside, module)?)?;
    module.add_function(wrap_pyfunction!(trial::end_trial, module)?)?;
    module.add_function(wrap_pyfunction!(ahead::hide, module)?)?;
    module.add_function(wrap_pyfunction!(finding::finding, module)?)?;
    module.add_function(wrap_pyfunction!(finding::loading, module)?)?;
    module.add_function(wrap_pyfunction!(following::executing, module)?)?;
    module.add_function(wrap_pyfunction!(following::leave_frame, module)?)?;
    module.add_function(wrap_pyfunction!(following::leave_no_frame, module)?)?;
    module.add_function(wrap_pyfunction!(following::leaving, module)?)?;
    module.add_function(wrap_pyfunction!(classes::conceal_own, module)?)?;
    module.add_function(wrap_pyfunction!(classes::reveal, module)?)?;
    module.add_function(wrap_pyfunction!(leave::generator_waits, module)?)?;
    module.add_function(wrap_pyfunction!(leave::survey, module)?)?;
    module.add_function(wrap_pyfunction!(audit::watch, module)?)?;
    module.add_function(wrap_pyfunction!(audit::unwatch, module)?)?;
    module.add_function(wrap_pyfunction!(audit::resume, module)?)?;
    module.add_function(wrap_pyfunction!(audit::note_frames, module)?)?;
    module.add_function(wrap_pyfunction!(audit::frames, module)?)?;
    module.add_function(wrap_pyfunction!(seen::written, module)?)?;
    module.add_function(wrap_pyfunction!(seen::set_written, module)?)?;
    module.add_function(wrap_pyfunction!(seen::stage, module)?)?;
    module.add_function(wrap_pyfunction!(seen::compiled, module)?)?;
    module.add_function(wrap_pyfunction!(timings::record_loads, module)?)?;
    module.add_function(wrap_pyfunction!(timings::cost_of_watching, module)?)?;
    module.add_function(wrap_pyfunction!(profile::watch_calls, module)?)?;
    module.add_function(wrap_pyfunction!(profile::observe, module)?)?;
    module.add_function(wrap_pyfunction!(profile::findings, module)?)?;
    module.add_function(wrap_pyfunction!(profile::numpy_made, module)?)?;
    module.add_function(wrap_pyfunction!(role::is_building, module)?)?;
    module.add_function(wrap_pyfunction!(loads::watch_loads, module)?)?;
    Ok(())
}

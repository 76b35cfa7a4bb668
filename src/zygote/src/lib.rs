//! The extension module `pyseidon._zygote`: turns the user's own Python process into a zygote.
//!
//! - [`launch`]: gives the process a main thread without a frame of ours, runs the script there
//! - [`role`]: what this process is, and how it becomes the next thing
//! - [`serve`]: the loop of a parked process: forks, relays signals, reaps, reports
//! - [`fork`]: the fork and its contract
//! - [`page`]: the memory that a worker shares with its zygote
//! - [`inherit`]: makes a fresh child the process that the caller would have started
//! - [`audit`]: the audit hook: what a build reads, what it must not do, what a run imports
//! - [`profile`]: reads that raise no audit event, seen as calls of C functions
//! - [`record`]: a trace from what was seen
//! - [`ahead`]: an import that was made before the fork, hidden until a run makes it
//! - [`classes`]: classes that no `__subclasses__()` shows
//! - [`leave`]: the end of a worker
//!
//! Everything here runs on one thread with the interpreter held. On other systems than Linux the
//! library is empty and never loaded.
#![cfg(all(target_os = "linux", not(pyseidon_portable)))]

mod ahead;
mod audit;
mod classes;
mod fork;
mod inherit;
mod launch;
mod leave;
mod page;
mod profile;
mod record;
mod role;
mod serve;

use pyo3::prelude::*;

#[pymodule]
fn _zygote(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<role::Order>()?;
    module.add_function(wrap_pyfunction!(launch::launch, module)?)?;
    module.add_function(wrap_pyfunction!(launch::on_import, module)?)?;
    module.add_function(wrap_pyfunction!(role::begin, module)?)?;
    module.add_function(wrap_pyfunction!(serve::park, module)?)?;
    module.add_function(wrap_pyfunction!(role::fail, module)?)?;
    module.add_function(wrap_pyfunction!(role::refuse, module)?)?;
    module.add_function(wrap_pyfunction!(role::inherited, module)?)?;
    module.add_function(wrap_pyfunction!(role::enter, module)?)?;
    module.add_function(wrap_pyfunction!(ahead::attempt, module)?)?;
    module.add_function(wrap_pyfunction!(ahead::hide, module)?)?;
    module.add_function(wrap_pyfunction!(classes::conceal_own, module)?)?;
    module.add_function(wrap_pyfunction!(classes::reveal, module)?)?;
    module.add_function(wrap_pyfunction!(leave::survey, module)?)?;
    module.add_function(wrap_pyfunction!(audit::watch, module)?)?;
    module.add_function(wrap_pyfunction!(audit::unwatch, module)?)?;
    module.add_function(wrap_pyfunction!(audit::written, module)?)?;
    module.add_function(wrap_pyfunction!(audit::stage, module)?)?;
    module.add_function(wrap_pyfunction!(profile::profile, module)?)?;
    module.add_function(wrap_pyfunction!(profile::observe, module)?)?;
    module.add_function(wrap_pyfunction!(profile::findings, module)?)?;
    Ok(())
}

//! The daemon's log: a file in the user's cache directory.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Months of ordinary use; the file before it is kept.
const LARGEST: u64 = 1 << 20;

/// Everything that is logged from here on goes into this file; nowhere, if it cannot be written.
pub(super) fn start(path: Option<&Path>) {
    let Some(path) = path else { return };
    if let Some(dir) = path.parent() {
        let _ = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir);
    }
    if fs::metadata(path).is_ok_and(|found| found.len() > LARGEST) {
        let _ = fs::rename(path, path.with_extension("log.old"));
    }
    let opened = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path);
    let Ok(file) = opened else { return };
    let level = match std::env::var("PYSEIDON_LOG").as_deref() {
        Ok("debug") => LevelFilter::DEBUG,
        _ => LevelFilter::INFO,
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_target(false)
        .with_writer(Mutex::new(file));
    // Only our own words: libraries warn of things that are as they should be.
    let ours = Targets::new().with_target("pyseidon", level);
    // Fails when a logger is set already, which only tests do.
    let _ = tracing_subscriber::registry()
        .with(ours)
        .with(lines)
        .try_init();
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
}

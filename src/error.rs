//! What goes wrong, in the words the user reads, and the exit statuses that are ours.

use std::io;
use std::path::PathBuf;

/// Exit statuses of pyseidon itself.
///
/// pytest owns 0 to 6 and passes through untouched, as does any status that a run ends with.
pub mod exit {
    /// The run could not be started, or its end is unknown (its zygote and its daemon were both
    /// killed). Chosen as `env`, `timeout` and `nice` have it: the tool, not its child, failed.
    pub const FAILED: i32 = 125;
    /// There is no `pytest` command to run: what a shell says of a missing command.
    pub const NOT_FOUND: i32 = 127;
}

/// What a user of another system is told.
pub const ONLY_LINUX: &str = "only Linux is supported so far";

/// An error that a user may see: a lowercase fragment, values in backticks.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing}: {source}")]
    Io { doing: String, source: io::Error },
    #[error("the message of {size} bytes is larger than the {limit} allowed")]
    Oversized { size: usize, limit: usize },
    #[error("{count} open descriptors are more than the {limit} that can be handed over")]
    TooManyDescriptors { count: usize, limit: usize },
    #[error("malformed message")]
    Malformed,
    #[error("the other side closed the connection")]
    Closed,
    #[error("`{}` is not safe to use: {why}\n\nhint: {hint}", path.display())]
    Unsafe {
        path: PathBuf,
        why: String,
        hint: String,
    },
    #[error("{0}")]
    Other(String),
}

pub type Result<T> = std::result::Result<T, Error>;

/// Names what was being done when an I/O error came up.
pub trait Context<T> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::Io {
            doing: doing(),
            source: error.into(),
        })
    }
}

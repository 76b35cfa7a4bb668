//! The command line of `pyseidon-daemon`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::commands::{self, Lines, Whose};
use super::{Options, run};

const EXIT_STATUS: &str = "\
Exit status:
  0    done (`stop`: also when nothing was running)
  1    it could not be done: the reason is on stderr
  2    wrong usage
  3    `status`: no daemon is running; `log`: there is no log";

/// Looks after the processes that keep pytest warm.
///
/// `pyseidon-test` starts a daemon by itself when it needs one. Without `--all`, the commands are
/// about the project that the working directory belongs to.
#[derive(Parser)]
#[command(name = "pyseidon-daemon", version, after_help = EXIT_STATUS)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a daemon for this project.
    Start,
    /// Show what runs, what it holds, and how the last runs went.
    Status {
        /// Of all projects.
        #[arg(long)]
        all: bool,
        /// For tools: a list with one document for each daemon.
        #[arg(long)]
        json: bool,
    },
    /// Stop the project's daemons; runs that have begun go on to their end.
    Stop {
        /// Of all projects.
        #[arg(long)]
        all: bool,
    },
    /// Stop the project's daemons and start one.
    Restart,
    /// Print what the project's daemons have logged, the newest log last.
    Log {
        /// How many lines of each log, from its end: a number or `all`.
        #[arg(short = 'n', long, value_name = "N", default_value = "100")]
        lines: Lines,
        /// Go on as more is logged.
        #[arg(short, long)]
        follow: bool,
    },
    /// Be the daemon.
    #[command(hide = true)]
    Run(RunArgs),
}

#[derive(Args)]
struct RunArgs {
    #[arg(long)]
    ready_fd: Option<i32>,
    #[arg(long)]
    root: PathBuf,
    #[arg(long)]
    script: PathBuf,
    #[arg(long)]
    python: PathBuf,
    #[arg(long, allow_hyphen_values = true)]
    python_option: Vec<OsString>,
    #[arg(long)]
    key: String,
}

/// Returns the exit status.
pub fn main() -> i32 {
    let whose = |all| if all { Whose::All } else { Whose::Project };
    let result = match Cli::parse().command {
        Command::Start => commands::start(),
        Command::Status { all, json } => commands::status(whose(all), json),
        Command::Stop { all } => commands::stop(whose(all)),
        Command::Restart => commands::restart(),
        Command::Log { lines, follow } => commands::log(lines, follow),
        Command::Run(args) => Ok(run(&Options {
            ready_fd: args.ready_fd,
            root: args.root,
            script: args.script,
            python: args.python,
            python_options: args.python_option,
            key: args.key,
        })),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        1
    })
}

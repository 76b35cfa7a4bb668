//! The command line of `pyseidon-daemon`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use super::commands::{self, Lines, Whose};
use super::distrust::{Module, distrust};
use super::explain::{self, Picture, explain};
use super::last::last;
use super::verify::{self, verify};
use super::{Options, run};

const EXIT_STATUS: &str = "\
Exit status:
  0    done (`stop`: also when nothing was running)
  1    it could not be done: the reason is on stderr; `verify`, `last --plain`: there is a difference
  2    wrong usage; `verify`, `last --plain`: it could not be judged
  3    `status`, `explain`, `distrust`: no daemon is running; `log`: there is no log; `last`: no run is known";

const ABOUT_VERIFY: &str = "\
Run tests by plain pytest and by pyseidon-test, and compare all that they show.

The selection is EXECUTED SEVERAL TIMES, one after the other in this directory: five times as a \
rule (three times plainly, then cold and warm), once or twice more while a checkpoint is being \
prepared, and two to four times more if a difference is found, to see whether it stays. What plain \
pytest itself does differently from run to run is no difference.

Compared are exit status, outcomes with their texts, order, warnings, imported modules and their \
order, what modules hold, stdout, stderr, and the files written below the project's root; times, \
addresses, process numbers and temporary directories are masked. Every run has no input, \
`-p pyseidon.witness` before its arguments, and PYTHONHASHSEED=0 unless you have set it.

All that follows the options above goes to pytest; after `--`, everything.";

const ABOUT_EXPLAIN: &str = "\
Show the checkpoints as a tree: what each holds, what its imports took, what it spares runs; what is \
not preloaded and why; what ended checkpoints; and what the last runs were spared.

With arguments for pytest it is only about runs like that from this directory, and says what would \
serve one now. All that follows the options above is taken for such arguments; after `--`, \
everything.";

const ABOUT_DISTRUST: &str = "\
Have each run import a module itself, from now on and until it is undone: no checkpoint of the \
project holds it any more. Those that there are go at once.

A plugin that imports it, and what follows that plugin, are loaded by each run; where a conftest \
imports it, each run executes its conftests. It is for a module that runs differently when it was \
imported ahead, which `pyseidon-daemon verify` shows; please report it, too.";

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
    /// Show what each checkpoint holds and saves, why there is nothing more, and what ended others.
    #[command(long_about = ABOUT_EXPLAIN)]
    Explain {
        /// Draw the imports of the checkpoints into this file: a picture (`.svg`), or a page with
        /// zoom and search (`.html`). It needs nothing else to be shown.
        #[arg(long, value_name = "FILE")]
        waterfall: Option<Picture>,
        /// For tools: a list with one document for each daemon, each import in it.
        #[arg(long)]
        json: bool,
        /// The selection, as for pytest.
        #[arg(
            value_name = "PYTEST ARGS",
            trailing_var_arg = true,
            allow_hyphen_values = true
        )]
        arguments: Vec<OsString>,
    },
    /// Have each run import a module itself: no checkpoint holds it any more.
    #[command(long_about = ABOUT_DISTRUST)]
    Distrust {
        /// As an import statement names it; a package stands for all that is in it. Without it the
        /// modules are listed that are distrusted.
        module: Option<Module>,
        /// Let checkpoints hold it again.
        #[arg(long, requires = "module")]
        undo: bool,
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
    /// Run tests plainly and warm, and compare.
    #[command(long_about = ABOUT_VERIFY)]
    Verify {
        /// Show what the runs print.
        #[arg(long)]
        show: bool,
        /// For tools: one document on stdout.
        #[arg(long)]
        json: bool,
        /// How long the daemon may take to prepare, in all.
        #[arg(long, value_name = "SECONDS", default_value = "60")]
        wait: u64,
        /// The selection, as for pytest.
        #[arg(
            value_name = "PYTEST ARGS",
            trailing_var_arg = true,
            allow_hyphen_values = true
        )]
        arguments: Vec<OsString>,
    },
    /// Show the project's last run and how it ended.
    Last {
        /// Run it again by plain pytest, and say whether that ends with the same status.
        #[arg(long)]
        plain: bool,
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
        Command::Explain {
            waterfall,
            json,
            arguments,
        } => explain(&explain::Options {
            waterfall,
            json,
            arguments,
        }),
        Command::Distrust { module, undo } => distrust(module, undo),
        Command::Stop { all } => commands::stop(whose(all)),
        Command::Restart => commands::restart(),
        Command::Log { lines, follow } => commands::log(lines, follow),
        Command::Verify {
            show,
            json,
            wait,
            arguments,
        } => Ok(verify(&verify::Options {
            arguments,
            show,
            json,
            wait: Duration::from_secs(wait),
        })),
        Command::Last { plain } => Ok(last(plain)),
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

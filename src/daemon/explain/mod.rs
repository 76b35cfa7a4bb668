//! `pyseidon-daemon explain`: the checkpoints as a tree, what each holds and cost, what they save,
//! why there is nothing more, and an import waterfall for people who look rather than read.
//!
//! - [`document`]: what the daemon says
//! - [`text`]: the same for people
//! - [`waterfall`]: the imports as a picture · [`page`]: around it, what a browser can do with it

mod document;
mod page;
mod text;
mod waterfall;

use std::ffi::OsString;
use std::fs;
use std::io::IsTerminal;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::commands::{self, NOT_RUNNING, here, print};
use crate::error::{Context, Error, Result};
use crate::protocol::{Asked, Question};
use document::Explanation;
use waterfall::Waterfall;

/// For the list of what is most expensive.
const FEW: u32 = 0;
/// All that a zygote tells.
const ALL: u32 = u32::MAX;

/// What was asked on the command line.
pub(super) struct Options {
    pub(super) waterfall: Option<Picture>,
    pub(super) json: bool,
    pub(super) arguments: Vec<OsString>,
}

/// A file to be written, of a kind that can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Picture {
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Svg,
    Html,
}

impl FromStr for Picture {
    type Err = String;

    fn from_str(word: &str) -> std::result::Result<Self, String> {
        let path = PathBuf::from(word);
        let ending = path.extension().and_then(|it| it.to_str());
        let kind = match ending.map(str::to_ascii_lowercase).as_deref() {
            Some("svg") => Kind::Svg,
            Some("html" | "htm") => Kind::Html,
            _ => {
                return Err(
                    "what it is to be is told by its ending\n\nhint: end the name in `.svg` for a \
                     picture, in `.html` for a page with zoom and search"
                        .into(),
                );
            }
        };
        Ok(Self { path, kind })
    }
}

/// `explain`. Returns the exit status.
pub(super) fn explain(options: &Options) -> Result<i32> {
    let is_detailed = options.json || options.waterfall.is_some();
    let question = Question {
        loads: if is_detailed { ALL } else { FEW },
        of: asked(&options.arguments)?,
    };
    let texts = commands::explanations(&question)?;
    if options.json {
        print(&format!("[{}]\n", texts.join(",")));
    }
    if texts.is_empty() {
        if !options.json {
            print(&commands::nothing_runs_here()?);
        }
        return Ok(NOT_RUNNING);
    }
    let documents = texts
        .iter()
        .map(|text| serde_json::from_str::<Explanation>(text))
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|_| commands::other_build())?;
    if !options.json {
        let colour = console::colors_enabled();
        let texts: Vec<_> = documents.iter().map(|it| it.render(colour)).collect();
        print(&texts.join("\n"));
    }
    if let Some(picture) = &options.waterfall {
        draw(picture, &documents)?;
    }
    Ok(0)
}

/// The run that these arguments would be, from here. Without any it is about everything.
fn asked(arguments: &[OsString]) -> Result<Option<Asked>> {
    if arguments.is_empty() {
        return Ok(None);
    }
    let env = std::env::vars_os().map(|(name, value)| {
        let entry = [name.as_bytes(), b"=", value.as_bytes()];
        entry.concat()
    });
    Ok(Some(Asked {
        argv: arguments.iter().map(|it| it.as_bytes().to_vec()).collect(),
        env: env.collect(),
        cwd: here()?.into_os_string().into_vec(),
        tty: [
            std::io::stdin().is_terminal(),
            std::io::stdout().is_terminal(),
            std::io::stderr().is_terminal(),
        ],
    }))
}

fn draw(picture: &Picture, documents: &[Explanation]) -> Result<()> {
    let waterfall = Waterfall::of(documents);
    if waterfall.is_empty() {
        return Err(Error::Other(
            "there is no checkpoint to draw yet\n\n\
             hint: run `pyseidon-test` once, and ask again when `pyseidon-daemon status` shows one"
                .into(),
        ));
    }
    let text = match picture.kind {
        Kind::Svg => waterfall.svg(),
        Kind::Html => page::html(&waterfall),
    };
    let path: &Path = &picture.path;
    fs::write(path, text).doing(|| format!("writing `{}`", path.display()))?;
    eprintln!("wrote `{}`: {}", path.display(), waterfall.summary());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_says_what_a_picture_is_to_be() {
        for (name, kind) in [("a.svg", Kind::Svg), ("b/c.HTML", Kind::Html)] {
            assert_eq!(name.parse::<Picture>().unwrap().kind, kind);
        }
        for name in ["a.png", "svg", ".svg", "a.svg.gz"] {
            let error = name.parse::<Picture>().unwrap_err();
            assert!(error.contains("hint: "), "{error}");
        }
    }
}

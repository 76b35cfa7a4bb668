//! Whether memory is short, on the machine or in a control group that this process is in.
//!
//! Looked at are what the kernel says could be had without swapping (`MemAvailable`; in a group its
//! limit less what is in use, files in memory not counted, as they can be read again), as a share
//! of the whole, and how much of the time processes stall because of it. The least share counts.
//!
//! | share available | what goes, one after the other |
//! |---|---|
//! | below 10 %, or below 20 % and processes stall | standbys: a run is some milliseconds slower |
//! | below 7 % | the least recently used root: its next run is plain |
//! | below 4 % | of the last root one checkpoint after the other, the deepest last |
//!
//! Kernels begin to reclaim in earnest at a few per cent; a machine that is merely busy has 20 and
//! more. Nothing is built before 15 % are available again, or it would be ended at once.

use std::fs;
use std::path::{Path, PathBuf};

const STANDBYS: f64 = 0.10;
const STANDBYS_AMID_STALLS: f64 = 0.20;
const ROOTS: f64 = 0.07;
const CHECKPOINTS: f64 = 0.04;
const ENOUGH: f64 = 0.15;

/// The share of the last ten seconds in which some process waited for memory. A machine that has
/// enough has 0; a group elsewhere that is at its own limit makes it rise as well, so it does not
/// count alone.
const STALLS: f64 = 10.0;

/// What is to go at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Relief {
    Nothing,
    Standbys,
    Roots,
    Checkpoints,
}

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Reading {
    available: u64,
    whole: u64,
    is_group: bool,
    stalls: f64,
}

impl Reading {
    fn share(&self) -> f64 {
        self.available as f64 / self.whole.max(1) as f64
    }

    pub(super) fn relief(&self) -> Relief {
        let share = self.share();
        if share < CHECKPOINTS {
            Relief::Checkpoints
        } else if share < ROOTS {
            Relief::Roots
        } else if share < STANDBYS || (share < STANDBYS_AMID_STALLS && self.stalls >= STALLS) {
            Relief::Standbys
        } else {
            Relief::Nothing
        }
    }

    pub(super) fn is_enough(&self) -> bool {
        self.share() >= ENOUGH && self.relief() == Relief::Nothing
    }

    /// In words, for `status` and the log.
    pub(super) fn describe(&self) -> String {
        let whose = if self.is_group {
            "the control group"
        } else {
            "the machine"
        };
        format!(
            "{:.0} of {:.0} MiB of {whose} are available",
            self.available as f64 / f64::from(1 << 20),
            self.whole as f64 / f64::from(1 << 20),
        )
    }
}

/// Where to read.
#[derive(Debug, Clone)]
pub(super) struct Gauge {
    proc: PathBuf,
    /// The control group of this process and those above it.
    groups: Vec<PathBuf>,
}

impl Gauge {
    /// That of this process.
    pub(super) fn of_this_process() -> Self {
        Self::at(Path::new("/proc"), Path::new("/sys/fs/cgroup"))
    }

    pub(super) fn at(proc: &Path, cgroups: &Path) -> Self {
        let own = fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
        let mut groups = Vec::new();
        for line in own.lines() {
            // `4:memory:/path` in the first version, `0::/path` in the second.
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
                continue;
            };
            let base = if controllers.is_empty() {
                cgroups.to_path_buf()
            } else if controllers.split(',').any(|name| name == "memory") {
                cgroups.join("memory")
            } else {
                continue;
            };
            let path = Path::new(path.trim_start_matches('/'));
            // (Those of a container may be named as the host sees them: what is not there has no
            // limit.)
            groups.extend(path.ancestors().map(|group| base.join(group)));
        }
        Self {
            proc: proc.to_path_buf(),
            groups,
        }
    }

    /// One that finds memory enough.
    #[cfg(test)]
    pub(super) fn blind() -> Self {
        Self::at(Path::new("/nowhere"), Path::new("/nowhere"))
    }

    /// `None` if nothing can be told.
    pub(super) fn read(&self) -> Option<Reading> {
        let stalls = fs::read_to_string(self.proc.join("pressure/memory"));
        let stalls = stalls.map_or(0.0, |text| stalls_of(&text));
        let machine = fs::read_to_string(self.proc.join("meminfo"))
            .ok()
            .and_then(|text| {
                let field = |name| Some(field(&text, name)? << 10);
                Some((field("MemAvailable:")?, field("MemTotal:")?, false))
            });
        let groups = self.groups.iter().filter_map(|group| {
            let whole = limit_of(group)?;
            let used = number(group, &["memory.current", "memory.usage_in_bytes"])?;
            let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
            let of_files = |kind: &str| {
                let with_those_below = field(&stat, &format!("total_{kind}"));
                with_those_below.or_else(|| field(&stat, kind)).unwrap_or(0)
            };
            let files = of_files("inactive_file") + of_files("active_file");
            let available = whole.saturating_sub(used.saturating_sub(files));
            Some((available, whole, true))
        });
        let readings = machine.into_iter().chain(groups);
        readings
            .map(|(available, whole, is_group)| Reading {
                available,
                whole,
                is_group,
                stalls,
            })
            .min_by(|one, other| one.share().total_cmp(&other.share()))
    }
}

/// In bytes, if there is a limit: without one files say `max`, or more than any machine has.
fn limit_of(group: &Path) -> Option<u64> {
    const UNLIMITED: u64 = 1 << 60;
    let names = ["memory.max", "memory.high", "memory.limit_in_bytes"];
    let limits = names.iter().filter_map(|name| number(group, &[name]));
    limits.filter(|limit| *limit < UNLIMITED).min()
}

/// The number in the first of these files that there is.
fn number(group: &Path, names: &[&str]) -> Option<u64> {
    let mut texts = names
        .iter()
        .filter_map(|name| fs::read_to_string(group.join(name)).ok());
    texts.next()?.trim().parse().ok()
}

/// The number behind this name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let mut words = text
        .lines()
        .map(str::split_whitespace)
        .find_map(|mut words| (words.next() == Some(name)).then_some(words))?;
    words.next()?.parse().ok()
}

/// `some avg10=1.23 avg60=…`
fn stalls_of(text: &str) -> f64 {
    let some = text.lines().find(|line| line.starts_with("some "));
    let average = some.and_then(|line| {
        line.split_whitespace()
            .find_map(|word| word.strip_prefix("avg10="))
    });
    average.and_then(|text| text.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(base: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = base.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    fn machine(available_mib: u64, stalls: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let meminfo = format!(
            "MemTotal: {} kB\nMemFree: 1 kB\nMemAvailable: {} kB\n",
            1000 << 10,
            available_mib << 10
        );
        let pressure = format!("some avg10={stalls} avg60=0.00 avg300=0.00 total=1\nfull avg10=0");
        write(
            dir.path(),
            &[("meminfo", &meminfo), ("pressure/memory", &pressure)],
        );
        dir
    }

    #[test]
    fn the_less_there_is_the_more_goes() {
        for (available, stalls, relief) in [
            (900, "0.00", Relief::Nothing),
            (900, "80.00", Relief::Nothing),
            (190, "0.00", Relief::Nothing),
            (190, "12.00", Relief::Standbys),
            (110, "0.00", Relief::Nothing),
            (90, "0.00", Relief::Standbys),
            (60, "0.00", Relief::Roots),
            (30, "0.00", Relief::Checkpoints),
        ] {
            let proc = machine(available, stalls);
            let reading = Gauge::at(proc.path(), Path::new("/nowhere"))
                .read()
                .unwrap();
            assert_eq!(reading.relief(), relief, "{available} {stalls}");
            assert_eq!(
                reading.is_enough(),
                available >= 150 && relief == Relief::Nothing
            );
        }
    }

    #[test]
    fn the_group_that_has_least_counts() {
        for (own, base, limit, usage) in [
            ("0::/a/b\n", "", "memory.max", "memory.current"),
            (
                "3:cpu:/\n4:memory:/a/b\n0::/\n",
                "memory/",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
            ),
        ] {
            let proc = machine(900, "0.00");
            write(proc.path(), &[("self/cgroup", own)]);
            let groups = tempfile::tempdir().unwrap();
            let file = |group: &str, name: &str| format!("{base}{group}{name}");
            let mib = |count: u64| format!("{}\n", count << 20);
            let stat = format!(
                "anon 1\ninactive_file {}\nactive_file {}\n",
                20 << 20,
                20 << 20
            );
            write(
                groups.path(),
                &[
                    (&file("a/", limit), &mib(200)),
                    (&file("a/", usage), &mib(195)),
                    (&file("a/", "memory.stat"), &stat),
                    (&file("a/b/", limit), "max\n"),
                    (&file("a/b/", usage), &mib(190)),
                ],
            );
            let gauge = Gauge::at(proc.path(), groups.path());
            let reading = gauge.read().unwrap();
            assert_eq!(
                reading.describe(),
                "45 of 200 MiB of the control group are available"
            );
            assert_eq!(reading.relief(), Relief::Nothing);
            write(groups.path(), &[(&file("a/", usage), &mib(235))]);
            assert_eq!(gauge.read().unwrap().relief(), Relief::Checkpoints);
        }
    }

    #[test]
    fn without_a_word_from_the_kernel_nothing_is_known() {
        assert_eq!(Gauge::blind().read(), None);
    }

    #[test]
    fn this_machine_can_be_read() {
        assert!(Gauge::of_this_process().read().is_some());
    }
}

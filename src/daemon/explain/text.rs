//! An explanation for people who read.

use std::fmt::Write as _;

use console::{Style, StyledObject};

use super::super::dispatcher::wall_clock;
use super::super::history::{Incident, Record};
use super::super::status::{memory, show_output, span};
use super::document::{Branch, Explanation, Imports, Natural, Tree};
use crate::protocol::Ahead;

/// Packages that are named of each checkpoint.
const PACKAGES: usize = 6;
/// A screen of what happened.
const INCIDENTS: usize = 10;

struct Styles {
    dim: Style,
    bold: Style,
    good: Style,
    bad: Style,
    other: Style,
}

impl Styles {
    fn new(colour: bool) -> Self {
        let of = |style: Style| style.force_styling(colour);
        Self {
            dim: of(Style::new().dim()),
            bold: of(Style::new().bold()),
            good: of(Style::new().green()),
            bad: of(Style::new().red()),
            other: of(Style::new().yellow()),
        }
    }

    fn state<'a>(&self, state: &'a str) -> StyledObject<&'a str> {
        let style = match state {
            "ready" => &self.good,
            "failed" => &self.bad,
            _ => &self.other,
        };
        style.apply_to(state)
    }
}

impl Explanation {
    /// `colour`: the output is a terminal that shows it.
    pub(super) fn render(&self, colour: bool) -> String {
        let styles = Styles::new(colour);
        let mut text = String::new();
        // Writing to a `String` cannot fail.
        let out = &mut text;
        let _ = writeln!(out, "{}", styles.bold.apply_to(self.project.display()));
        let _ = writeln!(out, "  python   {}", self.python.display());
        let _ = writeln!(out, "  daemon   pid {}", self.pid);
        if let Some(asked) = &self.asked {
            let _ = writeln!(out, "  asked    {}", asked.argv.join(" "));
            let pid = asked.pid.map(|pid| format!(", pid {pid}"));
            let pid = pid.unwrap_or_default();
            let answer = match &asked.checkpoint {
                Some(level) if asked.certain => format!("would be served by {level}{pid}"),
                Some(level) => format!("would be tried with {level}{pid}, else with what it is in"),
                None => "would be plain pytest".into(),
            };
            let why = asked.why.as_ref();
            let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
            let _ = writeln!(out, "  answer   {answer}{}", styles.dim.apply_to(why));
        }
        for tree in &self.roots {
            tree.render(out, &styles);
        }
        self.render_not_preloaded(out, &styles);
        self.render_incidents(out, &styles);
        self.render_runs(out, &styles);
        text
    }

    fn render_not_preloaded(&self, out: &mut String, styles: &Styles) {
        let _ = writeln!(out, "\n  not preloaded, and why");
        for module in &self.distrusted {
            let _ = writeln!(out, "    {module}  distrusted: each run imports it itself");
        }
        let mut is_empty = self.distrusted.is_empty();
        for tree in &self.roots {
            tree.each(&mut |branch| {
                if let Some(why) = &branch.not_deeper {
                    is_empty = false;
                    let _ = writeln!(out, "    below {}  {why}", branch.level);
                }
            });
            for kind in &tree.missing {
                is_empty = false;
                let _ = writeln!(out, "    no {}  {}", kind.level, kind.why);
                let shape = format!("for: {}", kind.shape);
                let _ = writeln!(out, "        {}", styles.dim.apply_to(shape));
                show_output(out, kind.output.as_deref(), &styles.dim);
            }
        }
        let mut told = Vec::new();
        for run in self.runs.iter().rev() {
            let hidden = match &run.ahead {
                Some(Ahead::Natural(why)) => {
                    Some(format!("what was imported ahead was not used: {why}"))
                }
                _ => None,
            };
            let deeper = run.why.as_ref().map(|why| match &run.checkpoint {
                Some(level) => format!("nothing below {level} served it: {why}"),
                None => format!("plain pytest: {why}"),
            });
            for reason in [hidden, deeper].into_iter().flatten() {
                if !told.contains(&reason) {
                    is_empty = false;
                    let _ = writeln!(out, "    a run  {reason}");
                    let argv = format!("{} ago: {}", ago(run.started), shown(&run.argv));
                    let _ = writeln!(out, "        {}", styles.dim.apply_to(argv));
                    told.push(reason);
                }
            }
        }
        for natural in &self.natural {
            is_empty = false;
            natural.render(out, styles);
        }
        if is_empty {
            let _ = writeln!(out, "    nothing is known");
        }
    }

    fn render_incidents(&self, out: &mut String, styles: &Styles) {
        let mut incidents: Vec<&Incident> =
            self.roots.iter().flat_map(|it| &it.incidents).collect();
        if incidents.is_empty() {
            return;
        }
        incidents.sort_by(|a, b| b.at.total_cmp(&a.at));
        let _ = writeln!(out, "\n  what ended checkpoints, or kept them from being");
        for incident in incidents.iter().take(INCIDENTS) {
            let times = match incident.times {
                1 => String::new(),
                times => format!(" ({times} times)"),
            };
            let along = match incident.along.as_slice() {
                [] => String::new(),
                along => format!("; with it {}", along.join(", ")),
            };
            let _ = writeln!(
                out,
                "    {:>12}  {} {}: {}{along}{times}",
                format!("{} ago", ago(incident.at)),
                incident.level,
                styles.other.apply_to(incident.kind.in_words()),
                incident.why,
            );
        }
    }

    fn render_runs(&self, out: &mut String, styles: &Styles) {
        if self.runs.is_empty() {
            return;
        }
        let warm = self.runs.iter().filter(|run| run.checkpoint.is_some());
        let spared: f64 = self.runs.iter().filter_map(|run| run.spared).sum();
        let count = self.runs.len();
        let _ = writeln!(
            out,
            "\n  last {}: {} warm, about {} spared in all",
            if count == 1 {
                "run".into()
            } else {
                format!("{count} runs")
            },
            warm.count(),
            seconds(spared),
        );
        let note = "an estimate: what the imports of their checkpoints took, less what it took \
                    to watch them";
        let _ = writeln!(out, "    {}", styles.dim.apply_to(note));
        for run in self.runs.iter().rev() {
            let _ = writeln!(out, "{}", run_line(run));
        }
    }
}

fn run_line(run: &Record) -> String {
    let how = match &run.checkpoint {
        Some(level) => format!("warm {level}"),
        None => "plain".into(),
    };
    let took = run.seconds.map_or_else(|| "-".into(), seconds);
    let spared = run.spared.map_or_else(
        || "-".into(),
        |spared| format!("spared about {}", seconds(spared)),
    );
    format!(
        "    {:>12}  {how:<7}  {took:>9}  {spared:<21}  {}",
        format!("{} ago", ago(run.started)),
        shown(&run.argv),
    )
}

fn shown(argv: &[String]) -> String {
    if argv.is_empty() {
        "(no arguments)".into()
    } else {
        argv.join(" ")
    }
}

impl Tree {
    fn each<'a>(&'a self, visit: &mut impl FnMut(&'a Branch)) {
        for branch in &self.checkpoints {
            branch.each(visit);
        }
    }

    fn render(&self, out: &mut String, styles: &Styles) {
        let why = self.why.as_ref();
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        let id = styles.dim.apply_to(&self.id);
        let _ = writeln!(out, "\n  root {id}  {}{why}", styles.state(&self.state));
        for branch in &self.checkpoints {
            branch.render(out, styles, 0);
        }
    }
}

impl Branch {
    pub(super) fn each<'a>(&'a self, visit: &mut impl FnMut(&'a Self)) {
        visit(self);
        for deeper in &self.deeper {
            deeper.each(visit);
        }
    }

    fn render(&self, out: &mut String, styles: &Styles, depth: usize) {
        let indent = " ".repeat(4 + 3 * depth);
        let hook = if depth == 0 { "" } else { "└ " };
        let margin = format!("{indent}{}    ", " ".repeat(hook.chars().count()));
        let pid = self.pid.map_or_else(|| "-".into(), |pid| pid.to_string());
        let mut facts = vec![format!("pid {pid}")];
        if self.pss_kib.is_some() {
            facts.push(memory(self.pss_kib));
        }
        let has_parked = self.state != "starting" && self.modules > 0;
        if has_parked {
            facts.push(format!("built in {}", seconds(self.build_seconds)));
        }
        facts.push(format!("{} old", span(self.age_seconds)));
        facts.push(plural(self.served as usize, "run"));
        let _ = writeln!(
            out,
            "{indent}{hook}{}  {}  {}",
            styles.bold.apply_to(&self.level),
            styles.state(&self.state),
            facts.join(", "),
        );
        let mut line = |text: String| {
            let _ = writeln!(out, "{margin}{}", styles.dim.apply_to(text));
        };
        if let Some(shape) = &self.shape {
            line(format!("for: {shape}"));
        }
        if let Some(why) = &self.leaves {
            line(format!("leaves: {why}"));
        }
        if has_parked {
            let what = if depth == 0 { "module" } else { "more module" };
            let added = plural(self.added as usize, what);
            line(format!("holds: {}; {added}", self.holds));
            line(self.imports.in_words());
            line(format!(
                "spares a run about {} (estimated)",
                seconds(self.spares_seconds)
            ));
        }
        for deeper in &self.deeper {
            deeper.render(out, styles, depth + 1);
        }
    }
}

impl Imports {
    fn in_words(&self) -> String {
        if !self.watched {
            return "imports: not measured one by one".into();
        }
        let named = self.packages.iter().take(PACKAGES).map(|it| {
            let count = plural(it.modules, "module");
            format!("{} {} ({count})", it.name, seconds(it.seconds))
        });
        let mut parts: Vec<String> = named.collect();
        let rest = self.package_count.saturating_sub(parts.len());
        if rest > 0 {
            parts.push(format!("{rest} more"));
        }
        let list = if parts.is_empty() {
            String::new()
        } else {
            format!(": {}", parts.join(", "))
        };
        let away = match self.away {
            0 => String::new(),
            away => format!("; {away} of them hidden or taken away again"),
        };
        let count = plural(self.count, "import");
        format!("{count}, {}{list}{away}", seconds(self.seconds))
    }
}

impl Natural {
    fn render(&self, out: &mut String, styles: &Styles) {
        let named = self.packages.iter().take(PACKAGES);
        let mut parts: Vec<String> = named
            .map(|(name, count)| match count {
                1 => name.clone(),
                count => format!("{name} ({count})"),
            })
            .collect();
        let rest = self.packages.len().saturating_sub(parts.len());
        if rest > 0 {
            parts.push(format!("{rest} more"));
        }
        let _ = writeln!(
            out,
            "    a run  imports {} itself, behind its checkpoint: {}",
            plural(self.modules, "module"),
            parts.join(", ")
        );
        let note =
            "looked for by test modules, fixtures and tests; what each takes is not recorded";
        let line = format!("{}; {note}", shown(&self.argv));
        let _ = writeln!(out, "        {}", styles.dim.apply_to(line));
    }
}

fn ago(at: f64) -> String {
    span((wall_clock() - at).max(0.0))
}

/// With as many digits as say something.
pub(super) fn seconds(seconds: f64) -> String {
    match seconds * 1e3 {
        ms if ms < 9.95 => format!("{ms:.1} ms"),
        ms if ms < 999.5 => format!("{ms:.0} ms"),
        _ => format!("{seconds:.2} s"),
    }
}

pub(super) fn plural(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

//! The comparison of plain and warm runs: a difference is what all plain runs agree in and no warm
//! run has.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

/// What is compared, in the order in which it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Group {
    Status,
    Outcomes,
    Order,
    Collection,
    Warnings,
    Modules,
    ImportOrder,
    Namespaces,
    Stdout,
    Stderr,
    Files,
}

impl Group {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Status => "exit status",
            Self::Outcomes => "outcomes",
            Self::Order => "order of tests",
            Self::Collection => "collection",
            Self::Warnings => "warnings",
            Self::Modules => "imported modules",
            Self::ImportOrder => "order of imports",
            Self::Namespaces => "module contents",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Files => "files",
        }
    }
}

/// What a value belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// Of those that come and go together: where plain runs have other ones each time, a new one
    /// in the warm run says nothing.
    pub(super) family: String,
    pub(super) name: String,
}

pub(super) type Map = BTreeMap<Key, String>;

/// What one run showed in one respect.
#[derive(Debug)]
pub(super) enum Aspect {
    /// Each value is compared by itself.
    Map(Map),
    /// Of those that all runs have, the order is compared.
    Order(Vec<String>),
    /// Lines of text.
    Text(String),
}

pub(super) type Facts = BTreeMap<Group, Aspect>;

/// What the comparison came to in one respect.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) group: &'static str,
    /// Lines for people.
    pub(super) differences: Vec<String>,
    /// In what plain runs differ among themselves.
    pub(super) unstable: Vec<String>,
    /// In what one warm run was like plain pytest and another was not.
    pub(super) wavering: Vec<String>,
}

impl Finding {
    pub(super) fn is_empty(&self) -> bool {
        self.differences.is_empty() && self.unstable.is_empty() && self.wavering.is_empty()
    }
}

/// Compares at least one run of each kind. Only what has something to say is in the answer.
pub(super) fn compare(plain: &[Facts], warm: &[Facts]) -> Vec<Finding> {
    let groups: BTreeSet<Group> = plain
        .iter()
        .chain(warm)
        .flat_map(|facts| facts.keys().copied())
        .collect();
    groups
        .into_iter()
        .map(|group| Finding {
            group: group.title(),
            ..compare_group(group, plain, warm)
        })
        .filter(|finding| !finding.is_empty())
        .collect()
}

fn compare_group(group: Group, plain: &[Facts], warm: &[Facts]) -> Finding {
    let of = |runs: &'_ [Facts]| -> Vec<usize> {
        (0..runs.len())
            .filter(|at| runs[*at].contains_key(&group))
            .collect()
    };
    if of(plain).len() < plain.len() || of(warm).len() < warm.len() {
        // That the witness has nothing to say shows in the status.
        return Finding::default();
    }
    let plain: Vec<&Aspect> = plain.iter().map(|facts| &facts[&group]).collect();
    let warm: Vec<&Aspect> = warm.iter().map(|facts| &facts[&group]).collect();
    match plain[0] {
        Aspect::Map(_) => compare_maps(&maps(&plain), &maps(&warm)),
        Aspect::Order(_) => compare_orders(&orders(&plain), &orders(&warm)),
        Aspect::Text(_) => compare_texts(&texts(&plain), &texts(&warm)),
    }
}

fn maps<'a>(runs: &[&'a Aspect]) -> Vec<&'a Map> {
    let map = |run: &&'a Aspect| match run {
        Aspect::Map(map) => Some(map),
        _ => None,
    };
    runs.iter().filter_map(map).collect()
}

fn orders<'a>(runs: &[&'a Aspect]) -> Vec<&'a [String]> {
    let order = |run: &&'a Aspect| match run {
        Aspect::Order(order) => Some(order.as_slice()),
        _ => None,
    };
    runs.iter().filter_map(order).collect()
}

fn texts<'a>(runs: &[&'a Aspect]) -> Vec<Vec<&'a str>> {
    let text = |run: &&'a Aspect| match run {
        Aspect::Text(text) => Some(text.lines().collect()),
        _ => None,
    };
    runs.iter().filter_map(text).collect()
}

fn compare_maps(plain: &[&Map], warm: &[&Map]) -> Finding {
    let mut finding = Finding::default();
    let keys: BTreeSet<&Key> = plain.iter().chain(warm).flat_map(|m| m.keys()).collect();
    let (stable, unstable): (Vec<&Key>, Vec<&Key>) = keys
        .into_iter()
        .partition(|key| plain.iter().all(|map| map.get(key) == plain[0].get(key)));
    let churning: BTreeSet<&str> = unstable
        .iter()
        .filter(|key| plain.iter().any(|map| !map.contains_key(key)))
        .map(|key| key.family.as_str())
        .collect();
    finding.unstable = unstable.iter().map(|key| key.name.clone()).collect();
    for key in stable {
        let expected = plain[0].get(key);
        let others = warm.iter().filter(|map| map.get(key) != expected);
        match others.count() {
            0 => {}
            _ if expected.is_none() && churning.contains(key.family.as_str()) => {}
            count if count == warm.len() => {
                let got = warm.last().and_then(|map| map.get(key));
                let (expected, got) = (expected.map(String::as_str), got.map(String::as_str));
                finding
                    .differences
                    .push(format!("{}: {}", key.name, contrast(expected, got)));
            }
            _ => finding.wavering.push(key.name.clone()),
        }
    }
    finding
}

/// What two values differ in, on one line: of longer ones the first lines that differ.
fn contrast(plain: Option<&str>, warm: Option<&str>) -> String {
    let line = |own: Option<&str>, other: Option<&str>| match own {
        None => "nothing".to_owned(),
        Some(own) => {
            let mut others = other.unwrap_or_default().lines();
            let lines = own.lines().find(|line| Some(*line) != others.next());
            match lines {
                Some(line) => format!("`{}`", line.trim()),
                None if own.is_empty() => "``".into(),
                None => "the end".into(),
            }
        }
    };
    format!("plain {}, warm {}", line(plain, warm), line(warm, plain))
}

fn compare_orders(plain: &[&[String]], warm: &[&[String]]) -> Finding {
    let mut finding = Finding::default();
    let mut everywhere: BTreeSet<&str> = plain[0].iter().map(String::as_str).collect();
    for run in plain.iter().chain(warm) {
        let names: BTreeSet<&str> = run.iter().map(String::as_str).collect();
        everywhere.retain(|name| names.contains(name));
    }
    let common = |run: &'_ [String]| -> Vec<String> {
        run.iter()
            .filter(|name| everywhere.contains(name.as_str()))
            .cloned()
            .collect()
    };
    let expected = common(plain[0]);
    if let Some(other) = plain.iter().map(|run| common(run)).find(|o| *o != expected) {
        finding.unstable.push(parting(&expected, &other));
        return finding;
    }
    let others: Vec<_> = warm.iter().map(|run| common(run)).collect();
    let differing: Vec<_> = others.iter().filter(|order| **order != expected).collect();
    if let Some(other) = differing.last() {
        let into = if differing.len() == warm.len() {
            &mut finding.differences
        } else {
            &mut finding.wavering
        };
        into.push(parting(&expected, other));
    }
    finding
}

/// Where two orders of the same things begin to differ.
fn parting(plain: &[String], other: &[String]) -> String {
    let at = plain.iter().zip(other).take_while(|(a, b)| a == b).count();
    let name = |order: &[String]| match order.get(at) {
        Some(name) => format!("`{name}`"),
        None => "the end".into(),
    };
    let place = match at.checked_sub(1) {
        Some(before) => format!("after `{}`", plain[before]),
        None => "first".into(),
    };
    format!("{place} comes {}, not {}", name(other), name(plain))
}

fn compare_texts(plain: &[Vec<&str>], warm: &[Vec<&str>]) -> Finding {
    let mut finding = Finding::default();
    if plain.iter().all(|text| *text == plain[0]) {
        let differing: Vec<_> = warm.iter().filter(|text| **text != plain[0]).collect();
        let into = if differing.len() == warm.len() {
            &mut finding.differences
        } else {
            &mut finding.wavering
        };
        if let Some(other) = differing.last() {
            *into = line_changes(&plain[0], other);
        }
        return finding;
    }
    // Line by line: what all plain runs have and no warm one has. Of lines that are not there each
    // time, the warm runs have others again.
    let in_all = |line: &&str| plain.iter().all(|text| text.contains(line));
    let unstable: BTreeSet<&str> = plain
        .iter()
        .flatten()
        .copied()
        .filter(|line| !in_all(line))
        .collect();
    finding.unstable = unstable.iter().map(|line| (*line).to_owned()).collect();
    if finding.unstable.is_empty() {
        finding.unstable.push("the order of lines".into());
    }
    let shapes: BTreeSet<String> = unstable.iter().map(|line| shape(line)).collect();
    for line in plain[0].iter().filter(|line| in_all(line)) {
        if !warm.iter().any(|text| text.contains(line)) && !shapes.contains(&shape(line)) {
            finding.differences.push(format!("- {line}"));
        }
    }
    finding
}

/// A line without its numbers.
fn shape(line: &str) -> String {
    line.chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect()
}

/// Lines that only one of two texts has, in order; or that it is their order that differs.
fn line_changes(plain: &[&str], warm: &[&str]) -> Vec<String> {
    let counts = |text: &[&str]| {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for line in text {
            *counts.entry((*line).to_owned()).or_default() += 1;
        }
        counts
    };
    let beyond = |text: &[&str], mut known: BTreeMap<String, usize>, mark: &str| {
        let mut more = Vec::new();
        for line in text {
            match known.get_mut(*line) {
                Some(left) if *left > 0 => *left -= 1,
                _ => more.push(format!("{mark} {line}")),
            }
        }
        more
    };
    let mut changes = beyond(plain, counts(warm), "-");
    changes.extend(beyond(warm, counts(plain), "+"));
    if changes.is_empty() {
        let owned = |text: &[&str]| text.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>();
        changes.push(parting(&owned(plain), &owned(warm)));
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, &str)]) -> Map {
        let entry = |(name, value): &(&str, &str)| {
            let family = name.split('.').next().unwrap_or_default().to_owned();
            let name = (*name).to_owned();
            (Key { family, name }, (*value).to_owned())
        };
        entries.iter().map(entry).collect()
    }

    fn order(names: &str) -> Vec<String> {
        names.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_difference_is_what_plain_runs_agree_in() {
        let plain = [
            &map(&[("m.a", "1"), ("m.b", "1"), ("m.c", "1")]),
            &map(&[("m.a", "1"), ("m.b", "2"), ("m.c", "1")]),
        ];
        let warm = map(&[("m.a", "2"), ("m.b", "3"), ("m.d", "1")]);
        let finding = compare_maps(&plain, &[&warm]);
        assert_eq!(
            finding.differences,
            [
                "m.a: plain `1`, warm `2`",
                "m.c: plain `1`, warm nothing",
                "m.d: plain nothing, warm `1`"
            ]
        );
        assert_eq!(finding.unstable, ["m.b"]);
        let again = compare_maps(&plain, &[&warm, &map(&[("m.a", "1"), ("m.d", "1")])]);
        assert_eq!(again.wavering, ["m.a"]);
    }

    #[test]
    fn where_names_are_random_a_new_one_says_nothing() {
        let plain = [&map(&[("m.x", "1")]), &map(&[("m.y", "1")])];
        let warm = map(&[("m.z", "1"), ("n.z", "1")]);
        let finding = compare_maps(&plain, &[&warm]);
        assert_eq!(finding.differences, ["n.z: plain nothing, warm `1`"]);
    }

    #[test]
    fn of_orders_the_first_parting_is_told() {
        let (a, b) = (order("a b c"), order("a x c b"));
        let finding = compare_orders(&[&a, &a], &[&b]);
        assert_eq!(finding.differences, ["after `a` comes `c`, not `b`"]);
        let finding = compare_orders(&[&a, &order("b a c")], &[&b]);
        assert_eq!(finding.unstable, ["first comes `b`, not `a`"]);
        assert!(finding.differences.is_empty());
    }

    #[test]
    fn lines_are_compared_one_by_one_where_plain_runs_differ() {
        let text = |text: &'static str| text.lines().collect::<Vec<_>>();
        let plain = [text("a\nseed 12\nb"), text("a\nseed 34\nb")];
        let finding = compare_texts(&plain, &[text("seed 56\nb")]);
        assert_eq!(finding.differences, ["- a"]);
        assert_eq!(finding.unstable, ["seed 12", "seed 34"]);
        let finding = compare_texts(&[text("a\nb\nb")], &[text("b\na\nc")]);
        assert_eq!(finding.differences, ["- b", "+ c"]);
        let finding = compare_texts(&[text("a\nb")], &[text("b\na")]);
        assert_eq!(finding.differences, ["first comes `b`, not `a`"]);
    }

    #[test]
    fn of_long_values_the_first_lines_that_differ_are_told() {
        let told = contrast(Some("failed\nat 1\nx"), Some("failed\nat 2\ny"));
        assert_eq!(told, "plain `at 1`, warm `at 2`");
        assert_eq!(contrast(Some("a"), Some("a\nb")), "plain the end, warm `b`");
    }
}

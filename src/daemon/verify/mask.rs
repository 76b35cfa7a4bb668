//! Takes out of a text what two runs of the same thing differ in: times, addresses, numbers of
//! processes, names of temporary directories. Whatever stays is compared.

/// A word before a number which says that the number is a time.
const TIME_WORDS: [&str; 8] = [
    "time", "duration", "created", "start", "stop", "elapsed", "finish", "date",
];

const TIME_UNITS: [&str; 10] = [
    "s", "ms", "us", "µs", "ns", "sec", "secs", "second", "seconds", "min",
];

/// As many digits as an address has that is written in hexadecimal, or more.
const ADDRESS_DIGITS: usize = 6;

/// The text with words in capitals in their place.
pub(super) fn mask(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let begins_word = !masked.chars().next_back().is_some_and(is_word);
        let found = if begins_word {
            temporary(rest)
                .or_else(|| address(rest))
                .or_else(|| numbered(rest))
                .or_else(|| moment(rest))
                .or_else(|| duration(&masked, rest))
        } else {
            None
        }
        .or_else(|| rule(rest));
        let (word, length) = match &found {
            Some((word, length)) => (word.as_str(), *length),
            None => (&rest[..first.len_utf8()], first.len_utf8()),
        };
        masked.push_str(word);
        rest = &rest[length..];
    }
    masked
}

/// What stands for the beginning of a text, and how long that beginning is.
type Found = Option<(String, usize)>;

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn count(text: &str, wanted: impl Fn(u8) -> bool) -> usize {
    text.bytes().take_while(|byte| wanted(*byte)).count()
}

fn digits(text: &str) -> usize {
    count(text, |byte| byte.is_ascii_digit())
}

/// No letter, digit or underscore follows.
fn ends(text: &str) -> bool {
    !text.chars().next().is_some_and(is_word)
}

/// `tmpa1b2c3d4` of `tempfile`, `pytest-of-me/pytest-12` of `tmp_path`.
fn temporary(text: &str) -> Found {
    if let Some(after) = text.strip_prefix("pytest-of-") {
        let user = count(after, |b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        let mut length = "pytest-of-".len() + user;
        let mut word = "pytest-of-USER".to_owned();
        if let Some(number) = text[length..].strip_prefix("/pytest-") {
            length += "/pytest-".len() + digits(number);
            word.push_str("/pytest-N");
        }
        return Some((word, length));
    }
    let after = text.strip_prefix("tmp")?;
    let name = count(after, |b| {
        b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'
    });
    (name == 8 && ends(&after[name..])).then(|| ("tmpNAME".into(), "tmp".len() + name))
}

/// `0x7f12ab34cd56`, and the same in decimal.
fn address(text: &str) -> Found {
    if let Some(after) = text.strip_prefix("0x") {
        let length = count(after, |byte| byte.is_ascii_hexdigit());
        // pytest cuts long lines short, in the middle of one too.
        let is_cut = after[length..].starts_with("...");
        return (length >= ADDRESS_DIGITS || is_cut).then(|| ("0xADDRESS".into(), 2 + length));
    }
    let length = digits(text);
    (length == 15 && text.starts_with('1') && ends(&text[length..]))
        .then(|| ("ADDRESS".into(), length))
}

/// `pid 12`, `pid=12`, `Thread-3`.
fn numbered(text: &str) -> Found {
    let (word, between): (&str, &[u8]) = if text.get(..3)?.eq_ignore_ascii_case("pid") {
        (&text[..3], b" =:")
    } else if text.starts_with("Thread-") {
        ("Thread", b"-")
    } else {
        return None;
    };
    let after = &text[word.len()..];
    let gap = count(after, |byte| between.contains(&byte));
    let number = digits(&after[gap..]);
    (gap > 0 && number > 0).then(|| {
        let shown = &text[..word.len() + gap];
        (format!("{shown}N"), shown.len() + number)
    })
}

/// Whether the text begins like this; `0` stands for a digit.
fn looks_like(text: &str, pattern: &str) -> bool {
    text.len() >= pattern.len()
        && text
            .bytes()
            .zip(pattern.bytes())
            .all(|(found, wanted)| found == wanted || (wanted == b'0' && found.is_ascii_digit()))
}

/// A fraction of a second.
fn fraction(text: &str) -> usize {
    text.strip_prefix(['.', ','])
        .map_or(0, digits)
        .checked_add(1)
        .filter(|length| *length > 1)
        .unwrap_or(0)
}

/// A date, a time of day, or both.
fn moment(text: &str) -> Found {
    if looks_like(text, "00000000_000000") {
        return Some(("DATE_TIME".into(), 15));
    }
    let clock = |text: &str| {
        ["00:00:00", "0:00:00"]
            .iter()
            .find(|pattern| looks_like(text, pattern))
            .map(|pattern| pattern.len() + fraction(&text[pattern.len()..]))
    };
    if !looks_like(text, "0000-00-00") {
        return clock(text).map(|length| ("TIME".into(), length));
    }
    let mut length = "0000-00-00".len();
    if let Some(more) = text[length..].strip_prefix(['T', ' ']).and_then(clock) {
        length += 1 + more;
        let zone = &text[length..];
        length += if zone.starts_with('Z') {
            1
        } else if looks_like(zone, "+00:00") || looks_like(zone, "-00:00") {
            6
        } else {
            0
        };
    }
    Some(("DATE".into(), length))
}

/// A number with a unit of time after it, or with a word for a time before it.
fn duration(before: &str, text: &str) -> Found {
    let whole = digits(text);
    if whole == 0 {
        return None;
    }
    let mut length = whole;
    if text[length..].starts_with('.') {
        length += fraction(&text[length..]);
    }
    if text[length..].starts_with("e-") {
        length += 2 + digits(&text[length + 2..]);
    }
    let after = &text[length..];
    let is_decimal = length > whole;
    let has_unit = TIME_UNITS.iter().any(|unit| {
        after
            .strip_prefix(' ')
            .unwrap_or(after)
            .strip_prefix(unit)
            .is_some_and(ends)
    });
    // Seconds or milliseconds since 1970.
    let is_epoch = matches!(whole, 10 | 13) && text.starts_with('1');
    let named = (is_decimal || is_epoch) && ends(after) && names_a_time(before);
    ((is_decimal && has_unit) || named).then(|| ("TIME".into(), length))
}

/// As in `time="`, `"duration": `.
fn names_a_time(before: &str) -> bool {
    let before = before.trim_end_matches([' ', ':', '=', '"', '\'']);
    let word: String = before
        .chars()
        .rev()
        .take_while(|c| is_word(*c))
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect();
    let word = word.to_lowercase();
    TIME_WORDS.iter().any(|time| word.contains(time))
}

/// pytest fills its rules up to the terminal's width: a longer time makes a shorter rule.
fn rule(text: &str) -> Found {
    let first = text.chars().next().filter(|c| "=-_".contains(*c))?;
    let length = text.bytes().take_while(|b| *b == first as u8).count();
    (length >= 3).then(|| (first.to_string().repeat(3), length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_varies_is_masked() {
        for (text, masked) in [
            ("==== 3 passed in 0.12s ====", "=== 3 passed in TIME s ==="),
            (
                "0.05s call     test_a.py::t",
                "TIME s call     test_a.py::t",
            ),
            ("<A object at 0x7f00aa11bb22>", "<A object at 0xADDRESS>"),
            (
                "assert <A object at 0x7f0...",
                "assert <A object at 0xADDRESS...",
            ),
            (
                "/tmp/pytest-of-me/pytest-12/t0",
                "/tmp/pytest-of-USER/pytest-N/t0",
            ),
            ("/tmp/tmpab12_z9q/x", "/tmp/tmpNAME/x"),
            ("pid=4711, PID: 12", "pid=N, PID: N"),
            (
                r#"time="0.003" timestamp="2026-01-02T03:04:05.678+00:00""#,
                r#"time="TIME" timestamp="DATE""#,
            ),
            (
                r#""duration": 1.5e-05, "start": 1700000000123"#,
                r#""duration": TIME, "start": TIME"#,
            ),
            ("took 0:00:12", "took TIME"),
            ("Thread-7 (run)", "Thread-N (run)"),
            ("plugin 140234567890123 is", "plugin ADDRESS is"),
        ] {
            assert_eq!(mask(text).replace("TIMEs", "TIME s"), masked, "{text}");
        }
    }

    #[test]
    fn everything_else_stays() {
        for text in [
            "assert 0.1 + 0.2 == 0.3",
            "test_a.py:12: AssertionError",
            "3 passed, 1 warning",
            "0x1f",
            "tmp_path tmpfile01",
            "times 3",
            "12345678901 — ünïcode",
            "rapid 5",
        ] {
            assert_eq!(mask(text), text);
        }
    }
}

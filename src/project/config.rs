//! `[tool.pyseidon]` of the project's `pyproject.toml`. Read by the daemon only: parsing TOML at
//! each run would cost the client more than everything else it does.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

/// Long enough for a meeting or a lunch not to cost a cold start, short enough that the hundreds
/// of megabytes of a project left in the morning are free by noon.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Overrides `idle_timeout`; mostly for tests.
const IDLE_VARIABLE: &str = "PYSEIDON_IDLE_TIMEOUT";

/// Whether runs are warm at all: the client looks at it.
const SWITCH_VARIABLE: &str = "PYSEIDON";

const SECONDS: &str = "a positive number of seconds is expected";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Without: every run is plain pytest.
    pub enabled: bool,
    /// The daemon leaves after this long without a run.
    pub idle_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            idle_timeout: IDLE_TIMEOUT,
        }
    }
}

impl Config {
    /// What the project says, and what of it could not be understood: lines for people. What is
    /// not understood keeps its default.
    pub fn read(root: &Path, env: &dyn Fn(&str) -> Option<OsString>) -> (Self, Vec<String>) {
        let mut config = Self::default();
        let mut warnings = Vec::new();
        let path = root.join("pyproject.toml");
        match fs::read_to_string(&path) {
            Ok(text) => config.take(&text, &mut warnings),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => warnings.push(format!("cannot read `{}`: {error}", path.display())),
        }
        match idle_variable(env) {
            Some(Ok(timeout)) => config.idle_timeout = timeout,
            Some(Err(warning)) => warnings.push(warning),
            None => {}
        }
        (config, warnings)
    }

    fn take(&mut self, text: &str, warnings: &mut Vec<String>) {
        let table = match text.parse::<toml::Table>() {
            Ok(table) => table,
            Err(error) => {
                let message = error.message();
                warnings.push(format!("`pyproject.toml` is not valid TOML: {message}"));
                return;
            }
        };
        let section = match table.get("tool").and_then(|tool| tool.get("pyseidon")) {
            None => return,
            Some(toml::Value::Table(section)) => section,
            Some(other) => {
                warnings.push(format!("`tool.pyseidon` is {other}: a table is expected"));
                return;
            }
        };
        for (name, value) in section {
            let expected = match (name.as_str(), value) {
                ("enabled", toml::Value::Boolean(on)) => {
                    self.enabled = *on;
                    continue;
                }
                ("enabled", _) => "`true` or `false` is expected",
                ("idle_timeout", value) => {
                    let number = match value {
                        toml::Value::Integer(number) => Some(*number as f64),
                        toml::Value::Float(number) => Some(*number),
                        _ => None,
                    };
                    if let Some(timeout) = number.and_then(seconds) {
                        self.idle_timeout = timeout;
                        continue;
                    }
                    SECONDS
                }
                _ => {
                    warnings.push(format!(
                        "`{name}` is no setting of `[tool.pyseidon]`; known are `enabled` and `idle_timeout`"
                    ));
                    continue;
                }
            };
            warnings.push(format!(
                "`{name}` in `[tool.pyseidon]` is {value}: {expected}"
            ));
        }
    }
}

/// What a caller's environment says to us and cannot be understood: lines for people.
pub fn misread_variables(env: &dyn Fn(&str) -> Option<OsString>) -> Vec<String> {
    let switch = set(env, SWITCH_VARIABLE)
        .filter(|value| value != "0" && value != "1")
        .map(|value| misread(SWITCH_VARIABLE, &value, "`0` or `1` is expected"));
    let idle = idle_variable(env).and_then(Result::err);
    switch.into_iter().chain(idle).collect()
}

fn idle_variable(env: &dyn Fn(&str) -> Option<OsString>) -> Option<Result<Duration, String>> {
    let value = set(env, IDLE_VARIABLE)?;
    let number = value.to_str().and_then(|text| text.parse().ok());
    let timeout = number.and_then(seconds);
    Some(timeout.ok_or_else(|| misread(IDLE_VARIABLE, &value, SECONDS)))
}

/// An empty variable counts as none, as everywhere.
fn set(env: &dyn Fn(&str) -> Option<OsString>, name: &str) -> Option<OsString> {
    env(name).filter(|value| !value.is_empty())
}

fn misread(name: &str, value: &OsStr, expected: &str) -> String {
    format!("`{name}` is {:?}: {expected}", value.to_string_lossy())
}

fn seconds(number: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(number)
        .ok()
        .filter(|duration| !duration.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, idle: Option<&str>) -> (Config, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("pyproject.toml"), text).unwrap();
        Config::read(dir.path(), &|_: &str| idle.map(Into::into))
    }

    #[test]
    fn what_is_said_is_taken() {
        let (config, warnings) = read(
            "[tool.pyseidon]\nidle_timeout = 2.5\nenabled = false\n[tool.other]\nx = 1\n",
            None,
        );
        assert!(warnings.is_empty(), "{warnings:?}");
        assert!(!config.enabled);
        assert_eq!(config.idle_timeout, Duration::from_millis(2500));
    }

    #[test]
    fn nothing_said_is_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let env = |_: &str| None;
        assert_eq!(Config::read(dir.path(), &env), (Config::default(), vec![]));
        assert_eq!(read("[project]\nname = 'x'\n", None).0, Config::default());
    }

    #[test]
    fn the_environment_goes_first() {
        let text = "[tool.pyseidon]\nidle_timeout = 5\n";
        assert_eq!(read(text, Some("7")).0.idle_timeout.as_secs(), 7);
        let (config, warnings) = read(text, Some("soon"));
        assert_eq!(config.idle_timeout.as_secs(), 5);
        let expected =
            "`PYSEIDON_IDLE_TIMEOUT` is \"soon\": a positive number of seconds is expected";
        assert_eq!(warnings, [expected]);
        let (config, warnings) = read(text, Some(""));
        assert_eq!((config.idle_timeout.as_secs(), warnings), (5, vec![]));
    }

    #[test]
    fn what_is_wrong_is_named_and_left_at_its_default() {
        for (text, word) in [
            (
                "[tool.pyseidon]\nidle_time = 5\n",
                "`idle_time` is no setting of `[tool.pyseidon]`",
            ),
            ("[tool.pyseidon]\nidle_timeout = -1\n", "is -1: a positive"),
            (
                "[tool.pyseidon]\nidle_timeout = '5'\n",
                "is \"5\": a positive",
            ),
            ("[tool.pyseidon]\nenabled = 1\n", "`true` or `false`"),
            ("[tool]\npyseidon = 3\n", "a table is expected"),
            ("[tool.pyseidon\n", "not valid TOML"),
        ] {
            let (config, warnings) = read(text, None);
            assert_eq!(config, Config::default());
            assert!(warnings[0].contains(word), "{warnings:?}");
        }
    }

    #[test]
    fn a_switch_is_off_or_on() {
        let of = |value: &str| {
            misread_variables(&|name| (name == SWITCH_VARIABLE).then(|| value.into()))
        };
        for value in ["", "0", "1"] {
            assert!(of(value).is_empty(), "{value}");
        }
        assert_eq!(
            of("maybe"),
            ["`PYSEIDON` is \"maybe\": `0` or `1` is expected"]
        );
    }
}

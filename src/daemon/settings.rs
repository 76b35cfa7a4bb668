//! `[tool.pyseidon]` as it is now.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::project::{Config, misread_variables};
use crate::protocol::Run;
use crate::trace::Signature;

/// A daemon that serves nobody goes soon: nothing is lost with it.
const DISABLED_TIMEOUT: Duration = Duration::from_secs(10);

/// What the project says, read again when its file changed.
#[derive(Debug)]
pub(super) struct Settings {
    root: PathBuf,
    signature: Option<Signature>,
    config: Config,
    /// What could not be understood: of the project's settings, and of the last run's.
    misread: Vec<String>,
    misread_in_run: Vec<String>,
}

impl Settings {
    pub(super) fn read(root: &Path) -> Self {
        let signature = Signature::of(&root.join("pyproject.toml"));
        let (config, misread) = Config::read(root, &|name| std::env::var_os(name));
        for warning in &misread {
            tracing::warn!("{warning}");
        }
        Self {
            root: root.to_path_buf(),
            signature,
            config,
            misread,
            misread_in_run: Vec::new(),
        }
    }

    pub(super) fn refresh(&mut self) {
        if Signature::of(&self.root.join("pyproject.toml")) != self.signature {
            let misread_in_run = std::mem::take(&mut self.misread_in_run);
            *self = Self {
                misread_in_run,
                ..Self::read(&self.root)
            };
        }
    }

    /// Looks at what a run's environment says to us: with that the daemon may not have started.
    pub(super) fn note_run(&mut self, run: &Run) {
        let found = misread_variables(&|name| {
            let value = run.getenv(name.as_bytes())?;
            Some(OsStr::from_bytes(value).to_owned())
        });
        for warning in &found {
            if !self.warnings().any(|known| known == warning) {
                tracing::warn!("{warning}");
            }
        }
        self.misread_in_run = found;
    }

    /// What could not be understood, each said once.
    pub(super) fn warnings(&self) -> impl Iterator<Item = &String> {
        let of_run = &self.misread_in_run;
        let others = of_run.iter().filter(|said| !self.misread.contains(said));
        self.misread.iter().chain(others)
    }

    pub(super) fn enabled(&self) -> bool {
        self.config.enabled
    }

    pub(super) fn idle_timeout(&self) -> Duration {
        if self.config.enabled {
            self.config.idle_timeout
        } else {
            DISABLED_TIMEOUT.min(self.config.idle_timeout)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::tests::fakes::run;

    #[test]
    fn an_edit_counts_from_the_next_run_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::read(dir.path());
        assert!(settings.enabled());
        let text = "[tool.pyseidon]\nenabled = false\n";
        std::fs::write(dir.path().join("pyproject.toml"), text).unwrap();
        settings.refresh();
        assert!(!settings.enabled());
        assert_eq!(settings.idle_timeout(), DISABLED_TIMEOUT);
    }

    #[test]
    fn what_is_misread_is_said_until_it_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        let write = |text| std::fs::write(dir.path().join("pyproject.toml"), text).unwrap();
        write("[tool.pyseidon]\ntypo = 1\n");
        let mut settings = Settings::read(dir.path());
        let mut odd = run();
        odd.env.insert(0, b"PYSEIDON=maybe".to_vec());
        settings.note_run(&odd);
        let said: Vec<_> = settings.warnings().collect();
        assert!(said[0].contains("`typo`") && said[1].contains("maybe"));
        write("[tool.pyseidon]\n");
        settings.refresh();
        assert_eq!(settings.warnings().count(), 1);
        settings.note_run(&run());
        assert_eq!(settings.warnings().count(), 0);
    }
}

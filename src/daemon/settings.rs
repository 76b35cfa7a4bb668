//! `[tool.pyseidon]` as it is now.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::project::Config;
use crate::trace::Signature;

/// A daemon that serves nobody goes soon: nothing is lost with it.
const DISABLED_TIMEOUT: Duration = Duration::from_secs(10);

/// What the project says, read again when its file changed.
#[derive(Debug)]
pub(super) struct Settings {
    root: PathBuf,
    signature: Option<Signature>,
    config: Config,
}

impl Settings {
    pub(super) fn read(root: &Path) -> Self {
        let signature = Signature::of(&root.join("pyproject.toml"));
        let (config, warnings) = Config::read(root, &|name| std::env::var_os(name));
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        Self {
            root: root.to_path_buf(),
            signature,
            config,
        }
    }

    pub(super) fn refresh(&mut self) {
        if Signature::of(&self.root.join("pyproject.toml")) != self.signature {
            *self = Self::read(&self.root);
        }
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
}

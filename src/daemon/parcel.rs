//! A run on its way: what it takes to hand it over.

use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};

use crate::error::Result;
use crate::protocol::{Order, Run};
use crate::transport::Connection;

/// What is needed to hand a run over, as often as it takes.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) client: Connection,
    /// The working directory, then the caller's descriptors.
    pub(super) fds: Vec<OwnedFd>,
    pub(super) run: Box<Run>,
    /// The client's process.
    pub(super) pid: i32,
}

impl Parcel {
    /// Orders a zygote to serve the run. Gives everything back, to be kept until the answer.
    pub(super) fn send(self, id: u64, zygote: &mut Connection) -> (Self, Result<()>) {
        let Self {
            client,
            fds,
            run,
            pid,
        } = self;
        // From here on the zygote and the worker use it, and they wait for it.
        let _ = client.set_nonblocking(false);
        let order = Order::Serve { id, run };
        let sent = {
            let own = fds.iter().map(AsFd::as_fd);
            let all: Vec<_> = std::iter::once(client.as_fd()).chain(own).collect();
            zygote.post(&order, &all)
        };
        let Order::Serve { run, .. } = order else {
            unreachable!("made above")
        };
        let parcel = Self {
            client,
            fds,
            run,
            pid,
        };
        (parcel, sent)
    }

    /// Whether the caller's descriptors 0, 1 and 2 are terminals.
    pub(super) fn terminals(&self) -> [bool; 3] {
        [0, 1, 2].map(|number| {
            let at = self.run.fds.iter().position(|fd| *fd == number);
            // The first descriptor is the working directory.
            at.and_then(|at| self.fds.get(at + 1))
                .is_some_and(IsTerminal::is_terminal)
        })
    }
}

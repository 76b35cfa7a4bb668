//! Connections on which no request has arrived yet. A slow or hostile one costs its place in the
//! table and nothing else: nothing here waits for it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{Error, Result};
use crate::protocol::{Hello, Request};
use crate::transport::{Connection, Filled};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClientId(pub(super) u64);

/// An honest client sends its request at once; one that was stopped by its terminal may take a
/// while. It falls back to plain pytest when it is let go.
const DELIVERY_LIMIT: Duration = Duration::from_secs(10);

/// Far more than people or editors start at once, and with 254 descriptors each the most that a
/// usual hard limit leaves room for.
const MOST: usize = 256;

/// A frame is at most 16 MiB and comes in pieces of 64 KiB; reading this many pieces in one go
/// keeps the loop's turns short.
const READS_PER_TURN: usize = 64;

#[derive(Debug)]
struct Client {
    connection: Connection,
    since: Instant,
}

#[derive(Debug)]
pub(super) struct Clients {
    hello: Hello,
    next: u64,
    table: BTreeMap<ClientId, Client>,
}

/// A request with what came along.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) request: Request,
    pub(super) fds: Vec<OwnedFd>,
    pub(super) connection: Connection,
    /// The process that sent it.
    pub(super) pid: i32,
}

impl Clients {
    pub(super) fn new(hello: Hello) -> Self {
        Self {
            hello,
            next: 0,
            table: BTreeMap::new(),
        }
    }

    /// Greets a new connection.
    pub(super) fn admit(&mut self, stream: UnixStream, now: Instant) -> Result<()> {
        let connection = Connection::new(stream);
        let uid = connection.peer()?.uid();
        if uid != nix::unistd::geteuid().as_raw() {
            return Err(Error::Other(format!("refused a connection of user {uid}")));
        }
        if self.table.len() >= MOST {
            return Err(Error::Other(format!(
                "refused a connection: {MOST} others have not said yet what they want"
            )));
        }
        connection.set_nonblocking(true)?;
        connection.send(&self.hello, &[])?;
        self.next += 1;
        self.table.insert(
            ClientId(self.next),
            Client {
                connection,
                since: now,
            },
        );
        Ok(())
    }

    /// Reads what has come. A request leaves the table together with its connection; so does a
    /// connection that ends or talks nonsense.
    pub(super) fn read(&mut self, id: ClientId) -> Result<Option<Delivery>> {
        let Some(client) = self.table.get_mut(&id) else {
            return Ok(None);
        };
        match read(&mut client.connection) {
            Ok(None) => Ok(None),
            Ok(Some((request, fds))) => {
                let connection = self.table.remove(&id).expect("found above").connection;
                let pid = connection.peer()?.pid();
                Ok(Some(Delivery {
                    request,
                    fds,
                    connection,
                    pid,
                }))
            }
            Err(error) => {
                self.table.remove(&id);
                Err(error)
            }
        }
    }

    /// Lets those go that have had their time.
    pub(super) fn expire(&mut self, now: Instant) {
        self.table.retain(|_, client| {
            let keep = now < client.since + DELIVERY_LIMIT;
            if !keep {
                tracing::warn!("a client said nothing for {DELIVERY_LIMIT:?}: let go");
            }
            keep
        });
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.table.values().map(|c| c.since + DELIVERY_LIMIT).min()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub(super) fn sockets(&self) -> impl Iterator<Item = (ClientId, BorrowedFd<'_>)> {
        self.table.iter().map(|(id, c)| (*id, c.connection.as_fd()))
    }
}

fn read(connection: &mut Connection) -> Result<Option<(Request, Vec<OwnedFd>)>> {
    for _ in 0..READS_PER_TURN {
        if let Some(frame) = connection.next_frame()? {
            let request: Request = frame.decode()?;
            let expected = match &request {
                Request::Run(run) => 1 + run.fds.len(),
                Request::Status | Request::Explain(_) | Request::Distrust(_) | Request::Stop => 0,
            };
            if frame.fds.len() != expected {
                return Err(Error::Malformed);
            }
            return Ok(Some((request, frame.fds)));
        }
        match connection.fill()? {
            Filled::Some => {}
            Filled::WouldBlock => return Ok(None),
            Filled::Eof => return Err(Error::Closed),
        }
    }
    Ok(None)
}

/// Ends a conversation for both sides and for everybody who holds a copy of this end: nothing can
/// be written to it any more.
pub(super) fn hang_up(connection: &Connection) {
    let _ = nix::sys::socket::shutdown(
        connection.stream().as_raw_fd(),
        nix::sys::socket::Shutdown::Both,
    );
}

/// True if the other side has closed its end, or the conversation was ended: a hang-up is always
/// reported.
pub(super) fn has_hung_up(connection: &Connection) -> bool {
    let mut fds = [PollFd::new(connection.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).unwrap_or(0) > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::tests::fakes::run;
    use std::io::Write;

    fn clients() -> Clients {
        Clients::new(Hello {
            version: crate::protocol::VERSION,
            pid: 1,
        })
    }

    fn admitted(clients: &mut Clients, now: Instant) -> (ClientId, Connection) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        clients.admit(ours, now).unwrap();
        let mut theirs = Connection::new(theirs);
        assert_eq!(theirs.receive().unwrap().decode::<Hello>().unwrap().pid, 1);
        (ClientId(clients.next), theirs)
    }

    #[test]
    fn a_request_takes_its_connection_out_of_the_table() {
        let mut clients = clients();
        let (id, theirs) = admitted(&mut clients, Instant::now());
        assert!(clients.read(id).unwrap().is_none());
        theirs.send(&Request::Status, &[]).unwrap();
        let delivery = clients.read(id).unwrap().unwrap();
        assert_eq!(delivery.request, Request::Status);
        assert_eq!(delivery.pid, std::process::id() as i32);
        assert!(clients.is_empty());
    }

    #[test]
    fn nonsense_ends_that_connection_only() {
        let mut clients = clients();
        let now = Instant::now();
        let (bad, theirs) = admitted(&mut clients, now);
        let (good, _other) = admitted(&mut clients, now);
        theirs.stream().write_all(&[0xff; 64]).unwrap();
        assert!(clients.read(bad).is_err());
        assert!(clients.read(good).unwrap().is_none());
        assert_eq!(clients.sockets().count(), 1);
    }

    #[test]
    fn a_run_without_its_descriptors_is_nonsense() {
        let mut clients = clients();
        let (id, theirs) = admitted(&mut clients, Instant::now());
        theirs.send(&Request::Run(Box::new(run())), &[]).unwrap();
        assert!(matches!(clients.read(id), Err(Error::Malformed)));
    }

    #[test]
    fn a_silent_client_is_let_go() {
        let mut clients = clients();
        let now = Instant::now();
        let (_id, _theirs) = admitted(&mut clients, now);
        clients.expire(now + DELIVERY_LIMIT / 2);
        assert!(!clients.is_empty());
        clients.expire(now + DELIVERY_LIMIT);
        assert!(clients.is_empty());
    }

    #[test]
    fn there_is_room_for_a_number_of_clients_only() {
        let mut clients = clients();
        let now = Instant::now();
        let kept: Vec<_> = (0..MOST).map(|_| admitted(&mut clients, now)).collect();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert!(clients.admit(ours, now).is_err());
        drop(kept);
    }
}

//! Frames and descriptors over Unix stream sockets: the only file that touches control messages.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, UnixCredentials, getsockopt, recvmsg, sendmsg,
    sockopt,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Context, Error, Result};
use crate::protocol::{BODY_LIMIT, FDS_LIMIT, decode, encode};

const HEADER: usize = 8;

/// One end of a conversation.
///
/// Reading keeps what has come of an unfinished frame, so the same connection can be used
/// blocking (client, zygote) or in a poll loop (daemon: [`Connection::fill`], then
/// [`Connection::next_frame`] until it gives nothing).
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    input: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
    /// What was posted and could not be written yet.
    output: VecDeque<Posted>,
}

/// The rest of a frame, with its descriptors if not even its first byte is written.
#[derive(Debug)]
struct Posted {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// A whole frame: its body and its descriptors.
#[derive(Debug)]
pub struct Frame {
    pub body: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

impl Frame {
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        decode(&self.body)
    }
}

/// What [`Connection::fill`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    Some,
    WouldBlock,
    Eof,
}

impl Connection {
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            input: Vec::new(),
            descriptors: VecDeque::new(),
            output: VecDeque::new(),
        }
    }

    /// A connected pair, both ends closed on exec.
    pub fn pair() -> Result<(Self, Self)> {
        let (a, b) = UnixStream::pair().doing(|| "making a socket pair".into())?;
        Ok((Self::new(a), Self::new(b)))
    }

    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    pub fn into_stream(self) -> UnixStream {
        self.stream
    }

    pub fn set_nonblocking(&self, on: bool) -> Result<()> {
        self.stream
            .set_nonblocking(on)
            .doing(|| "setting a socket's mode".into())
    }

    /// The kernel's word on who is at the other end.
    pub fn peer(&self) -> Result<UnixCredentials> {
        getsockopt(&self.stream, sockopt::PeerCredentials)
            .doing(|| "asking for the peer's credentials".into())
    }

    /// Sends one message. Blocks until all is written, also on a non-blocking socket.
    ///
    /// `Error::Closed` when the other side is gone.
    pub fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let frame = frame_of(message, fds)?;
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let mut sent = 0;
        while sent < frame.len() {
            // Descriptors go with the first byte only.
            let raw = if sent == 0 { &raw[..] } else { &[] };
            match self.write(&frame[sent..], raw)? {
                0 => self.wait_writable()?,
                count => sent += count,
            }
        }
        Ok(())
    }

    /// Sends one message without ever waiting, on a non-blocking socket: what does not go now is
    /// kept for [`Connection::flush`].
    pub fn post<T: Serialize>(&mut self, message: &T, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let frame = frame_of(message, fds)?;
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let mut sent = 0;
        while self.output.is_empty() && sent < frame.len() {
            let raw = if sent == 0 { &raw[..] } else { &[] };
            match self.write(&frame[sent..], raw)? {
                0 => break,
                count => sent += count,
            }
        }
        if sent < frame.len() {
            let copies = fds.iter().map(BorrowedFd::try_clone_to_owned);
            let fds = match sent {
                0 => copies
                    .collect::<io::Result<_>>()
                    .doing(|| "copying a descriptor".into())?,
                _ => Vec::new(),
            };
            let bytes = frame[sent..].to_vec();
            self.output.push_back(Posted { bytes, fds });
        }
        Ok(())
    }

    /// Writes as much as goes of what was posted.
    pub fn flush(&mut self) -> Result<()> {
        while let Some(posted) = self.output.front() {
            let raw: Vec<RawFd> = posted.fds.iter().map(AsRawFd::as_raw_fd).collect();
            let sent = match self.write(&posted.bytes, &raw)? {
                0 => return Ok(()),
                count => count,
            };
            let posted = self.output.front_mut().expect("seen above");
            posted.fds.clear();
            posted.bytes.drain(..sent);
            if posted.bytes.is_empty() {
                self.output.pop_front();
            }
        }
        Ok(())
    }

    /// Something posted is still to be written.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Writes once. Gives how much, 0 if that would have to wait.
    fn write(&self, bytes: &[u8], fds: &[RawFd]) -> Result<usize> {
        let control = [ControlMessage::ScmRights(fds)];
        let control = if fds.is_empty() { &[] } else { &control[..] };
        loop {
            match sendmsg::<()>(
                self.stream.as_raw_fd(),
                &[IoSlice::new(bytes)],
                control,
                MsgFlags::MSG_NOSIGNAL,
                None,
            ) {
                Ok(count) => return Ok(count),
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => return Ok(0),
                Err(nix::Error::EPIPE | nix::Error::ECONNRESET | nix::Error::ENOTCONN) => {
                    return Err(Error::Closed);
                }
                Err(error) => return Err(error).doing(|| "sending a message".into()),
            }
        }
    }

    fn wait_writable(&self) -> Result<()> {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        // A peer that reads nothing for this long is broken or hostile. Frames are a few kB and
        // socket buffers 200 kB, so an honest peer is never close to it.
        let timeout = PollTimeout::from(2000u16);
        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut fds, timeout) {
            Ok(0) => Err(Error::Closed),
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(error) => Err(error).doing(|| "waiting to send".into()),
        }
    }

    /// Receives the next frame, waiting for it. `Error::Closed` at end of file.
    pub fn receive(&mut self) -> Result<Frame> {
        loop {
            if let Some(frame) = self.next_frame()? {
                return Ok(frame);
            }
            match self.fill()? {
                Filled::Eof => return Err(Error::Closed),
                Filled::Some => {}
                Filled::WouldBlock => {
                    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
                    let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
                    match poll(&mut fds, PollTimeout::NONE) {
                        Ok(_) | Err(nix::Error::EINTR) => {}
                        Err(error) => return Err(error).doing(|| "waiting for a message".into()),
                    }
                }
            }
        }
    }

    /// Reads once.
    pub fn fill(&mut self) -> Result<Filled> {
        let mut buffer = [0u8; 64 * 1024];
        let mut control = nix::cmsg_space!([RawFd; FDS_LIMIT]);
        loop {
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let received = match recvmsg::<()>(
                self.stream.as_raw_fd(),
                &mut slices,
                Some(&mut control),
                MsgFlags::MSG_CMSG_CLOEXEC,
            ) {
                Ok(received) => received,
                Err(nix::Error::EINTR) => continue,
                Err(nix::Error::EAGAIN) => return Ok(Filled::WouldBlock),
                Err(nix::Error::ECONNRESET) => return Ok(Filled::Eof),
                Err(error) => return Err(error).doing(|| "receiving a message".into()),
            };
            let truncated = received.flags.contains(MsgFlags::MSG_CTRUNC);
            for message in received
                .cmsgs()
                .doing(|| "reading a control message".into())?
            {
                if let ControlMessageOwned::ScmRights(fds) = message {
                    for fd in fds {
                        // SAFETY: the kernel has just made these descriptors for this process.
                        self.descriptors
                            .push_back(unsafe { OwnedFd::from_raw_fd(fd) });
                    }
                }
            }
            let count = received.bytes;
            if truncated || self.descriptors.len() > 4 * FDS_LIMIT {
                return Err(Error::Malformed);
            }
            if count == 0 {
                return Ok(Filled::Eof);
            }
            self.input.extend_from_slice(&buffer[..count]);
            return Ok(Filled::Some);
        }
    }

    /// The next whole frame of what has been read, if there is one.
    pub fn next_frame(&mut self) -> Result<Option<Frame>> {
        let Some(header) = self.input.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let word = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
                as usize
        };
        let (size, count) = (word(0), word(4));
        if size > BODY_LIMIT {
            return Err(Error::Oversized {
                size,
                limit: BODY_LIMIT,
            });
        }
        if count > FDS_LIMIT {
            return Err(Error::Malformed);
        }
        if self.input.len() < HEADER + size {
            return Ok(None);
        }
        if self.descriptors.len() < count {
            // They come with the frame's first byte, so they would be here.
            return Err(Error::Malformed);
        }
        let body = self.input[HEADER..HEADER + size].to_vec();
        self.input.drain(..HEADER + size);
        Ok(Some(Frame {
            body,
            fds: self.descriptors.drain(..count).collect(),
        }))
    }
}

fn frame_of<T: Serialize>(message: &T, fds: &[BorrowedFd<'_>]) -> Result<Vec<u8>> {
    let body = encode(message);
    if body.len() > BODY_LIMIT {
        return Err(Error::Oversized {
            size: body.len(),
            limit: BODY_LIMIT,
        });
    }
    if fds.len() > FDS_LIMIT {
        return Err(Error::TooManyDescriptors {
            count: fds.len(),
            limit: FDS_LIMIT,
        });
    }
    let mut frame = Vec::with_capacity(HEADER + body.len());
    frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
    frame.extend_from_slice(&(fds.len() as u32).to_le_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Moves a descriptor of ours to a number that no caller's descriptor is likely to have, closed
/// on exec: `dup2` onto the caller's numbers must not hit it.
pub fn move_high(fd: OwnedFd) -> Result<OwnedFd> {
    let mut limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
        .map(|(soft, _)| soft.min(1 << 16) as RawFd)
        .unwrap_or(256);
    loop {
        let from = (limit / 2).max(3);
        match nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(from)) {
            // SAFETY: fcntl has just made this descriptor for us.
            Ok(number) => return Ok(unsafe { OwnedFd::from_raw_fd(number) }),
            Err(_) if from > 3 => limit = from,
            Err(error) => {
                return Err(io::Error::from(error)).doing(|| "moving a descriptor".into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Order, Relay, Reply};
    use std::io::Write;

    #[test]
    fn a_message_and_its_descriptors_arrive() {
        let (a, mut b) = Connection::pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        a.send(&Relay::Signal(2), &[null.as_fd(), null.as_fd()])
            .unwrap();
        a.send(&Relay::Signal(15), &[]).unwrap();
        let first = b.receive().unwrap();
        assert_eq!(first.decode::<Relay>().unwrap(), Relay::Signal(2));
        assert_eq!(first.fds.len(), 2);
        let second = b.receive().unwrap();
        assert_eq!(second.decode::<Relay>().unwrap(), Relay::Signal(15));
        assert!(second.fds.is_empty());
    }

    #[test]
    fn frames_may_come_in_pieces() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut b = Connection::new(b);
        b.set_nonblocking(true).unwrap();
        let body = encode(&Reply::Ended { status: 256 });
        let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&body);
        for (i, byte) in bytes.iter().enumerate() {
            assert!(b.next_frame().unwrap().is_none(), "whole after {i} bytes");
            (&a).write_all(&[*byte]).unwrap();
            assert_eq!(b.fill().unwrap(), Filled::Some);
        }
        let frame = b.next_frame().unwrap().unwrap();
        assert_eq!(
            frame.decode::<Reply>().unwrap(),
            Reply::Ended { status: 256 }
        );
        assert_eq!(b.fill().unwrap(), Filled::WouldBlock);
        drop(a);
        assert_eq!(b.fill().unwrap(), Filled::Eof);
    }

    #[test]
    fn what_is_posted_waits_for_nobody_and_arrives_in_order() {
        let (mut a, mut b) = Connection::pair().unwrap();
        a.set_nonblocking(true).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let text = "x".repeat(100_000);
        // Much more than a socket takes.
        for number in 0..20 {
            let message = Reply::Status(format!("{number}{text}"));
            a.post(&message, &[null.as_fd()]).unwrap();
        }
        assert!(a.has_output());
        for number in 0..20 {
            let frame = loop {
                if let Some(frame) = b.next_frame().unwrap() {
                    break frame;
                }
                a.flush().unwrap();
                assert_eq!(b.fill().unwrap(), Filled::Some);
            };
            let expected = Reply::Status(format!("{number}{text}"));
            assert_eq!(frame.decode::<Reply>().unwrap(), expected);
            assert_eq!(frame.fds.len(), 1);
        }
        assert!(!a.has_output());
        drop(b);
        assert!(matches!(a.post(&Relay::Signal(2), &[]), Err(Error::Closed)));
    }

    #[test]
    fn an_oversized_frame_is_refused_before_it_is_read() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut b = Connection::new(b);
        (&a).write_all(&[0xff; 8]).unwrap();
        assert!(matches!(b.receive(), Err(Error::Oversized { .. })));
    }

    #[test]
    fn a_malformed_body_is_an_error() {
        let frame = Frame {
            body: vec![200, 1, 2],
            fds: vec![],
        };
        assert!(matches!(frame.decode::<Order>(), Err(Error::Malformed)));
    }
}

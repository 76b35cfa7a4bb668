"""Processes to whom the machine looks otherwise: in a user namespace of their own.

This file is also the program that makes one and lives in it until its input ends. With a limit on
inotify watches, and with a directory that "another machine" has: a FUSE file system, whose files
lie in a directory out here. Whoever changes them there changes them behind the kernel's back.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import subprocess
import sys
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_RDONLY, MS_NOSUID, MS_NODEV = 1, 2, 4


def check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


class Namespace:
    """Lasts as long as the `with` block; `enter` goes into `Sandbox.start(before=...)`."""

    def __init__(self, *, watches: int | None = None, remote: tuple[Path, Path] | None = None):
        """`watches`: as many there are. `remote`: what shows at the second path is in the first."""
        arguments = [str(watches if watches is not None else -1), *map(str, remote or ())]
        self.process = subprocess.Popen(
            [sys.executable, __file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        self.why_not = self.process.stdout.readline().strip()
        self.spaces: list[int] = []
        if not self.why_not:
            names = ["user", "mnt"]
            where = f"/proc/{self.process.pid}/ns"
            self.spaces = [os.open(f"{where}/{name}", os.O_RDONLY) for name in names]

    def enter(self) -> None:
        # Another view of the file system begins at its root.
        where = os.getcwd()
        for space in self.spaces:
            check(LIBC.setns(space, 0), "entering a namespace")
        os.chdir(where)

    def __enter__(self) -> Namespace:
        return self

    def __exit__(self, *_: object) -> None:
        for space in self.spaces:
            os.close(space)
        self.process.kill()
        self.process.communicate()


def make(watches: int) -> None:
    user, group = os.getuid(), os.getgid()
    check(LIBC.unshare(CLONE_NEWUSER | CLONE_NEWNS), "making a user namespace")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    if watches >= 0:
        Path("/proc/sys/user/max_inotify_watches").write_text(str(watches))


def mount(at: str) -> int:
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    flags = MS_RDONLY | MS_NOSUID | MS_NODEV
    check(LIBC.mount(b"remote", at.encode(), b"fuse", flags, options.encode()), "mounting")
    return device


# ------------------------------------------------------------------ the other machine

# Of the operations in `linux/fuse.h` those that readers need.
LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS = 1, 2, 3, 14, 15, 17
RELEASE, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR = 18, 25, 26, 27, 28, 29
INTERRUPT, DESTROY, BATCH_FORGET = 36, 38, 42

# As network file systems do, it says that its answers may be kept for a while.
KEPT_SECONDS = 60


class Server:
    def __init__(self, root: str):
        self.paths = {1: root}
        self.numbers = {root: 1}

    def attributes(self, path: str) -> bytes:
        s = os.stat(path)
        seconds = [ns // 10**9 for ns in (s.st_atime_ns, s.st_mtime_ns, s.st_ctime_ns)]
        rests = [ns % 10**9 for ns in (s.st_atime_ns, s.st_mtime_ns, s.st_ctime_ns)]
        owner = (s.st_nlink, s.st_uid, s.st_gid, 0, 4096, 0)
        size = (s.st_ino, s.st_size, s.st_blocks)
        return struct.pack("=6Q10I", *size, *seconds, *rests, s.st_mode, *owner)

    def answer(self, what: int, node: int, body: bytes) -> bytes:
        path = self.paths.get(node, "")
        if what == INIT:
            return struct.pack("=4I2H2I2H8I", 7, 31, 0, 0, 0, 0, 4096, 1, 0, 0, *[0] * 8)
        if what == LOOKUP:
            found = os.path.join(path, os.fsdecode(body.rstrip(b"\0")))
            attributes = self.attributes(found)
            number = self.numbers.setdefault(found, len(self.numbers) + 1)
            self.paths[number] = found
            return struct.pack("=4Q2I", number, 0, 0, KEPT_SECONDS, 0, 0) + attributes
        if what == GETATTR:
            return struct.pack("=Q2I", KEPT_SECONDS, 0, 0) + self.attributes(path)
        if what in (OPEN, OPENDIR):
            return struct.pack("=Q2I", 0, 0, 0)
        if what == READ:
            _, offset, size = struct.unpack_from("=2QI", body)
            with open(path, "rb") as file:
                file.seek(offset)
                return file.read(size)
        if what == READDIR:
            _, offset, size = struct.unpack_from("=2QI", body)
            return self.entries(path, offset)[:size] if offset == 0 else b""
        if what == STATFS:
            return struct.pack("=5Q4I6I", *[0] * 5, 4096, 255, 4096, 0, *[0] * 6)
        if what in (RELEASE, RELEASEDIR, FLUSH, DESTROY):
            return b""
        raise OSError(errno.ENOSYS, "not needed by readers")

    def entries(self, path: str, offset: int) -> bytes:
        made = b""
        for number, entry in enumerate(sorted(os.listdir(path)), 1):
            name = os.fsencode(entry)
            made += struct.pack("=2Q2I", number, number, len(name), 0) + name
            made += b"\0" * (-len(name) % 8)
        return made

    def serve(self, device: int) -> None:
        while True:
            request = os.read(device, 1 << 17)
            _, what, unique, node = struct.unpack_from("=2I2Q", request)
            if what in (FORGET, BATCH_FORGET, INTERRUPT):
                continue
            try:
                error, body = 0, self.answer(what, node, request[40:])
            except OSError as refused:
                error, body = -(refused.errno or errno.EIO), b""
            os.write(device, struct.pack("=IiQ", 16 + len(body), error, unique) + body)


def main(watches: str, *remote: str) -> None:
    device = None
    try:
        make(int(watches))
        if remote:
            device = mount(remote[1])
    except OSError as error:
        print(error, flush=True)
        return
    print(flush=True)
    if device is None:
        sys.stdin.read()
    else:
        Server(remote[0]).serve(device)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A directory before and after a run."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

# A byte code file's header: magic number, flags, and time and size of the source (PEP 552). The
# code behind it is not compared: `marshal` writes reference counts into it, so two plain runs
# differ.
PYC_HEADER = 16


class Tree:
    """Remembers a directory, says what changed in it since, and puts it back."""

    def __init__(self, root: Path):
        self.root = root
        self.before = self._read()

    def _read(self) -> dict[str, bytes | None]:
        """Relative path to content; `None` for directories, the target for links.

        Byte code is written beside its place and renamed, by whoever still runs: where something
        that was listed is gone, the directory is read anew."""
        while True:
            try:
                return self._read_once()
            except FileNotFoundError:
                continue

    def _read_once(self) -> dict[str, bytes | None]:
        found: dict[str, bytes | None] = {}
        for here, directories, files in os.walk(self.root):
            for name in directories + files:
                path = Path(here, name)
                mode = path.lstat().st_mode
                if stat.S_ISLNK(mode):
                    content: bytes | None = b"-> " + os.fsencode(os.readlink(path))
                elif stat.S_ISREG(mode):
                    content = path.read_bytes()
                else:
                    content = None
                found[str(path.relative_to(self.root))] = content
        return found

    def changes(self) -> dict[str, bytes | str | None]:
        """What is new, other or gone, by name; the content where it says something."""
        after = self._read()
        changed: dict[str, bytes | str | None] = {
            name: "(deleted)" for name in self.before if name not in after
        }
        for name, content in after.items():
            if name in self.before and self.before[name] == content:
                continue
            if name.endswith(".pyc") and content:
                content = content[:PYC_HEADER]
            changed[name] = content
        return changed

    def restore(self) -> None:
        """Puts the directory back as it was. Files that nobody touched stay the same files: a
        checkpoint that read them stays good."""
        after = self._read()
        for name in sorted(after, reverse=True):
            if name not in self.before:
                path = self.root / name
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        for name, content in sorted(self.before.items()):
            if name in after and after[name] == content:
                continue
            path = self.root / name
            if content is None:
                path.mkdir(exist_ok=True)
            elif content.startswith(b"-> ") and not path.exists():
                path.symlink_to(os.fsdecode(content[3:]))
            else:
                path.write_bytes(content)

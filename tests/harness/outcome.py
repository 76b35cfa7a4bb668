"""What a run left behind, and the comparison of two runs."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field

# All that two plain runs of the same thing differ in. Nothing else is forgiven.
VARIES = [
    (r"\bin \d+\.\d+s( \(\d+:\d\d:\d\d\))?", "in TIME"),
    (r"\b\d+\.\d+s (call|setup|teardown)\b", r"TIME \1"),
    (r'\btime="[\d.]+"', 'time="TIME"'),
    (r'\btimestamp="[^"]+"', 'timestamp="TIME"'),
    (r"\bpytest-of-[\w.-]+/pytest-\d+", "pytest-of-USER/pytest-N"),
    (r"\bpytest-of-[\w.-]+", "pytest-of-USER"),
    (r"\btmp[a-z0-9_]{8}\b", "tmpNAME"),
    (r"\b0x[0-9a-f]{6,}\b", "0xADDRESS"),
    (r"\bpid[ =:]+\d+", "pid N"),
    (r"\bThread-\d+ \(", "Thread-N ("),
    (r"(?<!\d)20\d{6}_\d{6}(?!\d)", "DATE_TIME"),
    (r'"last_cache_date_str": "[^"]+"', '"last_cache_date_str": "TIME"'),
    # `--stepwise`: whole seconds since its cache was written.
    (r"\bcache from \d+:\d\d:\d\d ago\b", "cache from AGE ago"),
    # An object's address as a number: pytest's name of a plugin without one.
    (r"\b1[0-9]{14}\b", "ADDRESS"),
]
# pytest fills its rules up to the terminal's width: a longer time makes a shorter rule.
RULES = [(r"([=_-])\1{2,}", r"\1\1\1")]


def normal(text: str) -> str:
    for pattern, word in VARIES + RULES:
        text = re.sub(pattern, word, text)
    return text


@dataclass
class Outcome:
    command: list[str]
    status: int
    """As `subprocess` has it: minus the signal where one ended it."""
    stdout: str
    stderr: str
    files: dict[str, bytes | str | None] = field(default_factory=dict)
    pid: int = 0

    def __str__(self) -> str:
        how = f"signal {-self.status}" if self.status < 0 else str(self.status)
        return (
            f"$ {' '.join(self.command)}\n"
            f"--- stdout ---\n{self.stdout}\n--- stderr ---\n{self.stderr}\n--- ended: {how}"
        )

    def lines(self, unordered: bool = False) -> list[str]:
        """Everything that must be the same, as text. `unordered`: for runs whose order is chance
        (xdist)."""

        def section(title: str, text: str) -> list[str]:
            body = normal(text).split("\n")
            if unordered:
                # Which of xdist's workers got a test is chance as well, and where a list ends.
                chance = r"\bgw\d|\[ *\d+%\]|,$"
                body = sorted(re.sub(chance, "?", line) for line in body)
            return [f"[{title}]", *body]

        lines = [f"[status] {self.status}"]
        lines += section("stdout", self.stdout) + section("stderr", self.stderr)
        for name, content in sorted((normal(k), v) for k, v in self.files.items()):
            if content is None:
                lines.append(f"[directory {name}]")
            elif isinstance(content, str):
                lines.append(f"[file {name}] {content}")
            elif name.endswith(".pyc"):
                # Time of the source is the time of the checkout: the same for both.
                lines.append(f"[file {name}] {content!r}")
            elif _is_private_to_a_plugin(name):
                lines.append(f"[file {name}]")
            else:
                lines += section(f"file {name}", content.decode("utf-8", "backslashreplace"))
        return lines


def _is_private_to_a_plugin(name: str) -> bool:
    """Databases whose bytes differ between two plain runs: that they are there is compared."""
    return ".hypothesis" in name or name.split("/")[-1].startswith(".coverage")


def difference(expected: Outcome, got: Outcome, unordered: bool = False) -> str:
    """Empty when they are the same."""
    return "\n".join(
        difflib.unified_diff(
            expected.lines(unordered), got.lines(unordered), "plain", "pyseidon", lineterm="", n=2
        )
    )


def assert_same(expected: Outcome, got: Outcome, what: str = "", unordered: bool = False) -> None:
    found = difference(expected, got, unordered)
    assert not found, f"{what or 'the run'} differs from plain pytest\n{found}\n\n{got}"

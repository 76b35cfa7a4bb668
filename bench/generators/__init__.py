"""Projects of hundreds and thousands of own modules, written when one is needed.

They are code of the benchmark and no files of it: ten thousand modules in the repository would
help nobody. The same call writes the same text, so that figures of two days can be compared.
"""

from .data import EDITED as DATA_EDITED
from .data import write_data
from .parts import revise, write_wanted
from .synthetic import write_synthetic
from .web import EDITED as WEB_EDITED
from .web import write_web

__all__ = [
    "DATA_EDITED",
    "WEB_EDITED",
    "revise",
    "write_data",
    "write_synthetic",
    "write_wanted",
    "write_web",
]

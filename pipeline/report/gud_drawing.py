"""A figure and the numbers in it, as files beside each other."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Drawing:
    """One figure.

    Attributes:
        stem: name of its files without ending.
        png: the picture.
        arrays: exactly what is drawn, by name.
        texts: more files by ending (`.md`), or none.
    """

    stem: str
    png: bytes
    arrays: Mapping[str, NDArray[np.generic]]
    texts: Mapping[str, str] = field(default_factory=dict[str, str])

    def write(self, folder: Path) -> Iterator[Path]:
        """Write `<stem>.png`, `<stem>.npz` and the texts, and yield their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        picture = folder / f"{self.stem}.png"
        picture.write_bytes(self.png)
        yield picture
        numbers = folder / f"{self.stem}.npz"
        np.savez(numbers, allow_pickle=False, **dict(sorted(self.arrays.items())))
        yield numbers
        for ending, text in self.texts.items():
            path = folder / f"{self.stem}{ending}"
            path.write_text(text)
            yield path

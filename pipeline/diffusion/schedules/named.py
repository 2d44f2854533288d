"""What users call a degradation: stated beside its settings, collected into the table of degradations."""

from dataclasses import dataclass
from typing import Literal

End = Literal["gaussian", "flat", "zero", "images"]
"""D(x_0, 1): Gaussian noise, one colour, exactly the centre, or an image in which more of x_0 is left."""


@dataclass(frozen=True)
class Named:
    """One name under which a degradation's settings are offered.

    Attributes:
        name: in grid files.
        summary: one sentence.
        is_black: it also fades to black; `fade` becomes an option.
        centre: what a fade and a mask leave; black for a name that fades to black.
    """

    name: str
    summary: str
    is_black: bool = False
    centre: Literal["grey", "black"] = "grey"

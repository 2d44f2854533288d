"""Names and keys: built from checked parts, never joined from user text."""

import re
import secrets
import time
from dataclasses import dataclass

from pipeline.store.errors import StoreError

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
FINGERPRINT = re.compile(r"[0-9a-f]{64}")
CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
MAX_PARTS = 8


def checked_name(name: str) -> str:
    """The name itself; StoreError if it is not of the form [a-z0-9][a-z0-9._-]{0,63}."""
    if not NAME.fullmatch(name):
        raise StoreError(
            f"{name!r:.80} is not a valid name: use 1 to 64 of a-z 0-9 . _ - and start with a letter or digit"
        )
    return name


def checked_path(path: str) -> str:
    """A relative path of at most 8 checked names joined by '/'."""
    parts = path.split("/")
    if len(parts) > MAX_PARTS:
        raise StoreError(f"{path!r:.80} has {len(parts)} parts; at most {MAX_PARTS} are allowed")
    return "/".join(checked_name(part) for part in parts)


@dataclass(frozen=True, order=True)
class Key:
    """Address of an artifact: the stage that makes it and the fingerprint of what it is made from (64 hex digits)."""

    stage: str
    fingerprint: str

    def __post_init__(self) -> None:
        checked_name(self.stage)
        if not FINGERPRINT.fullmatch(self.fingerprint):
            raise StoreError(f"{self.fingerprint!r:.80} is not a fingerprint of 64 lower-case hex digits")

    def __str__(self) -> str:
        return f"{self.stage}/{self.fingerprint}"

    @property
    def short(self) -> str:
        """What people see: the stage and the first 12 digits."""
        return f"{self.stage}/{self.fingerprint[:12]}"

    @classmethod
    def parse(cls, text: str) -> "Key":
        """The key written by str()."""
        stage, _, digits = text.partition("/")
        return cls(stage, digits)


def new_ulid() -> str:
    """26 lower-case Crockford digits: 48 bits of milliseconds, 80 random bits. Unique; its order is only a courtesy."""
    number = (int(time.time() * 1000) & (2**48 - 1)) << 80 | secrets.randbits(80)
    return "".join(CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))

"""What the server has confirmed, kept in `tracking.json`: a second run skips tracking without loading mlflow."""

import json
from dataclasses import asdict, dataclass, field

from pipeline.tracking.outbox import Documents
from pipeline.tracking.records import Key
from pipeline.tracking.target import Target

NAME = "tracking.json"


@dataclass
class Ledger:
    """`sent` maps `kind/fingerprint` to the digest of the record shown; `page` is the digest of view and note."""

    uri: str
    link: str | None = None
    open_with: str | None = None
    sent: dict[str, str] = field(default_factory=dict)
    page: str = ""

    @staticmethod
    def label(key: Key) -> str:
        return "/".join(key)

    def save(self, documents: Documents) -> None:
        documents.put(NAME, json.dumps(asdict(self), sort_keys=True).encode())


def stored_ledger(documents: Documents) -> Ledger | None:
    """The ledger of the last command, or None if there is none that can be read."""
    data = documents.get(NAME)
    try:
        return None if data is None else Ledger(**json.loads(data))
    except (ValueError, TypeError):
        return None


def ledger_for(target: Target, documents: Documents) -> Ledger:
    """The stored ledger if it speaks of this target and its database is still there, else an empty one."""
    stored = stored_ledger(documents)
    is_there = target.database is None or target.database.exists()
    return stored if stored is not None and stored.uri == target.resolved and is_there else Ledger(target.resolved)


def experiment_link(documents: Documents) -> str | None:
    """The page of the grid whose documents these are, without asking the server."""
    stored = stored_ledger(documents)
    return None if stored is None else stored.link

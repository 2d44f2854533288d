"""What can go wrong in a store, one class per reaction of the caller."""


class StoreError(Exception):
    """A person has to change something first (permissions, bucket, name, address); exit code 2."""


class StoreUnavailable(Exception):
    """No answer, or a wrong one, during the whole retry budget; the work may be tried again later."""


class ResourceError(Exception):
    """Disk, quota or inode limit reached while writing; the message names the path and the bytes."""


class ArtifactDamaged(Exception):
    """Stored bytes differ from the manifest; the artifact was put aside, so that it will be made again."""


class LeaseHeld(Exception):
    """Somebody else works on this key.

    Attributes:
        owner: what the holder wrote about itself.
        age_s: seconds since its last renewal, by the store's clock.
    """

    def __init__(self, owner: str, age_s: float) -> None:
        super().__init__(owner, age_s)
        self.owner = owner
        self.age_s = age_s

    def __str__(self) -> str:
        return f"held by {self.owner}, renewed {self.age_s:.0f} s ago"


class LeaseLost(Exception):
    """The lease could not be renewed in time or was taken over; somebody else may be working on the same key."""

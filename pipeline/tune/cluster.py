"""Ray for a whole `tune`: started once, used by the shared tasks first and by the trials afterwards."""

from pipeline.grid.ray import RayExecutor, start_ray
from pipeline.store import Store


class KeptExecutor(RayExecutor):
    """The executor of `run`, which gives its processes back at the end of its work but leaves Ray running."""

    def close(self) -> None:
        """Stop the actors; `shutdown` ends Ray."""
        self.release()

    def shutdown(self) -> None:
        """Stop the actors and leave (or stop) Ray."""
        super().close()


def start_cluster(address: str | None, max_units: int | None, *, store: Store, grid: str, scratch: str) -> KeptExecutor:
    """Join or start Ray; the environment is prepared already.

    Raises:
        ConfigError: the cluster cannot be joined.
    """
    start_ray(address, max_units)
    return KeptExecutor(store, grid=grid, scratch=scratch, max_units=max_units)

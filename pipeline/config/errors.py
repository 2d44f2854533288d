"""Errors that a user can act on; the command line turns each into one sentence and exit code 2."""


class ConfigError(ValueError):
    """A request that cannot be carried out as written: what was found, where, and what to do."""


class DataError(ValueError):
    """Input data that cannot be used: what was found, where, and what to do."""

"""Tables and picture sheets of results."""

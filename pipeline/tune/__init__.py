"""`tune`: Ray Tune drives the evaluation of a grid's points, on top of the store."""

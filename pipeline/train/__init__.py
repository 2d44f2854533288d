"""Training: one cell or a group of cells, on one or many workers, with the same result whatever is interrupted."""

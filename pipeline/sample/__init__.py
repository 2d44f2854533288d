"""Sampling: blocks of images from trained systems and from the control rows."""

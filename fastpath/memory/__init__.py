"""Slabs and the timer wheel: all the memory of a worker, set aside at start."""

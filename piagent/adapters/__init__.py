"""The edge: one module for each thing outside the process."""

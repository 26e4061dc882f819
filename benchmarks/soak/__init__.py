"""A million connections through one agent, while its file changes and a backend comes and goes."""

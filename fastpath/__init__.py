"""The engine: threads without the GIL that move bytes. Python uses `fastpath.engine`."""

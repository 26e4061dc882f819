"""The engine: threads without the GIL that move bytes. Python talks to it through `fastpath.engine`."""

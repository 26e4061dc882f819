"""The agent: builds the adapters, runs the election and health loops, reloads, stops in order."""

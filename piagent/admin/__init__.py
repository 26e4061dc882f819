"""The admin API on a Unix socket: health, readiness, metrics, status."""

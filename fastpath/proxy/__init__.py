"""TCP streams between clients and backends."""

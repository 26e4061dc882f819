"""Packets that are forwarded, not proxied: nat and dsr."""

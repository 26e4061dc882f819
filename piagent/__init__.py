"""Floating IPs, leader election, load balancing and HTTP routing for Raspberry Pi clusters."""

__version__ = "0.1.0"

"""What the admin API says, as values: encoded by the agent, decoded by the CLI.

Times are Unix milliseconds. docs/reference/api.md describes every field; a test compares both.
"""

from __future__ import annotations

from msgspec import Struct


class BrokerStatus(Struct, frozen=True, kw_only=True):
    """One broker, as this node reaches it."""

    name: str
    address: str
    up: bool
    since: int
    reason: str


class VipStatus(Struct, frozen=True, kw_only=True):
    """One VIP, as this node sees it."""

    address: str
    state: str
    """"follower", "claiming" or "owner": this node's own part."""
    owner: str | None
    """The owning node, None when none is heard."""
    epoch: int
    since: int
    """When `state` was entered."""
    reason: str
    """Why `state` was entered."""


class BackendStatus(Struct, frozen=True, kw_only=True):
    """One backend of a service."""

    address: str
    weight: int
    up: bool
    since: int
    reason: str


class ServiceStatus(Struct, frozen=True, kw_only=True):
    """One service with its backends."""

    name: str
    type: str
    address: str | None
    ports: tuple[int, ...]
    backends: tuple[BackendStatus, ...]


class RouteStatus(Struct, frozen=True, kw_only=True):
    """One entry of a gateway's match table; entries are in order of precedence."""

    gateway: str
    name: str
    host: str
    path: str
    exact: bool
    service: str


class Status(Struct, frozen=True, kw_only=True):
    """The node as a whole."""

    node: str
    cluster: str
    version: str
    started: int
    ready: bool
    reason: str
    """Why it is not ready, else "ready"."""
    brokers: tuple[BrokerStatus, ...]
    vips: tuple[VipStatus, ...]
    services: tuple[ServiceStatus, ...]


class ApiError(Struct, frozen=True):
    """Every answer that is not a success."""

    error: str
    detail: str

"""[[service]] health: how backends are checked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from piagent.core.model import HealthCheck, HealthKind, Protocol

if TYPE_CHECKING:
    from piagent.config.lines import KeyPath
    from piagent.config.problems import Report
    from piagent.config.schema import File, Health, Service


def check_health(service: Service, path: KeyPath, report: Report) -> None:
    """Check that a health check has what its kind needs, and nothing that it does not look at."""
    health = service.health
    if health is None or not health.kind:
        return
    udp = [port.protocol is Protocol.UDP for port in service.ports]
    by_program = health.kind is HealthKind.EXEC
    if health.port is None and udp and all(udp) and not by_program:
        what = "no port of the service is TCP, which is what is checked"
        report.error((*path, "health"), what, "write port = …, one that answers by TCP")
    for key, value in (("path", health.path), ("expect", health.expect)):
        if value and health.kind is not HealthKind.HTTP:
            article = "a" if health.kind is HealthKind.TCP else "an"
            what = f"{article} {health.kind} check looks at no answer"
            report.error((*path, "health", key), what, 'write kind = "http", or leave it out')
    place = (*path, "health", "command")
    if not by_program:
        if health.command is not None:
            what = f"a check of kind {health.kind} runs no program"
            report.error(place, what, 'write kind = "exec", or leave it out')
    elif health.command is None:
        cure = 'write command = ["/usr/local/bin/check"]'
        report.error(place, "is missing: the program that checks", cure)
    elif health.command and not health.command[0].startswith("/"):
        what = f'"{health.command[0]}" is not the whole path of a program'
        report.error((*place, 0), what, "write its path; no shell looks for it, or reads the words")


def check_programs(file: File, report: Report) -> None:
    """Warn of programs that are not there; whether they run is seen when they do."""
    for i, service in enumerate(file.service):
        command = service.health and service.health.command
        if command and not (Path(command[0]).is_file() and os.access(command[0], os.X_OK)):
            place = ("service", i, "health", "command", 0)
            what = f'"{command[0]}" is no program that uid {os.geteuid()} can run on this host'
            report.warn(place, what, "until it is there, the backends count as down")


def build_health(health: Health) -> HealthCheck:
    """A service's check."""
    return HealthCheck(
        kind=health.kind,
        interval_ms=health.interval,
        timeout_ms=health.timeout,
        rise=health.rise,
        fall=health.fall,
        port=health.port,
        path=health.path or "/",
        expect=health.expect,
        command=health.command or (),
        shared=health.shared,
    )

"""`piagent doctor`: is this host fit; `piagent doctor broker`: is a broker?"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piagent.cli.config_file import DEFAULT_FILE, load_or_fail
from piagent.cli.output import FAILED, WRONG_INPUT, Failure, print_json
from piagent.core.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from piagent.adapters.broker_probe import BrokerReport, Settings
    from piagent.core.finding import Finding
    from piagent.core.model import Broker, Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "part", nargs="?", choices=["broker"],
        help="probe the brokers instead of this host",
    )  # fmt: skip
    parser.add_argument(
        "urls", nargs="*", metavar="URL",
        help="mqtt[s]://[user@]host[:port], instead of the file's brokers",
    )  # fmt: skip
    parser.add_argument(
        "-c", "--config", metavar="FILE",
        help=f"the node's configuration (default: {DEFAULT_FILE}, if it is there)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Check; exit 0 when nothing is wrong (warnings are allowed)."""
    config = _config(args.config)
    if args.part is None:
        return _host(config, as_json=args.json)
    return _brokers(config, args.urls, as_json=args.json)


def _config(file: str | None) -> Config | None:
    if file is None and not Path(DEFAULT_FILE).exists():
        return None
    return load_or_fail(file or DEFAULT_FILE).config


# ---- the host ----


def _host(config: Config | None, *, as_json: bool) -> int:
    findings = host_findings(config)
    fit = not _errors(findings)
    if as_json:
        print_json({"fit": fit, "findings": _plain(findings)})
    else:
        print(describe(findings))
    return 0 if fit else FAILED


def host_findings(config: Config | None) -> list[Finding]:
    """Check all that can be; without a configuration there are no VIPs to think of."""
    from piagent.adapters import dsr_checks, fence, host_checks

    findings = [
        host_checks.fence(fence.probe_support),
        *host_checks.clock(host_checks.clock_rate_ppm()),
    ]
    if config is not None:
        findings += host_checks.wifi(config.node.interface, config.vips())
        findings += dsr_checks.dsr(config)
    return findings


# ---- brokers ----


def _brokers(config: Config | None, urls: list[str], *, as_json: bool) -> int:
    from piagent.adapters.broker_probe import probe

    brokers, settings = _asked_for(config, urls), _settings(config)
    reports = []
    for broker in brokers:

        def say(what: str, label: str = broker.label) -> None:
            print(f"{label}: {what} …", file=sys.stderr, flush=True)

        reports.append(probe(broker, settings, say))
    if as_json:
        print_json({"fit": all(report.fit for report in reports), "brokers": _plain(reports)})
    else:
        print("\n\n".join(_broker_text(report) for report in reports))
    return 0 if all(report.fit for report in reports) else FAILED


def _asked_for(config: Config | None, urls: list[str]) -> list[Broker]:
    from msgspec.structs import replace

    from piagent.config.values import UnfitError, broker

    if not urls:
        if config is None:
            raise Failure(f"there is no {DEFAULT_FILE}: give -c FILE or a URL", WRONG_INPUT)
        return list(config.mqtt.brokers)
    try:
        return [replace(broker(url), label=f"b{n}") for n, url in enumerate(urls, 1)]
    except UnfitError as problem:
        raise Failure(
            f"{problem}; {problem.cure}" if problem.cure else str(problem), WRONG_INPUT
        ) from None


def _settings(config: Config | None) -> Settings:
    from piagent.adapters.broker_probe import Settings
    from piagent.adapters.mqtt_tls import Certificates
    from piagent.config.election import PROFILES
    from piagent.config.values import ProfileName

    if config is None:
        times = PROFILES[ProfileName.NORMAL]
        return Settings(
            cluster="doctor", node=None, attempt_ms=times.attempt_ms, lag_ms=times.lag_ms
        )
    mqtt, times = config.mqtt, config.election.timing
    return Settings(
        cluster=config.cluster,
        node=config.node.name,
        password=mqtt.password,
        certificates=Certificates(mqtt.ca_file, mqtt.cert_file, mqtt.key_file),
        attempt_ms=times.attempt_ms,
        lag_ms=times.lag_ms,
    )


# ---- text ----


def _broker_text(report: BrokerReport) -> str:
    verdict = "fit" if report.fit else "NOT FIT"
    return f"{report.label} ({report.address}): {verdict}\n{describe(report.findings, '  ')}"


def describe(findings: Iterable[Finding], indent: str = "") -> str:
    """One line a finding; for what is wrong also why, and the cure."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<8} {finding.check}: {printable(finding.what)}")
        if finding.why:
            lines.append(f"{'':<8}   why:  {printable(finding.why)}")
        if finding.cure:
            lines.append(f"{'':<8}   cure: {printable(finding.cure)}")
    return "\n".join(indent + line for line in lines)


def _errors(findings: Iterable[Finding]) -> bool:
    return any(finding.level == "error" for finding in findings)


def _plain(value: object) -> Any:
    import msgspec

    return msgspec.to_builtins(value)

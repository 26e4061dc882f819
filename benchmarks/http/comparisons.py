"""What is compared: workloads, proxies, figures, and where piagent is to be."""

from __future__ import annotations

from benchmarks.compared.comparisons import GB, Bar, Comparison, Figure, bulk, cost, latency
from benchmarks.compared.load import Workload

HOST = "www.bench"
LARGE_SIZE = 1 << 20
"""Of an answer to `/large`; backends.c says it, too."""

C_PEERS = ("haproxy", "nginx")
GO_PEERS = ("traefik", "caddy")
PEERS = ("piagent", *C_PEERS, *GO_PEERS, "relay")
ONE_ROUTE = "one-route"
"""The gateway of the same agent that has one route only."""

HEAD = f"GET {{}} HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: load/1\r\n"
API = HEAD + "Accept: application/json\r\nAuthorization: Bearer 0123456789abcdef0123\r\n\r\n"
BROWSER = HEAD + (
    "Connection: keep-alive\r\nCache-Control: max-age=0\r\nUpgrade-Insecure-Requests: 1\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux aarch64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/140.0.0.0 Safari/537.36\r\n"
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,"
    "image/apng,*/*;q=0.8\r\nReferer: http://www.bench/catalogue/shoes?page=3&order=price\r\n"
    "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-User: ?1\r\n"
    "Sec-Fetch-Dest: document\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
    "Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n"
    "Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; _consent=3fa9c2; "
    "visited=2026-11-29T12%3A00%3A00Z; cart=8c1d2e3f4a5b6c7d8e9f\r\n\r\n"
)


def _request(kind: str, clients: int, head: str = API, target: str = "/items/42") -> Workload:
    return Workload(kind, "http", clients, 1, 1, head.format(target).encode())


LARGE = _request("request", 8, target="/large")._replace(per=GB / LARGE_SIZE)

MEMORY = Figure("RSS MiB", "rss_mib")

COMPARISONS: dict[str, Comparison] = {
    "request": cost(
        _request("request", 64), "request", PEERS,
        Bar("cpu_us", C_PEERS, 0.87), Bar("cpu_us", ("relay",), 1.05),
    ),
    "browser": cost(
        _request("request", 64, BROWSER, "/catalogue/shoes/42?colour=red"), "request", PEERS,
        Bar("cpu_us", C_PEERS, 0.87),
    ),
    "connect": cost(
        _request("connect", 32), "connection", PEERS, Bar("cpu_us", ("haproxy",), 1.0)
    ),
    "large": bulk(
        LARGE, ("piagent", "haproxy", "haproxy-auto", *PEERS[2:]),
        Bar("cpu_us", ("haproxy", "haproxy-auto"), 1.0),
    ),
    "routes": cost(
        _request("request", 64)._replace(port="routes"), "request", ("piagent", ONE_ROUTE),
        Bar("cpu_us", (ONE_ROUTE,), 1.05),
    ),
    "latency": latency(
        _request("latency", 64), PEERS, Bar("p99_us", (*C_PEERS, *GO_PEERS), 1.0)
    ),
}  # fmt: skip
COMPARISONS["request"] = COMPARISONS["request"]._replace(
    figures=(*COMPARISONS["request"].figures, MEMORY)
)

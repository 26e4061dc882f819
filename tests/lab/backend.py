"""A backend for the lab: `backend.py NAME ADDRESS HTTP_PORT TCP_PORT`.

HTTP/1.1 with keep-alive: every request is answered with JSON: who answered and what was asked.
`/slow?ms=N` waits first; `/status/N` answers N. TCP: the name as the first line, then every line
back. UDP, on the same port number: the name and a space before what came. It says "ready" when it
listens.
"""

from __future__ import annotations

import json
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

NAME = sys.argv[1] if __name__ == "__main__" else ""


class Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", "0"))))

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, body: bytes) -> None:
        target = urlsplit(self.path)
        if target.path == "/slow":
            time.sleep(int(parse_qs(target.query)["ms"][0]) / 1000)
        status = int(target.path.split("/")[2]) if target.path.startswith("/status/") else 200
        answer = json.dumps(
            {
                "backend": NAME,
                "target": self.path,
                "headers": {name.lower(): value for name, value in self.headers.items()},
                "body": body.decode("latin-1"),
            }
        ).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


class Tcp(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(f"{NAME}\n".encode())
        for line in self.rfile:
            self.wfile.write(line)


class Udp(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, wire = self.request
        wire.sendto(f"{NAME} ".encode() + data, self.client_address)


class TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


class UdpServer(socketserver.ThreadingUDPServer):
    daemon_threads = True


class HttpServer(ThreadingHTTPServer):
    request_queue_size = 128


def main() -> None:
    address, http_port, tcp_port = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    tcp = TcpServer((address, tcp_port), Tcp)
    http = HttpServer((address, http_port), Http)
    udp = UdpServer((address, tcp_port), Udp)
    for server in (tcp, udp):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", flush=True)
    http.serve_forever()


if __name__ == "__main__":
    main()

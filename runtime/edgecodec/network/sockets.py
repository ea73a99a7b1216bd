"""Addresses and UDP sockets, IPv4 and IPv6."""

from __future__ import annotations

import socket
from typing import Any

from ..errors import NetworkError

DEFAULT_PORT = 5004  # RTP's registered port

Address = tuple[Any, ...]  # host and port, and for IPv6 two numbers more


def parse_address(text: str) -> tuple[str, int]:
    """HOST, HOST:PORT, IPV6 or [IPV6]:PORT.

    Raises:
        NetworkError: a port that is none.
    """
    host, port = text, str(DEFAULT_PORT)
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest[1:] if rest.startswith(":") else port if not rest else "none"
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise NetworkError(f"{text}: not HOST, HOST:PORT or [IPV6]:PORT")
    return host, int(port)


def sending_socket(host: str, port: int) -> socket.socket:
    """A socket connected to where packets go.

    Raises:
        NetworkError: no such host, or no way there.
    """
    problem: OSError | None = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise NetworkError(f"{host}: {error.strerror or error}") from None
    for family, kind, protocol, _, address in found:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.connect(address)
        except OSError as error:
            sock.close()
            problem = error
        else:
            sock.setblocking(False)
            return sock
    raise NetworkError(f"{host}: {problem.strerror if problem else 'no address'}")


def receiving_socket(host: str | None, port: int, timeout: float) -> socket.socket:
    """A socket on which packets arrive, from IPv4 and IPv6 unless `host` names one address.

    Raises:
        NetworkError: a port that is taken or not allowed.
    """
    problem: OSError | None = None
    hosts = [("::", socket.AF_INET6), ("0.0.0.0", socket.AF_INET)]
    if host is not None:
        hosts = [(host, socket.AF_INET6 if ":" in host else socket.AF_INET)]
    for name, family in hosts:
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM)
        except OSError as error:  # a machine without IPv6
            problem = error
            continue
        try:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host is not None))
            sock.bind((name, port))
        except OSError as error:
            sock.close()
            problem = error
        else:
            sock.settimeout(timeout)
            return sock
    raise NetworkError(f"port {port}: {problem.strerror if problem else 'cannot listen'}")


def text_of(address: Address) -> str:
    """An address for people."""
    host = str(address[0]).removeprefix("::ffff:")
    return f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"

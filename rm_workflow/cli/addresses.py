"""Addresses to listen on, as the command line names them."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import typer

LOOPBACK = "127.0.0.1"
IPV6 = 6
EVERYWHERE = {"0.0.0.0": LOOPBACK, "::": "::1"}


def address(text: str) -> IPv4Address | IPv6Address:
    """Return an IP address; a name could be that of another network tomorrow."""
    try:
        return ip_address(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no IP address; write one of this machine, as 127.0.0.1", param_hint="--host"
        ) from None


def shown_address(listen: IPv4Address | IPv6Address) -> str:
    """Return an address as a URL has it; loopback where it stands for all of this machine, which is none to ask for."""
    asked = EVERYWHERE.get(str(listen), str(listen))
    return f"[{asked}]" if listen.version == IPV6 else asked

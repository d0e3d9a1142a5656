"""The socket of a server, bound before its model is loaded, so that a port in use is told at once."""

import errno
import socket
from ipaddress import IPv4Address, IPv6Address

from rm_workflow.errors import UserError


def refuse_port_in_use(host: IPv4Address | IPv6Address, port: int) -> None:
    """Refuse what another program will have to say after it has begun.

    Raises:
        UserError: the port is in use.
    """
    with socket.socket(socket.AF_INET6 if host.version == 6 else socket.AF_INET) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((str(host), port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise _in_use(host, port) from None


def _in_use(host: IPv4Address | IPv6Address, port: int) -> UserError:
    return UserError(f"port {port} of {host} is in use by another program; name another with --port")


def bound_socket(host: IPv4Address | IPv6Address, port: int) -> socket.socket:
    """Return a socket that is bound and not listening yet; port 0 takes any that is free.

    Raises:
        UserError: the port is in use, or the address is none of this machine.
    """
    bound = socket.socket(socket.AF_INET6 if host.version == 6 else socket.AF_INET)
    # Connections that a killed server left behind must not keep the next one from starting.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((str(host), port))
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise _in_use(host, port) from None
        if error.errno == errno.EACCES:
            raise UserError(f"port {port} is for the system alone; name one above 1023 with --port") from None
        raise UserError(f"{host} is no address of this machine ({error.strerror}); name another with --host") from None
    return bound

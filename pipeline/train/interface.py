"""The network interface that gloo uses on a host: the one of the address that Ray knows the host by.

Left to itself gloo resolves the host's own name, which many networks answer with 127.0.0.1 or not at all.
"""

import fcntl
import logging
import os
import socket
import struct
import sys

log = logging.getLogger(__name__)

VARIABLE = "GLOO_SOCKET_IFNAME"
LOOPBACK = "127.0.0.1"
_SIOCGIFADDR = 0xC0206921 if sys.platform == "darwin" else 0x8915


def interface_of(address: str) -> str | None:
    """Name of the interface that has an IPv4 address; None where none has it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            try:
                reply = fcntl.ioctl(asking.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # an interface without an IPv4 address
                continue
            if socket.inet_ntoa(reply[20:24]) == address:
                return name
    return None


def choose_interface(*, is_one_host: bool) -> None:
    """Set gloo's interface for this worker, unless somebody has: loopback where all workers are on one host."""
    if os.environ.get(VARIABLE):
        return
    address = LOOPBACK
    if not is_one_host:
        import ray

        address = ray.util.get_node_ip_address()
    name = interface_of(address)
    if name is None:
        log.warning("event=no_interface address=%s action='gloo resolves the name of this host'", address)
        return
    os.environ[VARIABLE] = name

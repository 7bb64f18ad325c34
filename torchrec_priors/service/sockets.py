"""What Linux knows of sockets, and Python's event loops do not ask for."""

import ctypes
import select
import socket
import struct

_SO_ATTACH_FILTER = 26  # Python has no name for it

# A program of four instructions for the filter of a socket (see linux/filter.h): (code, jump if
# true, jump if false, value). Byte 13 of a TCP header has the flags.
_SYN = 0x02
_DROP_SYN = (
    (0x30, 0, 0, 13),  # load the flags
    (0x45, 0, 1, _SYN),  # go on if SYN is set, else skip one instruction
    (0x06, 0, 0, 0),  # drop the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # keep the whole packet
)


def drop_attempts(bound: socket.socket) -> None:
    """Lets the system ignore all further attempts to connect to a listening socket.

    When a listening socket is closed, connections that the system has made, and the process has not
    accepted yet, are reset. After this call no further ones begin, so they can all be accepted
    before. A client whose attempt was ignored tries again by itself, and is then refused.

    Args:
        bound: the listening socket.

    Raises:
        OSError: the system has no such filters.
    """
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in _DROP_SYN))
    described = struct.pack("HP", len(_DROP_SYN), ctypes.addressof(program))
    bound.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)


def has_input(file: int) -> bool:
    """Returns whether there is something to read, or a connection to accept.

    Args:
        file: the file descriptor of a socket.
    """
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(0))

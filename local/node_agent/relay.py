"""`python relay.py PORT`: one connection of a guest, from the standard streams to a port on loopback.

QEMU starts one per connection, so nothing but the standard library's sockets is loaded.
"""

import os
import select
import socket
import sys


def main() -> None:
    """Carry bytes both ways until both sides have said all."""
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as server:
        sides = {0: server.fileno(), server.fileno(): 1}
        while sides:
            for source in select.select(list(sides), [], [])[0]:
                data = os.read(source, 65536)
                target = sides[source]
                if not data:
                    del sides[source]
                    if target == server.fileno():
                        server.shutdown(socket.SHUT_WR)
                    else:
                        return
                while data:
                    data = data[os.write(target, data) :]


if __name__ == "__main__":
    main()

"""Stands between a connector and the daemon: listens at OWN, speaks at THEIRS, carries bytes both ways.

What the daemon says is written to LOG as well. Prints a line once it listens.
"""

import socket
import sys
import threading

own, theirs, log = sys.argv[1:]
listener = socket.socket(socket.AF_UNIX)
listener.bind(own)
listener.listen()
print("listening", flush=True)


def carry(source, sink, copy=None):
    while data := source.recv(65536):
        if copy:
            copy.write(data)
            copy.flush()
        try:
            sink.sendall(data)
        except OSError:
            break
    try:
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


while True:
    victim, _ = listener.accept()
    daemon = socket.socket(socket.AF_UNIX)
    daemon.connect(theirs)
    threading.Thread(target=carry, args=(victim, daemon), daemon=True).start()
    threading.Thread(target=carry, args=(daemon, victim, open(log, "ab")), daemon=True).start()

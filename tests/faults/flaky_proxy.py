"""An HTTP proxy of loopback in front of a store: passes everything on, or answers 503."""

import contextlib
import selectors
import socket
import threading

_REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class FlakyProxy:
    def __init__(self, port: int) -> None:
        """
        Args:
            port: of the server behind it.
        """
        self._behind = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.refusals = 0
        self._failing = False
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def failing(self) -> bool:
        return self._failing

    @failing.setter
    def failing(self, value: bool) -> None:
        self._failing = value
        if value:
            for connection in list(self._open):
                _shut(connection)

    def close(self) -> None:
        _shut(self._listener)
        self._thread.join()
        self._listener.close()
        self.failing = True

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            if self._failing:
                self.refusals += 1
                try:
                    client.settimeout(2.0)
                    client.recv(65_536)
                    client.sendall(_REFUSAL)
                except OSError:
                    pass
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._behind))
            except OSError:
                return
            with server:
                self._open |= {client, server}
                try:
                    _pass_on(client, server)
                finally:
                    self._open -= {client, server}


def _pass_on(client: socket.socket, server: socket.socket) -> None:
    other = {client: server, server: client}
    with selectors.DefaultSelector() as selector:
        for connection in other:
            selector.register(connection, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                try:
                    data = key.fileobj.recv(65_536)
                    if not data:
                        return
                    other[key.fileobj].sendall(data)
                except OSError:
                    return


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)

"""Stands between a client and a server, and breaks their connections."""
import socket
import threading


class CuttingProxy:
    """Forwards connections to `address`. Each entry of `cuts` breaks one connection, the next one that there is, when that
    many bytes went through it. `hold_server_side`: the server does not hear of a cut before release()."""

    def __init__(self, address, cuts=(), hold_server_side=False):
        self._host, self._port = address.rsplit(":", 1)
        self._cuts = list(cuts)
        self._hold = hold_server_side
        self._held = []
        self._refusing = False
        self._open = []
        self._lock = threading.Lock()  # guards the lists
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cuts_left(self):
        with self._lock:
            return len(self._cuts)

    def cut(self):
        """Breaks every connection that is open, and none is made until accept()."""
        self._refusing = True
        with self._lock:
            connections, self._open = self._open, []
        for client, server in connections:
            self._break(client, server)

    def accept(self):
        self._refusing = False

    def release(self):
        with self._lock:
            held, self._held = self._held, []
        for server in held:
            server.close()

    def close(self):
        self._hold = False
        self._listener.close()
        self.cut()
        self.release()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
                if self._refusing:
                    client.close()
                    continue
                server = socket.create_connection((self._host, int(self._port)))
            except OSError:
                if self._listener.fileno() < 0:
                    return
                client.close()
                continue
            with self._lock:
                budget = [self._cuts[0]] if self._cuts else None  # shared by both directions
                self._open.append((client, server))
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=(source, target, client, server, budget), daemon=True).start()

    def _forward(self, source, target, client, server, budget):
        try:
            while data := source.recv(4096):
                if budget is not None:
                    data = data[:max(0, budget[0])]
                    budget[0] -= len(data)
                target.sendall(data)
                if budget is not None and budget[0] <= 0:
                    break
        except OSError:
            pass
        with self._lock:
            first = (client, server) in self._open
            if first:
                self._open.remove((client, server))
                if budget is not None and budget[0] <= 0 and self._cuts:
                    self._cuts.pop(0)
        if first:
            self._break(client, server)

    def _break(self, client, server):
        # close() alone would wait for the other thread's recv to end.
        for end in (client,) if self._hold else (client, server):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()
        if self._hold:
            with self._lock:
                self._held.append(server)

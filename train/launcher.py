"""accelerate's launcher, whose processes meet on loopback: torch's own ways listen everywhere.

What listens is a store without a key, for as long as the training lasts: who reaches it could
end the training, or have its processes speak to others.
"""

import socket

from accelerate.commands.launch import main
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.rendezvous import (
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

NAME = "loopback"
_HOST = "127.0.0.1"


class LoopbackRendezvous(StaticTCPRendezvous):
    """Where the processes of this machine meet: a store of the launcher's, at a free port."""

    def __init__(self, parameters: RendezvousParameters) -> None:
        # The store takes an address to listen on in this form only.
        with socket.socket() as listening:
            listening.bind((_HOST, 0))
            port = listening.getsockname()[1]
            super().__init__(_HOST, port, 0, 1, parameters.run_id, 600)
            self._loopback = TCPStore(
                _HOST,
                port,
                1,
                is_master=True,
                timeout=self.timeout,
                master_listen_fd=listening.detach(),
            )

    def get_backend(self) -> str:
        """Return its name."""
        return NAME

    def next_rendezvous(self) -> RendezvousInfo:
        """Return the store, in which this launcher is the only one."""
        store = PrefixStore(self.run_id, self._loopback)
        where = RendezvousStoreInfo(self.master_addr, self.master_port)
        return RendezvousInfo(store, self.rank, self.world_size, where)


if __name__ == "__main__":
    rendezvous_handler_registry.register(NAME, LoopbackRendezvous)
    main()

"""A cable between two interfaces that holds back what one address sends or gets. For kernels without netem."""

import heapq
import select
import socket
import threading
import time

ETH_P_ALL = 0x0003
PACKET_VNET_HDR = 15  # checksums and segments that the sender's kernel left to the hardware stay described
PACKET_IGNORE_OUTGOING = 23
SOL_PACKET = 263
VNET_HEADER = 10
LONGEST = VNET_HEADER + 14 + 65536


class Cable:
    """Carries frames both ways while the context is open; IPv4 frames from or to `address` `seconds` later."""

    def __init__(self, one, other, address, seconds):
        self._ends = (_packets(one), _packets(other))
        self._address = socket.inet_aton(address)
        self._seconds = seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._carry)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()
        for end in self._ends:
            end.close()

    def _carry(self):
        one, other = self._ends
        across = {one: other, other: one}
        held = []  # (due, number, to, frame)
        number = 0
        while not self._over.is_set():
            wait = max(held[0][0] - time.monotonic(), 0) if held else 0.1
            for end in select.select(self._ends, [], [], wait)[0]:
                frame = end.recv(LONGEST)
                late = self._seconds if self._is_held(frame[VNET_HEADER:]) else 0
                number += 1
                heapq.heappush(held, (time.monotonic() + late, number, across[end], frame))
            while held and held[0][0] <= time.monotonic():
                _, _, to, frame = heapq.heappop(held)
                to.send(frame)

    def _is_held(self, frame):
        return frame[12:14] == b"\x08\x00" and self._address in (frame[26:30], frame[30:34])


def _packets(interface):
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    end.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    end.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    end.bind((interface, 0))
    return end

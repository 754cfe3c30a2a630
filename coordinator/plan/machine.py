"""A machine that can run a stage, and the link that it is reached by. Pure."""

import msgspec

from coordinator.plan.cost import Piece

MOST_MACHINES = 64  # of one plan


class Link(msgspec.Struct, frozen=True):
    """A network: seconds until the first byte arrives, then bytes a second."""

    name: str
    latency: float
    bandwidth: float

    def seconds(self, nbytes: int) -> float:
        """One message, one way."""
        return self.latency + nbytes / self.bandwidth


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A chip with its memory. Equal names are one machine.

    `usable` of its `memory` bytes hold weights and state; the rest is headroom for the system and for what a step
    needs meanwhile. `bandwidth` is what the maker states, `read` what can be sustained (bytes a second), `compute`
    what its products reach (operations a second), `layer_seconds` what a layer costs beyond its bytes:
    launches. `stages` of them on it compute at the same time without slowing each other down.
    """

    name: str
    chip: str
    memory: int
    usable: int
    bandwidth: float
    read: float
    compute: float
    layer_seconds: float
    link: Link
    stages: int = 1

    def decode_seconds(self, piece: Piece, batch: int, positions: int = 0) -> float:
        """One token of each of `batch` sequences, `positions` long before it."""
        nbytes, flops = piece.step_bytes(batch, batch, positions), piece.step_flops(batch, positions)
        return self._seconds(piece, nbytes, flops)

    def prefill_seconds(self, piece: Piece, rows: int, positions: int = 0, sampled: int = 0) -> float:
        """`rows` tokens of one prompt, behind `positions` others; of them `sampled` go through the head."""
        if piece.kind == "head":
            return self.decode_seconds(piece, sampled) if sampled else 0.0
        # a row attends on average to half of the rows before it in its own chunk
        flops = piece.step_flops(rows, positions + rows // 2)
        return self._seconds(piece, piece.step_bytes(rows, 1, positions), flops)

    def _seconds(self, piece: Piece, nbytes: float, flops: float) -> float:
        overhead = 0.0 if piece.kind == "embedding" else self.layer_seconds
        return max(nbytes / self.read, flops / self.compute) + overhead


def hop_seconds(sender: Machine, receiver: Machine, nbytes: int) -> float:
    """A message from one machine to another one, as fast as the slower of their links; on one machine nothing."""
    if sender.name == receiver.name:
        return 0.0
    return max(sender.link.latency, receiver.link.latency) + transfer_seconds(sender, receiver, nbytes)


def transfer_seconds(sender: Machine, receiver: Machine, nbytes: int) -> float:
    """For how long a message keeps the link busy."""
    if sender.name == receiver.name:
        return 0.0
    return nbytes / min(sender.link.bandwidth, receiver.link.bandwidth)

"""A plan: machines in order, the layers of each, and what follows from that. Pure."""

from collections import Counter
from typing import Literal

import msgspec

from coordinator.plan.cost import ModelCost, Piece
from coordinator.plan.machine import Machine, hop_seconds, transfer_seconds

TYPICAL_CONTEXT = 32768  # positions, where nobody says
TOKEN_BYTES = 64  # of a message with a few tokens, back to the first stage

Objective = Literal["throughput", "latency"]


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What has to fit and what to plan for: so many sequences of `context` positions, `batch` of them in a step."""

    context: int
    sequences: int
    batch: int = 1


class Stage(msgspec.Struct, frozen=True):
    """Layers [first, end) on a machine."""

    machine: Machine
    first: int
    end: int


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All stages of a model; predictions are for a decode step of `demand.batch` sequences at their beginning."""

    model: ModelCost
    demand: Demand
    objective: Objective
    stages: tuple[Stage, ...]

    @property
    def bytes_read_per_token(self) -> float:
        """Bytes that the whole model reads, and writes of state, for a token of one of the batch's sequences."""
        return sum(self.stage_bytes(stage) for stage in self.stages)

    @property
    def fraction_of_bandwidth(self) -> float:
        """Of the time of a round, the part that its bytes would take at the bandwidth that the makers state."""
        batch = self.demand.batch
        ideal = sum(batch * self.stage_bytes(stage) / stage.machine.bandwidth for stage in self.stages)
        return ideal / self.round_seconds()

    @property
    def pattern(self) -> str:
        """One character a layer."""
        return "".join(piece.kind for piece in self.model.layers)

    @property
    def shares_machine(self) -> bool:
        """Whether one machine runs several stages."""
        return len({stage.machine.name for stage in self.stages}) < len(self.stages)

    def pieces(self, stage: Stage) -> tuple[Piece, ...]:
        """What the stage holds."""
        return self.model.pieces(stage.first, stage.end)

    def kinds(self, stage: Stage) -> Counter[str]:
        """The stage's layers by kind, and its embedding and head."""
        return Counter(piece.kind for piece in self.pieces(stage))

    def resident_bytes(self, stage: Stage) -> int:
        """Weights of the stage."""
        return sum(piece.resident_bytes for piece in self.pieces(stage))

    def state_bytes(self, stage: Stage) -> int:
        """State of all sequences at the end of their context."""
        demand = self.demand
        return demand.sequences * sum(piece.state.bytes(demand.context) for piece in self.pieces(stage))

    def stage_bytes(self, stage: Stage, positions: int = 0) -> float:
        """What the stage reads for a token, sequences being `positions` long."""
        batch = self.demand.batch
        return sum(piece.step_bytes(batch, batch, positions) for piece in self.pieces(stage)) / batch

    def step_seconds(self, stage: Stage, positions: int = 0) -> float:
        """A decode step of the batch."""
        batch = self.demand.batch
        return sum(stage.machine.decode_seconds(piece, batch, positions) for piece in self.pieces(stage))

    def prefill_seconds(self, stage: Stage, rows: int, positions: int, sampled: int) -> float:
        """A piece of one prompt; see `Machine.prefill_seconds`."""
        return sum(
            stage.machine.prefill_seconds(piece, rows, positions, sampled=sampled) for piece in self.pieces(stage)
        )

    def decode_seconds(self, stage: Stage, batch: int, positions: int) -> float:
        """A decode step of any batch."""
        return sum(stage.machine.decode_seconds(piece, batch, positions) for piece in self.pieces(stage))

    def hops(self, rows: int) -> list[float]:
        """Seconds of the hop after each stage, the last one's being that of the tokens back to the first."""
        machines = [stage.machine for stage in self.stages]
        nbytes = [self.model.hidden_bytes(rows)] * (len(machines) - 1) + [TOKEN_BYTES]
        return [
            hop_seconds(sender, receiver, size)
            for sender, receiver, size in zip(machines, machines[1:] + machines[:1], nbytes, strict=True)
        ]

    def transfer(self, index: int, rows: int) -> float:
        """For how long the hop after stage `index` keeps its link busy."""
        machines = [stage.machine for stage in self.stages]
        if index == len(machines) - 1:
            return 0.0
        return transfer_seconds(machines[index], machines[index + 1], self.model.hidden_bytes(rows))

    def round_seconds(self, positions: int = 0) -> float:
        """A token through all stages and back: what one user waits for."""
        return sum(self.step_seconds(stage, positions) for stage in self.stages) + sum(self.hops(self.demand.batch))

    def cycle_seconds(self, positions: int = 0) -> float:
        """The time between steps when as many batches run as there are stages: the slowest stage's, or more where hops
        or a shared machine are slower."""
        steps = [self.step_seconds(stage, positions) for stage in self.stages]
        bounds = [*steps, self.round_seconds(positions) / len(steps)]
        bounds += [self.transfer(index, self.demand.batch) for index in range(len(steps))]
        if self.shares_machine:
            bounds.append(sum(steps) / min(self.stages[0].machine.stages, len(steps)))
        return max(bounds)

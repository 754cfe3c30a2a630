"""Stages that compute a hash chain instead of a model, and what carries their messages instead of sockets.

A lost, doubled or crossed row changes every later token.
"""

import hashlib

from worker.errors import ProtocolError
from worker.footprint import Footprint
from worker.links.window import WINDOW_MESSAGES, Window
from worker.links.wire import encode
from worker.model.engine import Pending
from worker.protocol import Activations, Held, Sampled, Tokens
from worker.telemetry.memory import Memory

VOCABULARY = 251
STOP_TOKEN = 7
FOOTPRINT = Footprint(constant=100, growing=10)


def mix(layer, state, row):
    return hashlib.sha256(bytes([layer]) + state + row).digest()


def embed(token):
    return hashlib.sha256(b"token" + token.to_bytes(4, "little")).digest()


def expected_tokens(request, stages):
    """What one process without pipeline, batches or chunks generates."""
    states = [b""] * stages
    sequence, generated = list(request.prompt), []
    fed = 0
    while True:
        for token in sequence[fed:]:
            row = embed(token)
            for stage in range(stages):
                row = states[stage] = mix(stage, states[stage], row)
        fed = len(sequence)
        token = row[0] % VOCABULARY
        sequence.append(token)
        generated.append(token)
        if token in request.stop_tokens or len(generated) == request.max_tokens:
            return generated


class Still:
    """A world whose clock stands still."""

    now = 0.0

    def cost(self, stage, batch, rows):
        return 0.0


STILL = Still()


class HashEngine:
    """Stands for `worker.model.engine.Engine`."""

    hidden_size = 8  # one digest

    def __init__(self, stage, stages, computes_in_background, snapshots, world=STILL):
        self.world = world
        self.layer = stage
        self.is_first, self.is_last = stage == 0, stage == stages - 1
        self.computes_in_background = computes_in_background
        self.steps = 0
        self.states, self.rows, self.openings, self.last = {}, {}, {}, {}
        self.free = 0.0  # when the last step that was started is done
        self.snapshots = snapshots

    def open(self, message):
        assert message.request not in self.states
        if message.restore is not None and message.restore not in self.snapshots:
            raise ProtocolError(f"snapshot {message.restore} is not here")
        self.states[message.request] = b"" if message.restore is None else self.snapshots[message.restore]
        self.openings[message.request] = message
        self.rows[message.request] = message.first

    def close(self, request):
        del self.states[request], self.rows[request], self.openings[request]

    @property
    def held(self):
        return tuple(Held(name, _bytes_of(name)) for name in self.snapshots)

    def save(self, request, position, name):
        assert position == self.rows[request] == int(name.partition("-")[0])
        assert name not in self.snapshots
        self.snapshots[name] = self.states[request]
        return _bytes_of(name)

    def write(self, name):
        assert name in self.snapshots

    def drop(self, name):
        self.snapshots.pop(name, None)

    def memory(self):
        return Memory(0, 0, self.nbytes, len(self.states))

    @property
    def nbytes(self):
        return sum(FOOTPRINT.bytes(rows) for rows in self.rows.values() if rows)

    def start_tokens(self, batch, segments, tokens, measured=False):
        return self._start(
            batch, segments, [embed(token) for token in (self.last[batch] if tokens is None else tokens)]
        )

    def start_hidden(self, message, payload, measured=False):
        data = bytes(payload)
        return self._start(message.batch, message.segments, [data[i : i + 32] for i in range(0, len(data), 32)])

    def _start(self, batch, segments, rows):
        rows, output, ends = iter(rows), [], []
        for segment in segments:
            for _ in range(segment.count):
                state = mix(self.layer, self.states[segment.request], next(rows))
                self.states[segment.request] = state
                self.rows[segment.request] += 1
                output.append(state)
            ends.append(state)
        if self.is_last and batch is not None:
            self.last[batch] = [state[0] % VOCABULARY for state in ends]
        self.free = max(self.free, self.world.now) + self.world.cost(self.layer, batch, len(output))
        return Pending(batch, segments, (output, ends, self.free))

    def finish(self, pending, epoch):
        self.steps += 1
        output, ends, done = pending.output
        self.world.now = max(self.world.now, done)
        if not self.is_last:
            header = Activations(
                epoch=epoch, batch=pending.batch, segments=pending.segments, dtype="float32", shape=(len(output), 8)
            )
            return header, memoryview(b"".join(output))
        sampled = []
        for segment, state in zip(pending.segments, ends, strict=True):
            if segment.sample:
                opening, position = self.openings[segment.request], segment.first + segment.count
                token = state[0] % VOCABULARY
                finish = "stop" if token in opening.stop_tokens else "length" if position + 1 >= opening.limit else None
                sampled.append(Sampled(segment.request, position, token, finish))
        if not any(segment.sample for segment in pending.segments):
            return None
        return Tokens(epoch=epoch, batch=pending.batch, tokens=tuple(sampled))


def _bytes_of(name):
    return FOOTPRINT.snapshot_bytes(int(name.partition("-")[0]))


class MemoryLinks:
    """Stands for `worker.links.links.Links`; the world carries what is sent."""

    def __init__(self, world, stage, epoch):
        self.world, self.stage, self.epoch = world, stage, epoch
        self.endpoint = f"memory-{stage}"
        self.window = Window()
        self.arrived = []
        self.is_linked = False
        self.problem = None  # to be raised

    @property
    def has_room(self):
        return self.window.has_room

    def connect(self, endpoint, server):
        assert endpoint in (None, f"memory-{(self.stage + 1) % self.world.stages}")
        self.is_linked = True

    def send(self, message, payload=None):
        sequence = self.window.sent(len(payload or b""))
        frames = encode(message), bytes(payload or b"")
        self.world.put(self.world.links[self.stage], (self.epoch, sequence, *frames))
        return self.world.now

    def credits(self):
        return WINDOW_MESSAGES - self.window.unapplied

    def receive(self, at, woken):
        if self.problem is not None:
            problem, self.problem = self.problem, None
            raise problem
        arrived, self.arrived = self.arrived, []
        return arrived

    def send_receipt(self):
        pass

    def acknowledge(self, received):
        self.world.put(self.world.acks[(self.stage - 1) % self.world.stages], (self.epoch, received.sequence))


class MemoryTransport:
    """Stands for `worker.links.transport.Transport`."""

    def __init__(self, world, stage):
        self.world, self.stage = world, stage
        self.inbox = []
        self.links = None

    def has_regained_control(self):
        return False  # as in a cluster on one machine

    def orders(self):
        orders, self.inbox = self.inbox, []
        return orders

    def report(self, message):
        self.world.put(self.world.reports[self.stage], encode(message))

    def new_links(self, epoch, hops, *, remote, peer):
        self.links = MemoryLinks(self.world, self.stage, epoch)
        return self.links

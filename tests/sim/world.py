"""A cluster in one thread: the real scheduler, cluster state and worker loops over queues instead of sockets and a hash
chain instead of a model, so that a lost, doubled or crossed row changes every later token.

A seeded generator decides which queue delivers and which stage runs next; frames travel as bytes.
"""

import hashlib
import random
from collections import defaultdict, deque

from coordinator.cluster import Cluster
from coordinator.coordination import Coordination
from coordinator.request import Request
from coordinator.scheduler import Scheduler
from worker.engine import Pending
from worker.links import Received
from worker.protocol import (
    Activations,
    Assign,
    FromWorker,
    Hello,
    OnLink,
    Sampled,
    Sampling,
    Tokens,
    ToWorker,
    decode,
    encode,
)
from worker.service import Service
from worker.window import Window

VOCABULARY = 251
STOP_TOKEN = 7
LEASE = 4


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


class HashEngine:
    """Stands for `worker.engine.Engine`."""

    hidden_size = 8  # one digest
    fused_layers = 0

    def __init__(self, stage, stages, computes_in_background):
        self.layer = stage
        self.is_first, self.is_last = stage == 0, stage == stages - 1
        self.computes_in_background = computes_in_background
        self.steps = 0
        self.states, self.openings, self.last = {}, {}, {}

    def open(self, message):
        assert message.request not in self.states
        self.states[message.request] = b""
        self.openings[message.request] = message

    def close(self, request):
        del self.states[request], self.openings[request]

    def memory(self):
        return 0, len(self.states), len(self.states)

    def start_tokens(self, batch, segments, tokens):
        return self._start(
            batch, segments, [embed(token) for token in (self.last[batch] if tokens is None else tokens)]
        )

    def start_hidden(self, message, payload):
        data = bytes(payload)
        return self._start(message.batch, message.segments, [data[i : i + 32] for i in range(0, len(data), 32)])

    def _start(self, batch, segments, rows):
        rows, output, ends = iter(rows), [], []
        for segment in segments:
            for _ in range(segment.count):
                state = mix(self.layer, self.states[segment.request], next(rows))
                self.states[segment.request] = state
                output.append(state)
            ends.append(state)
        if self.is_last and batch is not None:
            self.last[batch] = [state[0] % VOCABULARY for state in ends]
        return Pending(batch, segments, (output, ends))

    def finish(self, pending, epoch):
        self.steps += 1
        output, ends = pending.output
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


class MemoryLinks:
    """Stands for `worker.links.Links`; the world carries what is sent."""

    def __init__(self, world, stage, epoch):
        self.world, self.stage, self.epoch = world, stage, epoch
        self.endpoint = f"memory-{stage}"
        self.window = Window()
        self.arrived = []

    @property
    def has_room(self):
        return self.window.has_room

    def connect(self, endpoint):
        assert endpoint == f"memory-{(self.stage + 1) % self.world.stages}"

    def send(self, message, payload=None):
        sequence = self.window.sent(len(payload or b""))
        self.world.links[self.stage].append((self.epoch, sequence, encode(message), bytes(payload or b"")))

    def receive(self):
        arrived, self.arrived = self.arrived, []
        return arrived

    def acknowledge(self, received):
        self.world.acks[(self.stage - 1) % self.world.stages].append((self.epoch, received.sequence))


class MemoryTransport:
    """Stands for `worker.transport.Transport`."""

    def __init__(self, world, stage):
        self.world, self.stage = world, stage
        self.inbox = []
        self.links = None

    def orders(self):
        orders, self.inbox = self.inbox, []
        return orders

    def report(self, message):
        self.world.reports[self.stage].append(encode(message))

    def new_links(self, epoch):
        self.links = MemoryLinks(self.world, self.stage, epoch)
        return self.links


class World:
    """Coordination and `stages` workers; `step` lets one thing happen."""

    def __init__(self, *, stages, seed, chunk=5, max_running=6, repeats=0.0):
        self.random = random.Random(seed)
        self.stages, self.repeats = stages, repeats
        self.links, self.acks, self.reports = defaultdict(deque), defaultdict(deque), defaultdict(deque)
        self.commands = defaultdict(deque)
        self.cluster = Cluster(
            model="hash",
            source="hash",
            layers=[(stage, stage + 1) for stage in range(stages)],
            pattern="M" * stages,
            quantize=None,
        )
        self.scheduler = Scheduler(stages=stages, chunk=chunk, lease=LEASE, max_running=max_running)
        self.coordination = Coordination(self.cluster, self.scheduler)
        self.tokens, self.finished, self.errors = defaultdict(list), {}, {}
        self.services, self.engines = [], {}
        for stage in range(stages):
            self.cluster.spawned(stage, "life", stage, 0.0)
            self.services.append(self._service(stage))

    def _service(self, stage):
        def load(assign: Assign, progress):
            def new_engine():
                background = self.random.random() < 0.5
                self.engines[stage] = HashEngine(assign.stage, assign.stages, background)
                return self.engines[stage]

            return new_engine

        transport = MemoryTransport(self, stage)
        transport.report(Hello(protocol=1, pid=stage, host="here", backend="none"))
        return Service(transport, stage=stage, stages=self.stages, load=load)

    def submit(self, number, request):
        self._carry_out(self.coordination.submit(number, request))

    def cancel(self, number):
        self._carry_out(self.coordination.cancel(number))

    def kill(self, stage):
        """The stage's process ends with all it holds, and is started again."""
        for queues in (self.reports, self.commands):
            queues[stage].clear()
        self.links[stage].clear()
        self.acks[(stage - 1) % self.stages].clear()
        self._carry_out(self.coordination.lost(stage, "killed", 0.0))
        self.cluster.spawned(stage, f"life {self.random.random()}", stage, 0.0)
        self.services[stage] = self._service(stage)

    def _carry_out(self, effects):
        for stage, message in effects.orders:
            self.commands[stage].append(encode(message))
        for number, token in effects.tokens:
            assert number not in self.finished, "a token after the end"
            self.tokens[number].append(token.id)
            if token.finish:
                self.finished[number] = token.finish
        self.errors |= dict(effects.errors)

    def step(self):
        """One random thing happens; False if nothing can."""
        choices = [(self._deliver_report, stage) for stage, waiting in self.reports.items() if waiting]
        choices += [(self._deliver_command, stage) for stage, waiting in self.commands.items() if waiting]
        choices += [(self._deliver_link, stage) for stage, waiting in self.links.items() if waiting]
        choices += [(self._deliver_ack, stage) for stage, waiting in self.acks.items() if waiting]
        choices += [(self._turn, stage) for stage in range(self.stages)]
        self.random.shuffle(choices)
        return any(act(stage) for act, stage in choices)

    def _turn(self, stage):
        return self.services[stage].turn()

    def _deliver_command(self, stage):
        self.services[stage]._transport.inbox.append(decode(self.commands[stage].popleft(), ToWorker))
        return True

    def _deliver_link(self, stage):
        epoch, sequence, frame, payload = self.links[stage][0]
        message = decode(frame, OnLink)
        if not isinstance(message, Activations | Tokens) or self.random.random() >= self.repeats:
            self.links[stage].popleft()
        links = self.services[(stage + 1) % self.stages]._transport.links
        if links is not None and links.epoch == epoch:  # else its sockets are others by now
            links.arrived.append(Received(sequence, message, memoryview(payload)))
        return True

    def _deliver_ack(self, stage):
        epoch, sequence = self.acks[stage].popleft()
        links = self.services[stage]._transport.links
        if links is not None and links.epoch == epoch:
            links.window.applied(sequence)
        return True

    def _deliver_report(self, stage):
        message = decode(self.reports[stage].popleft(), FromWorker)
        self._carry_out(self.coordination.received(stage, self.cluster.session(stage), message, 0.0))
        return True


def request(number, prompt, max_tokens, stop=True):
    return Request(
        id=str(number),
        prompt=tuple(prompt),
        max_tokens=max_tokens,
        sampling=Sampling(),
        stop_tokens=(STOP_TOKEN,) if stop else (),
    )

"""A cluster in one thread: the real scheduler, cluster state and worker loops over queues instead of sockets and a hash
chain instead of a model. Its clock stands still unless somebody moves it.

A seeded generator decides which queue delivers and which stage runs next; frames travel as bytes.
"""

import random
from collections import defaultdict, deque

from coordinator.cluster import Cluster
from coordinator.coordination import Coordination
from coordinator.request import Request
from coordinator.scheduling.budget import Budget
from coordinator.scheduling.pace import Pace
from coordinator.scheduling.scheduler import Bounds, Scheduler
from tests.sim.stages import FOOTPRINT, STOP_TOKEN, HashEngine, MemoryTransport
from worker.links.links import Received
from worker.links.wire import decode, encode
from worker.protocol import (
    PROTOCOL_VERSION,
    Activations,
    Assign,
    Closed,
    FromWorker,
    Hello,
    OnLink,
    Sampling,
    Tokens,
    ToWorker,
)
from worker.service import Service
from worker.telemetry.facts import Facts

LEASE = 4
FACTS = Facts(
    first=0,
    end=1,
    pattern="M",
    backend="none",
    host="here",
    fused_layers=0,
    fused_rows=0,
    parameter_bytes=0,
    bandwidth=0.0,
    state=FOOTPRINT,
    memory="here",
    usable_bytes=0,
    read_bytes=float,
)


class World:
    """Coordination and `stages` workers; `step` lets one thing happen."""

    def __init__(
        self, *, stages, seed, chunk=5, lease=LEASE, repeats=0.0, state_bytes=None, snapshot_bytes=None, **bounds
    ):
        bounds = {"max_running": 6, "max_waiting": 99, "queue_timeout": 1e9, "request_timeout": 1e9} | bounds
        self.now = 0.0
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
        self.scheduler = Scheduler(
            stages=stages,
            lease=lease,
            bounds=Bounds(**bounds),
            budget=Budget(),
            pace=Pace(most=chunk, pause=1e9),
        )
        self.coordination = Coordination(
            self.cluster, self.scheduler, state_bytes=state_bytes, snapshot_bytes=snapshot_bytes
        )
        self.tokens, self.finished, self.errors, self.cached = defaultdict(list), {}, {}, {}
        self.times = {}  # of requests that every stage has closed
        self.services, self.engines = [], {}
        for stage in range(stages):
            self.cluster.starting(stage, "life", 0.0)
            self.services.append(self._service(stage))

    def _service(self, stage):
        snapshots = {}  # they outlive an epoch, but not a process

        def load(assign: Assign, progress):
            def new_engine():
                background = self.computes_in_background()
                self.engines[stage] = HashEngine(assign.stage, assign.stages, background, snapshots, self)
                return self.engines[stage]

            return new_engine, FACTS

        transport = MemoryTransport(self, stage)
        transport.report(Hello(protocol=PROTOCOL_VERSION, pid=stage, host="here", backend="none"))
        return Service(transport, stage=stage, stages=self.stages, load=load)

    def submit(self, number, request):
        """Raises what refuses the request."""
        self._carry_out(self.coordination.submit(number, request, self.now))

    def expire(self):
        self._carry_out(self.coordination.expire(self.now))

    def cancel(self, number):
        self._carry_out(self.coordination.cancel(number))

    def kill(self, stage):
        """The stage's process ends with all it holds, and is started again."""
        for queues in (self.reports, self.commands):
            queues[stage].clear()
        self.links[stage].clear()
        self.acks[(stage - 1) % self.stages].clear()
        self._carry_out(self.coordination.lost(stage, "killed", self.now))
        self.cluster.starting(stage, f"life {self.random.random()}", self.now)
        self.services[stage] = self._service(stage)

    def _carry_out(self, effects):
        for stage, message in effects.orders:
            self.put(self.commands[stage], encode(message))
        for number, token in effects.tokens:
            assert number not in self.finished | self.errors, "a token after the end"
            self.tokens[number].append(token.id)
            self.cached[number] = self.cached.get(number, 0) + token.cached
            if token.finish:
                self.finished[number] = token.finish
        for number, error in effects.errors:
            assert number not in self.finished | self.errors, "a second end"
            self.errors[number] = error

    # --- what a world with a clock of its own decides otherwise ---

    def put(self, queue, item):
        """Something is sent now."""
        queue.append((self.now, item))

    def cost(self, stage, batch, rows):
        """Seconds of a step."""
        return 0.0

    def computes_in_background(self):
        return self.random.random() < 0.5

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
        self.services[stage]._transport.inbox.append(decode(self.commands[stage].popleft()[1], ToWorker))
        return True

    def _deliver_link(self, stage):
        epoch, sequence, frame, payload = self.links[stage][0][1]
        message = decode(frame, OnLink)
        if not isinstance(message, Activations | Tokens) or self.random.random() >= self.repeats:
            self.links[stage].popleft()
        links = self.services[(stage + 1) % self.stages]._transport.links
        if links is not None and links.epoch == epoch:  # else its sockets are others by now
            links.arrived.append(Received(sequence, message, memoryview(payload), self.now))
        return True

    def _deliver_ack(self, stage):
        epoch, sequence = self.acks[stage].popleft()[1]
        links = self.services[stage]._transport.links
        if links is not None and links.epoch == epoch:
            links.window.applied(sequence)
        return True

    def _deliver_report(self, stage):
        message = decode(self.reports[stage].popleft()[1], FromWorker)
        if isinstance(message, Closed):
            self.times[message.request] = message.times
        self._carry_out(self.coordination.received(stage, self.cluster.session(stage), message, self.now))
        return True


def request(number, prompt, max_tokens, stop=True):
    return Request(
        id=str(number),
        prompt=tuple(prompt),
        max_tokens=max_tokens,
        sampling=Sampling(),
        stop_tokens=(STOP_TOKEN,) if stop else (),
    )

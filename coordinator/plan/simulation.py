"""What a load will see of a pipeline, by discrete events. Pure.

The real scheduler, the real driver of stage 0 and the real rules of what leaves a stage first decide, on a simulated
clock; only computing and hops are predicted. Between coordinator and stage 0 messages take no time.
"""

import math
from collections.abc import Sequence
from functools import partial

from coordinator.load.plan import Planned
from coordinator.load.report import Report, Seen, report
from coordinator.plan.clock import Clock
from coordinator.plan.simulated_stage import Clockwork, SimulatedStage
from coordinator.request import Request
from coordinator.scheduling.budget import Budget
from coordinator.scheduling.pace import Pace
from coordinator.scheduling.scheduler import Bounds, Scheduler
from worker.driver import Driver
from worker.protocol import Activations, Chunk, Close, Lease, Message, Open, Sampled, Sampling, Segment, Tokens

EPOCH = 1
LEASE_STEPS = 32
FOREVER = 1e12


def simulate(
    clockwork: Clockwork, load: Sequence[Planned], *, chunk: int, pause: float = math.inf, max_running: int
) -> Report:
    """The load's report, as `stageline bench serve` gives it of a real server.

    `chunk`, `pause` and `max_running` are the settings prefill_chunk, decode_pause and max_running.
    """
    return _Simulation(clockwork, chunk=chunk, pause=pause, max_running=max_running).run(load)


class _Simulation:
    def __init__(self, clockwork: Clockwork, *, chunk: int, pause: float, max_running: int) -> None:
        stages = clockwork.stages
        pace = Pace(most=chunk, pause=pause)
        for stage in range(stages):
            pace.heard(stage, chunk, clockwork.prefill(stage, chunk, 0, 0))
        self._scheduler = Scheduler(
            stages=stages,
            lease=LEASE_STEPS,
            bounds=Bounds(max_running=max_running, max_waiting=1 << 30, queue_timeout=FOREVER, request_timeout=FOREVER),
            budget=Budget(),
            pace=pace,
        )
        self._scheduler.begin(EPOCH, ())
        self._driver = Driver(run_ahead=0)
        self._clock = Clock()
        self._capacity = clockwork.capacity()
        self._stages = [
            SimulatedStage(stage, clockwork, self._clock, partial(self._arrive, (stage + 1) % stages))
            for stage in range(stages)
        ]
        self._waiting: list[int] = []  # stages with something to do, in the order in which it came
        self._limits: dict[int, int] = {}
        self._arrivals: dict[int, list[float]] = {}

    def run(self, load: Sequence[Planned]) -> Report:
        for number, planned in enumerate(load):
            self._clock.at(planned.at, partial(self._submit, number, planned))
        self._clock.run(self._start)
        seen = [self._seen(number, planned) for number, planned in enumerate(load)]
        elapsed = max((times[-1] for times in self._arrivals.values() if times), default=0.0)
        busy = [stage.seconds / elapsed if elapsed else 0.0 for stage in self._stages]
        return report("simulation", seen, elapsed or 1.0, busy)

    def _seen(self, number: int, planned: Planned) -> Seen:
        times = self._arrivals[number]
        return Seen(
            outcome="done" if len(times) == planned.answer_tokens else "failed",
            reason="the simulation did not end it",
            prompt_tokens=planned.prompt_tokens,
            answer_tokens=len(times),
            arrivals=tuple(at - planned.at for at in times),
            seconds=(times[-1] if times else self._clock.now) - planned.at,
        )

    # --- coordinator and driver ---

    def _submit(self, number: int, planned: Planned) -> None:
        request = Request(
            id=str(number),
            prompt=(number,) * planned.prompt_tokens,  # unlike every other one: nothing is reused
            max_tokens=planned.answer_tokens,
            sampling=Sampling(),
            stop_tokens=(),
        )
        self._limits[number] = planned.prompt_tokens + planned.answer_tokens
        self._arrivals[number] = []
        self._obey(self._scheduler.submit(number, request, self._clock.now))

    def _obey(self, orders: Sequence[Message]) -> None:
        """Stage 0 hears from the coordinator."""
        for order in orders:
            match order:
                case Open():
                    self._driver.open(order)
                    self._arrive(0, order)
                case Chunk():
                    self._driver.chunk(order, self._clock.now)
                case Lease():
                    self._driver.lease(order, self._clock.now)
                case Close(request=request):
                    self._driver.close(request)
                    self._arrive(0, order)
                case _:  # about snapshots: nothing is reused here
                    pass
        self._wake(0)

    def _sampled(self, tokens: Tokens) -> None:
        """Tokens reach stage 0 and the coordinator."""
        self._driver.tokens(tokens, self._clock.now)
        deliveries, orders = self._scheduler.sampled(tokens)
        for number, _ in deliveries:
            self._arrivals[number].append(self._clock.now)
        self._obey(orders)

    # --- stages ---

    def _arrive(self, stage: int, message: Message) -> None:
        if isinstance(message, Tokens):
            self._sampled(message)
        else:
            self._stages[stage].queue.append(message)
            self._wake(stage)

    def _wake(self, stage: int) -> None:
        if stage not in self._waiting:
            self._waiting.append(stage)

    def _start(self) -> None:
        """Whatever can compute does, as far as there is capacity."""
        for index in list(self._waiting):
            stage = self._stages[index]
            if sum(stage.working for stage in self._stages) == self._capacity:
                return
            if stage.working:
                continue
            message = self._next(index)
            if message is None:
                self._waiting.remove(index)
            else:
                self._clock.at(self._clock.now + stage.compute(message), partial(self._computed, index, message))

    def _next(self, index: int) -> Message | None:
        queue = self._stages[index].queue
        if queue:
            return queue.popleft()
        step = self._driver.next() if index == 0 else None
        if step is None:
            return None
        rows = sum(segment.count for segment in step.segments)
        return Activations(
            epoch=EPOCH,
            batch=step.batch,
            segments=step.segments,
            dtype="bfloat16",
            shape=(rows, 1),
            batches=step.batches,
        )

    def _computed(self, index: int, message: Message) -> None:
        stage = self._stages[index]
        stage.working = False
        self._waiting.remove(index)  # behind the others
        self._wake(index)
        if index < len(self._stages) - 1:
            stage.pass_on(message)
        elif isinstance(message, Close):
            self._obey(self._scheduler.closed(message.request, self._clock.now))
        elif isinstance(message, Activations):
            sampled = tuple(self._token(segment) for segment in message.segments if segment.sample)
            if sampled:
                stage.pass_on(Tokens(epoch=EPOCH, batch=message.batch, tokens=sampled))

    def _token(self, segment: Segment) -> Sampled:
        position = segment.first + segment.count
        ends = position + 1 >= self._limits[segment.request]
        return Sampled(segment.request, position, 0, "length" if ends else None)

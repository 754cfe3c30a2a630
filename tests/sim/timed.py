"""The same cluster by a clock of its own: steps and hops take the seconds that they are given, and what is due first
happens first. Nothing is random, so times are exact."""

from collections import defaultdict
from itertools import pairwise

from tests.sim.world import World


class TimedWorld(World):
    """`decode` seconds a decode step, `prefill` a step of a prompt, on every stage; `hop` from process to process.

    `arrivals` are the times at which a request's tokens reached the coordinator.
    """

    def __init__(self, *, decode, prefill=None, hop=0.0, background=True, **options):
        self.decode, self.prefill, self.hop, self.background = decode, prefill or decode, hop, background
        self.awake = defaultdict(float)  # stages that have something to do, and from when on
        self.arrivals = defaultdict(list)
        super().__init__(seed=0, **({"chunk": 64, "lease": 32, "max_running": 8 * options["stages"]} | options))
        self.awake |= dict.fromkeys(range(self.stages), 0.0)
        self.run_while(lambda: not self.cluster.is_ready)
        self.began = self.now

    def put(self, queue, item):
        queue.append((self.now + self.hop, item))

    def cost(self, stage, batch, rows):
        return self.prefill if batch is None else self.decode

    def computes_in_background(self):
        return self.background

    def run_while(self, condition):
        while condition():
            assert self.step(), "nothing happens any more"

    def run_until(self, time):
        self.run_while(lambda: self._next()[0] <= time)
        self.now = time

    def finish(self, *numbers):
        """Run until these requests are over; returns when."""
        self.run_while(lambda: not all(number in self.finished for number in numbers))
        return max(self.arrivals[number][-1] for number in numbers)

    def gaps(self, number, since=0.0):
        """Seconds between a request's tokens after `since`."""
        return [later - earlier for earlier, later in pairwise(self.arrivals[number]) if later > since]

    def step(self):
        """What is due first happens; False if nothing is."""
        time, act, stage = self._next()
        if act is None:
            return False
        self.now = time
        if act == self._turn:
            if act(stage):
                self.awake[stage] = self.now  # the turn may have waited for a step
            else:
                del self.awake[stage]
            return True
        receiver = {self._deliver_command: stage, self._deliver_link: (stage + 1) % self.stages}.get(act, stage)
        act(stage)
        if act != self._deliver_report:
            self.awake.setdefault(receiver, self.now)
        return True

    def _next(self):
        """The time, what happens then, and where; deliveries before turns of the same time."""
        queues = (
            (self._deliver_report, self.reports),
            (self._deliver_command, self.commands),
            (self._deliver_link, self.links),
            (self._deliver_ack, self.acks),
        )
        due = [(waiting[0][0], act, s) for act, queue in queues for s, waiting in queue.items() if waiting]
        due += [(time, self._turn, stage) for stage, time in self.awake.items()]
        return min(due, key=lambda event: event[0], default=(float("inf"), None, None))

    def _carry_out(self, effects):
        super()._carry_out(effects)
        for number, _ in effects.tokens:
            self.arrivals[number].append(self.now)

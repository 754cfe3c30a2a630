"""`stageline worker`: one stage's process. `stageline up` starts these; by hand it is for debugging one stage."""

import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import click

# An expert stack counts as hundreds of MB of new inputs and would end a Metal command buffer at each product
# (default limit 50 MB); 40000 is above the largest stack of the family. Read once, when MLX starts.
_MLX_DEFAULTS = {"MLX_MAX_MB_PER_BUFFER": "40000"}


@click.command()
@click.option("--control", required=True, help="Endpoint of the coordinator's control socket.")
@click.option("--session", required=True, help="Name of this life of the stage, new at every start.")
@click.option("--stage", required=True, type=click.IntRange(0))
@click.option("--stages", required=True, type=click.IntRange(1))
@click.option("--runtime", required=True, type=click.Path(path_type=Path), help="Directory for socket files.")
@click.option("--leave-with-parent", is_flag=True, help="Leave when standard input closes.")
def main(control: str, session: str, stage: int, stages: int, runtime: Path, leave_with_parent: bool) -> None:
    """Serve one stage of a cluster, under a coordinator."""
    for name, value in _MLX_DEFAULTS.items():
        os.environ.setdefault(name, value)
    if leave_with_parent:
        threading.Thread(target=_leave_with_parent, args=(runtime,), name="parent", daemon=True).start()

    from worker.loading import hello, load_stage_of  # imports mlx, which reads the environment
    from worker.pulse import Pulse
    from worker.service import Service
    from worker.transport import Transport

    transport = Transport(control=control, session=session, stage=stage, stages=stages, runtime=runtime)
    service = Service(transport, stage=stage, stages=stages, load=load_stage_of)
    signal.signal(signal.SIGTERM, lambda *_: service.terminate())
    pulse = Pulse(control=control, session=session, stage=stage)
    pulse.start(service.vitals.heartbeat)
    try:
        sys.exit(service.run(hello()))
    finally:
        pulse.close()


def _leave_with_parent(runtime: Path) -> None:
    """Standard input is a pipe that nobody writes to; it ends when the coordinator does, however that happens."""
    while os.read(0, 1):
        pass
    shutil.rmtree(runtime, ignore_errors=True)  # nobody else is left to do it
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)
    os._exit(1)  # the compute thread is stuck and nobody is left to end it


if __name__ == "__main__":
    main()

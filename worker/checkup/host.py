"""All that can be said of this host alone."""

import os
import platform
from collections.abc import Iterable
from pathlib import Path

from worker.agent.messages import Finding
from worker.checkup import (
    backend,
    descriptors,
    disk,
    environment,
    gpu_memory,
    installed,
    key_files,
    local_network,
    memory,
    sleep,
    wired_limit,
)
from worker.hardware import memory_bytes, said
from worker.versions import versions


def checkup(*, keys: Path | None, runtime: Path, peers: Iterable[tuple[str, int]] = ()) -> tuple[Finding, ...]:
    """A finding for each check that this host can have; takes seconds, most of them for a process that tries MLX.

    `keys` is the directory with keys, None in a cluster without them. `runtime` is where sockets are made. `peers` are
    the IP address and an open port of each other host.
    """
    system, processor = platform.system(), platform.machine()
    cards = said(*gpu_memory.QUERY)
    live = backend.try_backend()
    total = memory_bytes()
    findings = [
        installed.installed(versions(), installed.mlx_lm()),
        backend.backend(live, system=system, processor=processor, cards=gpu_memory.card_count(cards)),
        environment.environment(os.environ),
        memory.memory(total, memory.meminfo()),
    ]
    if cards:
        findings.append(gpu_memory.gpu_memory(cards))
    if system == "Darwin":
        recommended = 0 if isinstance(live, str) else live.recommended_bytes
        findings.append(wired_limit.wired_limit(total, recommended, said("sysctl", "iogpu.wired_limit_mb")))
        findings.append(local_network.local_network(local_network.tried(peers)))
        findings.append(sleep.sleep_macos(sleep.read_pmset()))
    else:
        findings.append(sleep.sleep_linux(*sleep.read_systemd()))
    findings.append(descriptors.descriptors(*descriptors.read_limits()))
    findings.append(disk.disk([disk.room("sockets", runtime)]))
    if keys is not None:
        findings.append(key_files.key_files(keys))
    return tuple(findings)

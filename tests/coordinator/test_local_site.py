"""Workers of this machine, as the system says they were started."""

import asyncio
import os
from pathlib import Path

import pytest

from coordinator.local_site import LocalSite
from tests.worker.agent.playing import environment_of

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="needs Linux's /proc")


@pytest.mark.parametrize(
    ("stages", "visible", "expected"),
    [(2, None, ["0", "1"]), (1, "1", ["1"]), (3, None, [None] * 3), (2, "1", ["1", "1"])],
    ids=["as many", "a visible one", "too few", "too few visible ones"],
)
def test_each_stage_gets_a_card_if_there_are_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stages: int, visible: str | None, expected: list[str | None]
) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho '0, GPU-a, 1024, NVIDIA H200'\necho '1, GPU-b, 1024, NVIDIA H200'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    async def live() -> list[dict[str, str]]:
        site = LocalSite(stages)
        try:
            pids = [await site.start(stage, "one") for stage in range(stages)]
            return [environment_of(pid) for pid in pids]
        finally:
            for stage in range(stages):
                site.kill(stage)
            await site.stop(lambda: None, hearing=())
            site.close()

    found = asyncio.run(live())
    assert [each.get("CUDA_VISIBLE_DEVICES") for each in found] == expected
    ordered = "PCI_BUS_ID" if len(set(expected)) == stages and expected[0] is not None else None
    assert [each.get("CUDA_DEVICE_ORDER") for each in found] == [ordered] * stages

"""Whether a model is found and fits."""

import pytest

from coordinator.doctor.fit import CORRECT, Found, fit, look
from coordinator.plan.chips import link, machines
from worker.errors import CheckpointError

MACS = machines(("2 x M3 Ultra 512",), link("thunderbolt"))


def test_a_preset_that_fits():
    found = look("super")
    assert isinstance(found, Found)
    assert (found.source, found.hash, found.missing) == ("", "", 0)
    finding = fit("super", found, MACS)
    assert finding.level == "ok"
    assert finding.found == "super: 88 layers, 136 GB of weights (published shapes), 16% of 825 GB usable"


def test_a_model_that_does_not_fit_on_macs_names_the_limit_to_raise():
    finding = fit("ultra", look("ultra"), MACS[:1])
    assert finding.level == "fail"
    assert "ultra (8:32) does not fit on 1 machine" in finding.found
    assert "`sudo sysctl iogpu.wired_limit_mb=458752`" in finding.fix
    assert "`stageline plan ultra`" in finding.fix


def test_nothing_of_the_kind_is_said_about_other_machines():
    finding = fit("ultra", look("ultra"), machines(("H200",), link("local")))
    assert finding.fix == "`stageline plan ultra` says what would fit"


@pytest.mark.parametrize("model", ["no/such/directory", "/nowhere"])
def test_a_model_that_is_not_there(model):
    found = look(model)
    assert isinstance(found, CheckpointError)
    finding = fit(model, found, MACS)
    assert finding.level == "fail"
    assert "no such directory" in finding.found
    assert finding.fix == CORRECT


def test_only_a_hub_id_is_to_be_fetched(tmp_path):
    """And neither a directory without a model, nor what is no id at all."""
    problem = CheckpointError("there is none")
    assert fit(str(tmp_path), problem, MACS).fix == CORRECT
    assert fit("owner/name", problem, MACS).fix.endswith("`hf download owner/name`")
    assert fit("owner/name@main", problem, MACS).fix.endswith("`hf download owner/name --revision main`")

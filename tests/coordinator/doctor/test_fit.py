"""Whether a model is found and fits."""

import pytest

from coordinator.doctor.fit import Found, fit, look
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

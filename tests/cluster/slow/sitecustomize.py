"""Python runs this at its start where PYTHONPATH names this directory: stages then sleep before every step.

Several stages on a few cores would compete for them; sleeping ones do not, so a pipeline behaves as on machines of its
own. STAGELINE_TEST_SLEEP has seconds a step and a row, which stage sleeps (null: all), and the file that must be there
for it (null: none), as JSON.
"""

import json
import os
import sys
import time
from importlib.util import find_spec


class _Slow:
    """Finds `worker.model.stage` and wraps its steps as soon as it is loaded."""

    def find_spec(self, name, path=None, target=None):
        if name != "worker.model.stage":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        load = spec.loader.exec_module

        def load_and_slow(module):
            load(module)
            _slow(module.Stage)

        spec.loader.exec_module = load_and_slow
        return spec


def _slow(stage):
    step, row, flag = SETTINGS["step"], SETTINGS["row"], SETTINGS["flag"]
    call = stage.__call__

    def __call__(self, inputs, *arguments, **options):  # noqa: N807
        if flag is None or os.path.exists(flag):
            time.sleep(step + row * inputs.shape[0])
        return call(self, inputs, *arguments, **options)

    stage.__call__ = __call__


def _is_slow(stage):
    words = sys.orig_argv
    return stage is None or ("--stage" in words and words[words.index("--stage") + 1] == str(stage))


SETTINGS = json.loads(os.environ.get("STAGELINE_TEST_SLEEP", "null"))
if SETTINGS is not None and _is_slow(SETTINGS["stage"]):
    sys.meta_path.insert(0, _Slow())

"""Python runs this at its start where PYTHONPATH names this directory: stages then sleep before every step.

Several stages on a few cores would compete for them; sleeping ones do not, so a pipeline behaves as on machines of its
own. STAGELINE_TEST_SLEEP is "seconds a step, seconds a row".
"""

import os
import sys
import time
from importlib.util import find_spec


class _Slow:
    """Finds `worker.stage` and wraps its steps as soon as it is loaded."""

    def find_spec(self, name, path=None, target=None):
        if name != "worker.stage":
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
    step, row = map(float, os.environ["STAGELINE_TEST_SLEEP"].split(","))
    call = stage.__call__

    def __call__(self, inputs, *arguments, **options):  # noqa: N807
        time.sleep(step + row * inputs.shape[0])
        return call(self, inputs, *arguments, **options)

    stage.__call__ = __call__


if "STAGELINE_TEST_SLEEP" in os.environ:
    sys.meta_path.insert(0, _Slow())

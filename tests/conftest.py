"""Hypothesis tries the same cases at every run: what fails here fails everywhere."""

from hypothesis import settings

settings.register_profile("stageline", derandomize=True, database=None, deadline=None)
settings.load_profile("stageline")

"""What holds for every test."""

from __future__ import annotations

import os

from hypothesis import settings

# A busy machine is no fault of the code. In CI Hypothesis chooses its own profile, without a deadline, too.
settings.register_profile("harness", deadline=None)
if not os.environ.get("CI"):
    settings.load_profile("harness")

"""The model gives every address and every statistic that the real library gave in the recorded runs."""

from __future__ import annotations

import pytest
import tcmalloc_golden as golden


def test_the_recordings_are_there():
    assert len(golden.NAMES) == 8


@pytest.mark.parametrize("version", golden.VERSIONS)
@pytest.mark.parametrize("name", golden.NAMES)
def test_addresses_and_all_that_it_tells_of_itself_are_the_librarys(name, version):
    recording = golden.read(name, version)
    replayed = golden.replay(recording, version)
    assert replayed.compared > 10_000
    assert replayed.differences[:3] == []
    for number, (model, library) in enumerate(zip(replayed.checkpoints, recording.checkpoints, strict=True)):
        for told, mine, real in zip(model._fields, model, library, strict=True):
            assert mine == real, f"checkpoint {number}: {told}"

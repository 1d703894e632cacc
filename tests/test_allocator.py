"""An allocator as a user writes it: name, options, several values."""

from __future__ import annotations

from typing import Literal

import pytest

from harness.allocator import Allocator, Bytes, Footprint, find, options_of, parse_bytes, registered
from harness.errors import AllocatorError


class Bump(Allocator):
    """Never reuses."""

    def __init__(self, *, page_bytes: Bytes = 4096, limit: int | Literal["off"] = "off", eager: bool = True):
        self.page_bytes, self.limit, self.eager = page_bytes, limit, eager

    def allocate(self, request):
        return request.size

    def release(self, block, thread):
        pass

    def footprint(self):
        return Footprint()


@pytest.fixture
def bump(monkeypatch):
    class Entry:
        name = "bump"
        value = "tests:Bump"

        def load(self):
            return Bump

    monkeypatch.setattr("harness.allocator.entry_points", lambda group: [Entry()])


@pytest.mark.usefixtures("bump")
class TestFind:
    def test_a_name_alone_takes_the_defaults(self):
        (spec,) = find("bump")
        assert spec.options == {"page_bytes": 4096, "limit": "off", "eager": True}
        assert spec.label == "bump"

    def test_options_are_read_as_their_types(self):
        (spec,) = find("bump:page_bytes=64KiB,limit=3,eager=false")
        assert spec.options == {"page_bytes": 65536, "limit": 3, "eager": False}
        assert spec.create().page_bytes == 65536

    def test_several_values_make_one_run_each(self):
        specs = find("bump:limit=1|2|off,eager=true|false")
        assert [spec.label for spec in specs] == [
            "bump:limit=1",
            "bump:limit=1,eager=false",
            "bump:limit=2",
            "bump:limit=2,eager=false",
            "bump",
            "bump:eager=false",
        ]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("bumb", "'bumb' is no allocator; there are bump"),
            ("bump:pages=1", "bump has no option 'pages'; its options are: page_bytes, limit, eager"),
            ("bump:limit=many", "limit=many is not understood; it takes integer, off"),
            ("bump:page_bytes=4KB", "page_bytes=4KB is not understood; it takes bytes"),
            ("bump:eager", "option 'eager' needs a value"),
        ],
    )
    def test_what_is_wrong_is_named_with_what_is_right(self, text, message):
        with pytest.raises(AllocatorError) as caught:
            find(text)
        assert message in str(caught.value)


def test_ours_are_registered_like_anybodys():
    assert {"go", "tcmalloc", "ideal"} <= set(registered()[0])


@pytest.mark.parametrize("name", ["go", "tcmalloc"])
def test_every_option_has_a_default_and_says_what_it_takes(name):
    for option in options_of(registered()[0][name]):
        assert option.values


def test_bytes_have_units():
    assert parse_bytes("3MiB") == 3 << 20
    with pytest.raises(ValueError, match="MB"):
        parse_bytes("3MB")

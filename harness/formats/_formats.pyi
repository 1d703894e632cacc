from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = dict[str, NDArray[Any]]

class RecordFault(Exception): ...
class TextFault(Exception): ...

class AddressBook:
    def __init__(self, *, lenient: bool, unit: str, null_names: bool = False) -> None: ...
    def rows(
        self,
        *,
        op: NDArray[np.uint8],
        thread: NDArray[np.uint32],
        address: NDArray[np.uint64],
        old_address: NDArray[np.uint64],
        size: NDArray[np.uint64],
        place: NDArray[np.uint64],
        alignment: NDArray[np.uint32] | None = None,
        noscan: NDArray[np.uint8] | None = None,
        time_ns: NDArray[np.int64] | None = None,
        site: NDArray[np.uint32] | None = None,
    ) -> Columns: ...
    def counts(self) -> dict[str, int]: ...

class TextReader:
    def read(self, block: bytes) -> Columns: ...
    def end(self) -> Columns: ...
    def counts(self) -> dict[str, int]: ...
    @property
    def bad_lines(self) -> int: ...
    @property
    def first_bad_line(self) -> str: ...

class AndroidReader(TextReader):
    def __init__(self, *, lenient: bool, has_times: bool) -> None: ...

class AndroidText:
    def __init__(self) -> None: ...
    def lines(
        self,
        *,
        op: NDArray[np.uint8],
        thread: NDArray[np.uint32],
        object: NDArray[np.uint64],
        size: NDArray[np.uint64],
        alignment: NDArray[np.uint32] | None = None,
        time_ns: NDArray[np.int64] | None = None,
    ) -> bytes: ...
    def counts(self) -> dict[str, int]: ...

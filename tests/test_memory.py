"""Memory that runs out is told from other errors, and work goes on in smaller parts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orthogon.memory import Parts, out_of_memory


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("full"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), True),
        (RuntimeError("shapes do not fit"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_memory(error: Exception, expected: bool) -> None:
    assert out_of_memory(error) is expected


@given(total=st.integers(0, 60), most=st.integers(1, 70), room=st.integers(1, 70))
def test_everything_is_done_once_and_in_order(total: int, most: int, room: int) -> None:
    tried: list[int] = []

    def work(start: int, stop: int) -> list[int]:
        tried.append(stop - start)
        if stop - start > room:
            raise torch.OutOfMemoryError("full")
        return list(range(start, stop))

    parts = Parts(most)
    assert [n for part in parts(work, total) for n in part] == list(range(total))
    assert max(tried, default=0) <= most
    tried.clear()
    parts(work, total)
    assert max(tried, default=0) <= room  # what did not fit once is not tried again


@pytest.mark.parametrize(("error", "tries"), [(torch.OutOfMemoryError("full"), 3), (RuntimeError("broken"), 1)])
def test_what_smaller_parts_cannot_mend_is_raised(error: RuntimeError, tries: int) -> None:
    sizes: list[int] = []

    def work(start: int, stop: int) -> None:
        sizes.append(stop - start)
        raise error

    with pytest.raises(type(error), match=str(error)):
        Parts(4)(work, 10)
    assert sizes == [4, 2, 1][:tries]

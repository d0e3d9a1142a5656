import numpy as np
import pytest

from rm_workflow.models.segments import Row, num_common

A, B, C = (np.array(ids, dtype=np.int32) for ids in ([5, 6, 7, 8], [5, 6, 9], [4, 4]))


def test_a_row_holds_common_tokens_once_and_counts_positions_on():
    row = Row()

    ends = [*row.add([A, B], 2), *row.add([C])]

    tensors = row.tensors()
    assert tensors["input_ids"].tolist() == [[5, 6, 7, 8, 9, 4, 4]]
    assert tensors["position_ids"].tolist() == [[0, 1, 2, 3, 2, 0, 1]]
    assert tensors["segments"].tolist() == [[0, 2, -1], [2, 4, 0], [4, 5, 0], [5, 7, -1]]
    assert ends == [3, 4, 6]


def test_a_row_is_filled_up_by_a_segment_of_its_own():
    row = Row()
    row.add([A])
    row.fill(8, 3)
    row.fill(8, 3)

    assert row.tensors()["input_ids"].tolist() == [[5, 6, 7, 8, 3, 3, 3, 3]]
    assert row.tensors()["segments"].tolist() == [[0, 4, -1], [4, 8, -1]]


@pytest.mark.parametrize(("first", "second", "common"), [(A, B, 2), (A, C, 0), (A, A[:3], 2), (A[:1], A, 0), (A, A, 3)])
def test_common_tokens_leave_each_sequence_one_of_its_own(first: np.ndarray, second: np.ndarray, common: int):
    assert num_common(first, second) == common

"""Values as a record and arrays, and back."""

from __future__ import annotations

import pytest
import torch

from interp.edits.head_rows import HeadRows, TunedHeads
from interp.reports.saved import packed, unpacked


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_a_tensor_inside_a_value_comes_back_bit_for_bit(dtype):
    weight = (torch.randn(3, 4) * 100).to(dtype)
    edit = TunedHeads({}, {"why": float("nan"), "given": weight.T}, (HeadRows(1, 2, "query", torch.randn(4, 3).T),))
    arrays = {}
    again = unpacked(packed(edit, arrays), arrays)
    assert type(again) is TunedHeads and again.about["why"] != again.about["why"]
    assert torch.equal(again.about["given"], weight.T) and again.about["given"].dtype is dtype
    assert torch.equal(again.rows[0].weight, edit.rows[0].weight)

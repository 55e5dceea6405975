"""What counts as reading the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.export.proof import Answer, ExportError, compared


def test_any_difference_is_refused_with_the_image_it_is_in():
    logits = np.zeros((3, 4), np.float32)
    want = Answer(text="cat", reason="", confidence=0.5, logits=logits)
    path = [Path("cat.png")]
    others = {
        "reads 'cot'": Answer(text="cot", reason="", confidence=0.5, logits=logits),
        "reads 'too_small'": Answer(text="", reason="too_small", confidence=0.5, logits=logits),
        "are 0.0002 and": Answer(text="cat", reason="", confidence=0.5, logits=logits + np.float32(2e-4)),
        "probability is 0.001 from": Answer(text="cat", reason="", confidence=0.501, logits=logits),
        "are inf and": Answer(text="cat", reason="", confidence=0.5, logits=logits[:2]),
        "are nan and": Answer(text="cat", reason="", confidence=0.5, logits=logits * np.nan),
    }
    for says, other in others.items():
        with pytest.raises(ExportError, match=rf"cat\.png: .*{says}"):
            compared(path, [want], [other], "it")
    assert compared(path, [want], [want], "it") == {"equal": 1, "largest_difference": 0.0}


def test_what_is_called_the_same_grows_with_the_logits():
    logits = np.full((3, 4), -20, np.float32)
    want = Answer(text="cat", reason="", confidence=0.5, logits=logits)
    near, far = (replace(want, logits=logits + np.float32(apart)) for apart in (1.5e-3, 2.5e-3))
    assert compared([Path("cat.png")], [want], [near], "it")["largest_difference"] == pytest.approx(1.5e-3, rel=1e-3)
    with pytest.raises(ExportError, match=r"at most 0\.002 and 0\.0001"):
        compared([Path("cat.png")], [want], [far], "it")

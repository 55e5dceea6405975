"""A recogniser that reads clean images no better than degraded ones is no guide."""

from __future__ import annotations

import pytest

from orchestrator.preflight import PreflightError
from orchestrator.preflight.plan import check_headroom, restores
from orchestrator.recipes.plates import recipe

WARMUP = recipe().stage("warmup")


def test_a_guide_reads_clean_images_better():
    found = check_headroom(WARMUP, {"plates/cer_target": 0.09, "plates/cer_bicubic": 0.63})
    assert found.says == "plates: the recogniser's CER is 0.0900 in clean images, 0.6300 in those to be restored"


@pytest.mark.parametrize(("clean", "start"), [(0.62, 0.63), (1.0, 1.0), (0.9, 0.4), (float("nan"), 0.5)])
def test_one_that_does_not_is_refused(clean, start):
    with pytest.raises(PreflightError, match=r"stage 'warmup', plates: .*; the first must be lower by 0\.02 at least"):
        check_headroom(WARMUP, {"plates/cer_target": clean, "plates/cer_degraded": start})


LINES = {"plates/cer_target": 0.1, "plates/cer_degraded": 0.7, "plates/ctc_uniform": 12.0}


def test_a_guide_is_far_better_than_a_uniform_guess():
    found = check_headroom(WARMUP, {**LINES, "plates/ctc_target": 0.58})
    assert found.says.endswith(", CTC 0.580 nats per character in clean ones (a uniform guess: 12.000)")


@pytest.mark.parametrize("clean", [6.0, 15.6, float("nan")])
def test_one_that_is_sure_of_the_wrong_thing_is_refused(clean):
    with pytest.raises(PreflightError, match=r"a uniform guess 12\.000; it must be less than 0\.5 of that"):
        check_headroom(WARMUP, {**LINES, "plates/ctc_target": clean})


def test_pages_without_text_are_not_asked():
    assert check_headroom(WARMUP, {"plates/psnr": 12.0}).says == ""


def test_only_restoring_tasks_are_asked():
    assert restores({"plates/cer_target": 0.1}) and not restores({"plates/cer": 0.1, "plates/n": 5})

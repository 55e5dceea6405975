"""The parts of a report on what decided: bests as they rose, terms by loss and by gradient, settings to change."""

from __future__ import annotations

import pytest
from test_report_restored import facts, tables

from orchestrator.report.blocks import Text
from orchestrator.report.decided import bests, components, loss_shares, recommendations
from orchestrator.report.restored import moved, reached

TWO = {"best": [{"metric": "score"}, {"metric": "lines/cer", "mode": "min"}],
       "scores": [{"name": "score", "text": "{lines/psnr} - 50 * {lines/cer}"}]}  # fmt: skip
ADVERSARIAL = {
    "terms": {"pixel": {"weight": 100.0}, "ctc": {"weight": 1.0}},
    "adversary": {"learn": ["discriminator"], "terms": {"discriminator": {"weight": 1.0}}},
}


def validation(epoch: int, score: float | None, cer: float) -> dict:
    return {"kind": "validation", "epoch": epoch, "step": 10 * epoch, "score": score, "lines/cer": cer}


def test_each_best_is_told_as_it_rose_and_what_it_would_have_picked(tmp_path):
    lines = [validation(0, None, 0.5), validation(1, 10.0, 0.4), validation(2, 12.0, 0.45), validation(3, 11.0, 0.3)]
    section = bests(facts(tmp_path, "adversarial", stage=TWO, validation=lines))
    assert section is not None
    rose, picked = tables(section.blocks)
    assert list(rose.rows) == [
        ("score", "1", "10", "10"), ("score", "2", "20", "12"),
        ("lines/cer", "0", "0", "0.5000"), ("lines/cer", "1", "10", "0.4000"), ("lines/cer", "3", "30", "0.3000"),
    ]  # fmt: skip
    assert "score is {lines/psnr} - 50 * {lines/cer}" in rose.caption
    assert list(picked.rows) == [("score", "2", "20", "12", "0.4500"), ("lines/cer", "3", "30", "11", "0.3000")]
    assert "They disagree: score step 20, lines/cer step 30" in section.blocks[-1].says


def test_a_validation_that_crossed_a_red_line_is_no_best_and_bests_that_agree_say_nothing(tmp_path):
    lines = [validation(1, 10.0, 0.4), validation(2, 12.0, 0.3)]
    crossed = [{"kind": "event", "event": "red_line", "epoch": 2, "step": 20}]
    section = bests(facts(tmp_path, "a", stage=TWO, validation=lines, event=crossed))
    assert section is not None
    assert [row[2] for row in tables(section.blocks)[1].rows] == ["10", "10"]
    assert not [block for block in section.blocks if isinstance(block, Text)]


def test_a_single_best_has_no_such_part(tmp_path):
    lines = [{"kind": "validation", "epoch": 1, "step": 1, "plates/psnr": 1.0}]
    assert bests(facts(tmp_path, "a", validation=lines)) is None


def test_terms_stand_with_their_share_of_the_loss_and_of_the_gradient(tmp_path):
    """The seed's run in small: what fills the loss has next to no gradient."""
    first = {"epoch": 1, "step": 5, "loss/pixel": 0.02, "loss/ctc": 300.0, "loss/discriminator": 0.5}
    last = {**first, "epoch": 9, "loss/pixel": 0.01, "gradient_share/pixel": 0.99, "gradient_share/ctc": 0.01}
    section = components(facts(tmp_path, "adversarial", stage=ADVERSARIAL, epoch=[first, last]))
    assert section is not None
    [table] = tables(section.blocks)
    assert [row[:2] for row in table.rows] == [
        ("pixel", "its own"), ("ctc", "its own"), ("discriminator", "the adversary")
    ]  # fmt: skip
    assert table.rows[1][2:] == ("1.0000", "300", "300", "99.7\u00a0%", "1.0\u00a0%")
    assert table.rows[2][5:] == ("-", "-")
    [warning] = [block for block in section.blocks if isinstance(block, Text)]
    assert warning.tone == "warning" and warning.says.startswith("ctc is 99.7\u00a0% of the loss and 1.0\u00a0%")


def test_shares_of_the_loss_use_the_weights_that_were_in_force():
    terms = {"a": {"weight": 2.0}, "b": {"weight": 1.0}}
    line = {"loss/a": 1.0, "loss/b": 3.0, "weight/b": 0.5}
    assert loss_shares(terms, line) == pytest.approx({"a": 2 / 3.5, "b": 1.5 / 3.5})
    assert loss_shares(terms, {"loss/a": 1.0}) == {}


@pytest.mark.parametrize(("movement", "warned"), [(1.5, False), (0.0, True)])
def test_a_balance_that_never_moved_is_a_warning(tmp_path, movement, warned):
    line = {"epoch": 2, "step": 9, "loss/pixel": 1.0, "loss/ctc": 1.0, "balance/updates": 4.0,
            "balance/movement": movement, "balance/share/pixel": 0.35, "balance/share/ctc": 0.65}  # fmt: skip
    section = components(facts(tmp_path, "a", stage={**ADVERSARIAL, "balance": {"shares": {}}}, epoch=[line]))
    assert section is not None
    assert tables(section.blocks)[-1].rows[1] == ("ctc", "-", "65.0\u00a0%")
    assert any(isinstance(block, Text) and block.tone == "warning" for block in section.blocks) is warned


def test_settings_to_change_are_told_once_each_with_how_often(tmp_path):
    def event(step: int, name: str, change: str) -> dict:
        return {"kind": "event", "event": name, "epoch": 1, "step": step, "says": f"at {step}", "change": change}

    found = [event(1, "spike", "lower optim.lr"), event(2, "spike", "lower optim.lr"), event(3, "stuck", "raise it")]
    section = recommendations([facts(tmp_path, "late"), facts(tmp_path, "early", event=found)])
    assert section is not None
    [table] = section.blocks
    assert list(table.rows) == [
        ("lower optim.lr", "spike", "2", "early", "at 2"), ("raise it", "stuck", "1", "early", "at 3"),
    ]  # fmt: skip
    assert recommendations([facts(tmp_path, "late")]) is None


LINES = {"n": 40, "cer": 0.3, "cer_degraded": 0.5, "cer_target": 0.1, "ctc": 2.0, "ctc_target": 1.0, "ctc_uniform": 4.0,
         "psnr": 20.0, "psnr_degraded": 14.0}  # fmt: skip


def documents(folder, **metrics):
    line = {"kind": "validation", "epoch": 1, "step": 5} | {f"lines/{name}": value for name, value in metrics.items()}
    stage = {"validate": {"lines": "valid"}, "best": [{"metric": "lines/cer", "mode": "min"}]}
    found = facts(folder, "adversarial", stage=stage, validation=[line])
    found.recipe["image"]["is"] = "datasets.line_image.LineSpec"
    return found


def test_documents_stand_between_the_degraded_image_and_the_clean_one(tmp_path):
    section = reached(documents(tmp_path, **LINES))
    assert section is not None
    errors, pictures = tables(section.blocks)
    assert list(errors.rows) == [("CER", "0.5000", "0.3000", "0.1000", "50.0\u00a0%")]
    assert list(pictures.rows) == [("PSNR, dB", "14", "20")]
    assert not [block for block in section.blocks if isinstance(block, Text) and block.tone == "warning"]
    assert reached(facts(tmp_path, "lcofl", validation=[{"step": 0, "plates/psnr": 1.0}])) is None


def test_a_recogniser_no_better_than_a_guess_is_a_warning(tmp_path):
    section = reached(documents(tmp_path, **{**LINES, "ctc_target": 4.0}))
    assert section is not None
    assert any(isinstance(block, Text) and block.tone == "warning" for block in section.blocks)


def test_stages_of_documents_are_told_beside_the_degraded_image(tmp_path):
    [section] = moved([documents(tmp_path, **LINES)]).sections
    table = tables(section.blocks)[0]
    assert table.columns[2] == "degraded" and table.columns[5] == "clean"
    assert table.rows[0] == ("CER", "adversarial", "0.5000", "-", "0.3000", "0.1000", "-0.2000")


def test_the_second_ocr_stands_beside_the_first_with_what_a_gap_means(tmp_path):
    line = {"step": 5, "plates/recognition_rate": 0.5, "plates/recognition_rate_bicubic": 0.1,
            "plates/recognition_rate_monitor": 0.2, "plates/recognition_rate_bicubic_monitor": 0.15,
            "plates/recognition_rate_target_monitor": 0.8, "plates/psnr": 20.0}  # fmt: skip
    [section] = moved([facts(tmp_path, "lcofl", validation=[line])]).sections
    table = tables(section.blocks)[0]
    assert table.rows[1] == ("recognition rate, second OCR", "lcofl", "0.1500", "-", "0.2000", "0.8000", "+0.0500")
    assert "no generator learns from it" in table.caption
    del line["plates/recognition_rate_monitor"]
    [section] = moved([facts(tmp_path, "lcofl", validation=[line])]).sections
    assert "second OCR" not in tables(section.blocks)[0].caption

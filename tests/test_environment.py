"""What must, and must not, be installed beside Plumbline."""

from importlib.metadata import distributions
from pathlib import Path

import datasets
import models
import orchestrator
import tune_spaces

ROOT = Path(__file__).parents[1]
INSTALLED = {(each.metadata["Name"] or "").lower().replace("_", "-") for each in distributions()}


def test_datasets_is_ours_and_no_other_distribution_brings_one():
    # Hugging Face's `datasets` installs a package of the same name: whichever lies first on the path would win.
    assert "datasets" not in INSTALLED, "pip uninstall datasets: it shadows Plumbline's own package"
    for package in (datasets, models, orchestrator, tune_spaces):
        assert Path(package.__file__).parent.parent == ROOT


def test_opencv_is_installed_once():
    # Both write into one `cv2` folder; the one with windows also needs libGL.so.1, which a bare container lacks.
    both = {"opencv-python", "opencv-contrib-python", "opencv-python-headless", "opencv-contrib-python-headless"}
    assert INSTALLED & both == {"opencv-python-headless"}

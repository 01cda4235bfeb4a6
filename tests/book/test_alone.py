"""Each chapter alone, first, in an empty folder, as a reader opens it in Colab."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stylemed.book.execution import chapter_names, chapter_parameters, read_profile

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", chapter_names(ROOT))
def test_chapter_alone(name, tmp_path, python_env):
    parameters = chapter_parameters(name, read_profile("smoke", ROOT), ROOT)
    spec = {
        "input_path": str(ROOT / "book" / f"{name}.ipynb"),
        "output_path": str(tmp_path / f"{name}.ipynb"),
        "parameters": parameters,
        "cwd": str(tmp_path),
        "log": str(tmp_path / "log.txt"),
        "progress": False,
    }
    env = python_env | {"OMP_NUM_THREADS": "1", "IPYTHONDIR": str(tmp_path / "ipython")}
    env["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    command = [sys.executable, "-c", "from stylemed.book.execution import child; child()"]
    ran = subprocess.run(command, input=json.dumps(spec), env=env, text=True, capture_output=True, timeout=600)
    assert ran.returncode == 0, (tmp_path / "log.txt").read_text()[-3000:] + ran.stderr[-3000:]
    metrics = tmp_path / "_build" / "smoke" / "metrics" / f"{name}.json"
    assert json.loads(metrics.read_text())

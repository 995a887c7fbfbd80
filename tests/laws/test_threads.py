"""OpenMP's threads sleep while they wait, whoever loaded it, and the user's process is afterwards
as it was.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# what a library of OpenMP says of itself when it is loaded; 0: threads that wait sleep at once
_SAYS = {"OMP_DISPLAY_ENV": "VERBOSE", "OMP_NUM_THREADS": "2"}
CELLS = """
import os, numpy as np, pandas as pd, torch
from anndata import AnnData
import scbert_cll as sc_cll
from scbert_cll.nn import Performer
obs = pd.DataFrame({"cd49d": pd.Categorical(["-", "+"] * 12)}).rename(index=str)
obs["split"] = ["train"] * 12 + ["val"] * 12
adata = AnnData(np.random.default_rng(0).poisson(3, (24, 10)).astype("float32"), obs)
sc_cll.pp.bin_expression(adata)
seen = []
encode = Performer.encode
def noting(*args, **kwargs):
    seen.append(torch.get_num_threads())
    return encode(*args, **kwargs)
Performer.encode = noting
def trained(**network):
    network = {"gene_embedding": "learned", "n_hidden": 8, "n_heads": 2} | network
    quick = {"accelerator": "cpu", "enable_progress_bar": False, "max_epochs": 1, "batch_size": 8}
    classifier = sc_cll.tl.finetune(adata, network=network, **quick)
    sc_cll.tl.gene_attention(adata, classifier)
    found = sorted(set(seen))
    seen.clear()
    return found
"""


# other packages set variables of their own while they are imported
OPENMP = (
    "import os\nOPENMP = lambda: {name: value for name, value in os.environ.items() if "
    "name.startswith(('OMP_', 'GOMP_'))}\n"
)


def run(code: str, **variables: str) -> tuple[list[str], list[str]]:
    """Lines that are printed, and the spins of every library of OpenMP that is loaded."""
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OMP_", "GOMP_", "KMP_"))
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OPENMP + code],
        capture_output=True,
        text=True,
        check=False,
        env=own | _SAYS | variables,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    spins = [line.split("'")[1] for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    return done.stdout.split("\n"), spins


pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="asks libgomp, which says how it waits"),
    pytest.mark.slow,  # each loads PyTorch in a process of its own
]


def test_what_this_package_loads_sleeps_so_all_threads_work_and_the_environment_is_as_it_was() -> (
    None
):
    code = """
import os, sys
before = OPENMP()
import scbert_cll as sc_cll
assert "torch" not in sys.modules
sc_cll.pp, sc_cll.estimators, sc_cll.tl, sc_cll.ScBERT
assert "torch" in sys.modules
print(OPENMP() == before)
"""
    said, spins = run(code + CELLS + "print('small', trained())")
    assert said[:2] == ["True", "small [2]"]
    assert len(spins) >= 1  # of PyTorch, and of scikit-learn
    assert set(spins) == {"0"}


def test_nor_does_it_spin_where_others_loaded_it_before() -> None:
    """Then a small network has one thread, and the user's number is back afterwards, after an
    error, too; a large one keeps all.
    """
    code = (
        "import torch\nprint('user', torch.get_num_threads())\n"
        + CELLS
        + "before = OPENMP()\nprint('small', trained())\nprint('user', torch.get_num_threads())\n"
        + (
            "print('large', trained(n_heads=20, dim_head=16))\nprint('user', "
            "torch.get_num_threads())\n"
        )
        + (
            "def fails(*args, **kwargs):\n    print('inside', torch.get_num_threads())\n    raise "
            "KeyError('no')\n"
        )
        + (
            "Performer.encode = fails\ntry:\n    trained()\nexcept KeyError:\n    print('user', "
            "torch.get_num_threads())\n"
        )
        + "print(OPENMP() == before)"
    )
    said, spins = run(code)
    assert spins[0] != "0"  # loaded by the user, and spins
    expected = [
        "user 2",
        "small [1]",
        "user 2",
        "large [2]",
        "user 2",
        "inside 1",
        "user 2",
        "True",
    ]
    assert [line for line in said if line] == expected


def test_what_the_user_decided_stays() -> None:
    code = CELLS + "print('small', trained())\nprint(os.environ.get('OMP_WAIT_POLICY'))"
    said, spins = run(code, OMP_WAIT_POLICY="ACTIVE")
    assert "0" not in spins
    assert said[:2] == ["small [2]", "ACTIVE"]


def test_the_command_line_too() -> None:
    code = """
import os
from scbert_cll.__main__ import main
before = OPENMP()
try:
    main(["pretrain", "none.h5ad", "--out", "none"])
finally:
    print(OPENMP() == before)
import torch
"""
    said, spins = run(code)
    assert said[0] == "True"
    assert set(spins) == {"0"}

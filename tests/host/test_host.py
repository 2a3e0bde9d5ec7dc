"""The package within programs of others: it never breaks them, nor changes them."""

import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib

from collections.abc import Callable
from pathlib import Path

import pytest

from compressai_uqdm.libraries import stand_ins

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests/data"
FILE = DATA / "v2-photo-rgb.uqdm"


# ---- damaged installations ----


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of packages: those that are installed, by links, and a copy of ours."""
    folder = tmp_path / "site"
    folder.mkdir()
    for path in map(Path, sys.path):
        if not path.is_dir() or not any(path.glob("*.dist-info")):
            continue
        for package in path.iterdir():
            link = folder / package.name
            if "compressai_uqdm" not in package.name and not link.exists():
                link.symlink_to(package)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "compressai_uqdm", folder / "compressai_uqdm", ignore=ignored)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for name in project["tool"]["setuptools"]["py-modules"]:
        shutil.copy(ROOT / f"{name}.py", folder)
    info = folder / "compressai_uqdm-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: compressai-uqdm\n")
    lines = []
    for group, entries in project["project"]["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder


def run(
    code: str, *options: str, site: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run code in a Python whose packages are those in ``site``."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    if site:
        # without .pth files, which may lead to the sources
        options, variables["PYTHONPATH"] = ("-S", *options), str(site)
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(
        command, cwd=site or ROOT, env=variables, capture_output=True, text=True
    )


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda site: (site / name).write_text(text) and None


def remove(*names: str) -> Callable[[Path], None]:
    def damage(site: Path) -> None:
        for name in names:
            path = site / name
            shutil.rmtree(
                path
            ) if path.is_dir() and not path.is_symlink() else path.unlink()

    return damage


def remove_modules(site: Path) -> None:
    for path in (site / "compressai_uqdm").rglob("*.py"):
        path.unlink()


def break_wrapt(site: Path) -> None:
    (site / "wrapt").unlink()
    (site / "wrapt.py").write_text("raise OSError('of its own')")


DAMAGES = {
    "syntax": write("compressai_uqdm/__init__.py", "import (("),
    "zeros": write("compressai_uqdm/__init__.py", "\0" * 4096),
    "its-own-error": write("compressai_uqdm/__init__.py", "raise OSError('of its own')"),
    "empty": write("compressai_uqdm/__init__.py", ""),
    "no-plugin": remove("compressai_uqdm/plugin.py"),
    "plugin": write("compressai_uqdm/plugin.py", "def autoload(:"),
    "empty-plugin": write("compressai_uqdm/plugin.py", ""),
    "no-package": remove("compressai_uqdm"),
    "no-modules": remove_modules,
    "no-pillow": remove("compressai_uqdm/pillow.py"),
    "no-wrapt": remove("wrapt"),
    "wrapt": break_wrapt,
}
SILENT = {"empty", "no-modules"}
"""Nothing is left that could say so."""

PYTORCH = "import torch"
ENTRY_POINTS = """
import importlib.metadata  # as PyTorch does
for entry_point in importlib.metadata.entry_points(group="torch.backends"):
    entry_point.load()()
"""
PILLOW = f"""
from PIL import Image
Image.open({str(DATA / "photograph.png")!r}).load()
print("it goes on")
"""


def check_goes_on(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "it goes on"


def check_broken(site: Path, use: str, silent: bool) -> None:
    done = run(use, site=site)
    check_goes_on(done)
    warned = [line for line in done.stderr.splitlines() if "Warning" in line]
    assert len(warned) == (not silent), done.stderr
    assert silent or "RuntimeWarning: compressai-uqdm" in warned[0]
    # a warning may be an error, or have no stream
    check_goes_on(run(use, "-W", "error", site=site))
    check_goes_on(run("import os, sys; os.close(2)\n" + use, site=site))
    check_goes_on(run("import sys; sys.stderr = None\n" + use, site=site))


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_package_breaks_no_program(name: str, site: Path) -> None:
    DAMAGES[name](site)
    check_broken(site, ENTRY_POINTS + PILLOW, name in SILENT)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["syntax", "no-package", "no-wrapt"])
def test_a_damaged_package_does_not_break_pytorch(name: str, site: Path) -> None:
    DAMAGES[name](site)
    check_broken(site, PYTORCH + PILLOW, silent=False)


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["zoo.py", "models", "assets"])
def test_a_damaged_package_does_not_break_compressai(missing: str, site: Path) -> None:
    """Its models are then not in the zoo, or fail when they are asked for."""
    remove(f"compressai_uqdm/{missing}")(site)
    use = """
from compressai.zoo import image_models
assert "bmshj2018-factorized" in image_models
assert ("uqdm-photo" in image_models) == {}
print("it goes on")
"""
    use = use.format(missing == "assets")
    done = run(use, site=site)
    check_goes_on(done)
    assert done.stderr.count("RuntimeWarning") == (missing != "assets")
    check_goes_on(run(use, "-W", "error::RuntimeWarning", site=site))


def test_the_wheel_has_what_pytorch_calls(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (target,) = project["entry-points"]["torch.backends"].values()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "compressai_uqdm", tmp_path / "compressai_uqdm")
    for path in ROOT.glob("*.py"):
        shutil.copy(path, tmp_path)
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", "built"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    module, _, function = target.partition(":")
    assert f"def {function}(" in (tmp_path / f"built/{module}.py").read_text()


# ---- imports ----

UNUSED = {"scipy.stats", "torch.export", "torch_geometric", "torchvision"}

LOAD = f"""
import compressai_uqdm
assert compressai_uqdm.load({str(FILE)!r}).stages
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "use",
    [
        LOAD,
        f"from PIL import Image; import compressai_uqdm; Image.open({str(FILE)!r}).load()",
        "from compressai_uqdm import CosineUQDM; import compressai_uqdm.zoo",
        "import compressai_uqdm.losses",
        "import compressai_uqdm.datasets",
        "import compressai_uqdm.entropy_models",
        "import torch" + LOAD,
    ],
    ids=["api", "pillow", "models", "losses", "datasets", "entropy-models", "after-torch"],
)
def test_importing_is_quick_and_silent(use: str) -> None:
    code = f"""
import builtins, gc, os, sys, warnings
def state():
    return builtins.__import__, gc.isenabled(), gc.get_freeze_count(), dict(os.environ)
before, filters = state(), warnings.filters
rules = list(filters)
{use}
assert state() == before
# libraries add rules of their own
assert warnings.filters is filters and [r for r in filters if r in rules] == rules
print(*sys.modules)
"""
    done = run(code, "-W", "error::FutureWarning", "-W", "error::RuntimeWarning")
    assert done.returncode == 0 and not done.stderr, done.stderr
    unused = UNUSED - {"torch.export"} if "import torch\n" in use else UNUSED
    assert not unused & set(done.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize("home", ["/nonexistent", "/proc", ""])
def test_no_home(home: str) -> None:
    """The folder of caches and settings may be missing, or not be writable."""
    done = run(LOAD, HOME=home, XDG_CACHE_HOME=home, HF_HOME="")
    assert done.returncode == 0 and not done.stderr, done.stderr


@pytest.mark.slow
def test_pytorch_works_as_it_does_without_us() -> None:
    code = """
import compressai_uqdm.libraries
import torch

class Net(torch.nn.Module):
    def forward(self, x):
        return torch.relu(x) + 1

x = torch.ones(2)
assert torch.equal(torch.compile(Net(), backend="eager")(x), x + 1)
assert torch.equal(torch.export.export(Net(), (x,)).module()(x), x + 1)
assert torch.equal(torch.fx.symbolic_trace(Net())(x), x + 1)
"""
    done = run(code, "-W", "ignore")
    assert done.returncode == 0, done.stderr


def test_gc_and_the_wait_policy_stay_as_the_program_has_them() -> None:
    code = "import gc, os; gc.disable()" + LOAD
    code += "assert not gc.isenabled() and os.environ['OMP_WAIT_POLICY'] == 'active'"
    done = run(code, OMP_WAIT_POLICY="active")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "use",
    [
        # asks SciPy
        "from compressai.entropy_models import GaussianConditional\n"
        "GaussianConditional(None).update_scale_table([0.5, 1.0])\n"
        "import scipy.stats; from scipy.stats import norm\n"
        "assert scipy.stats.norm is norm and sys.modules['scipy.stats'].norm is norm",
        "import compressai; made = compressai.datasets.ImageFolder\n"
        "from compressai.registry import DATASETS; assert DATASETS['ImageFolder'] is made\n"
        "from compressai.datasets import *; assert ImageFolder is made",
        "import compressai; compressai.transforms.RGB2YCbCr()\n"
        "from compressai.transforms.functional import rgb2ycbcr",
        "from compressai import datasets, transforms\n"
        "assert type(datasets) is type(transforms) is type(sys)",
        "from torch import *; from torch import export; import torch\n"
        "assert torch.export is export is sys.modules['torch.export']\n"
        "assert type(export) is type(sys)",
        "from torchvision.transforms.functional import InterpolationMode, to_tensor\n"
        "import torchvision; same = torchvision.transforms.InterpolationMode\n"
        "assert same is InterpolationMode and torchvision.ops.nms",
        "import torch_geometric, torch_geometric.transforms\n"
        "torch_geometric.data.Data(); torch_geometric.transforms.Compose([])",
        "import torch, compressai, compressai.registry\n"
        "for module in (torch, compressai, compressai.registry):\n"
        "    try: module.something_else\n"
        "    except AttributeError as error: assert 'something_else' in str(error)\n"
        "    else: assert False",
    ],
    ids=[
        "scipy",
        "datasets",
        "transforms",
        "from-import",
        "torch",
        "torchvision",
        "torch-geometric",
        "names-that-are-missing",
    ],
)
def test_libraries_are_whole_when_they_are_used(use: str) -> None:
    """What we leave out is there for all that uses it."""
    done = run(f"import sys, compressai_uqdm.libraries\n{use}")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_registries_hold_what_they_hold_without_us() -> None:
    code = """
import compressai.registry as registry
names = [*(name for name in dir(registry) if name.isupper()), "DATASETS", "TRANSFORMS"]
print(sorted({(name, entry) for name in names for entry in getattr(registry, name)}))
"""
    expected = run(code)
    found = run("import compressai_uqdm.libraries" + code)
    assert "ImageFolder" in found.stdout and "RandomCrop" in found.stdout
    assert found.stdout == expected.stdout


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0, 0.5, 1.5])
def test_other_threads_import_the_modules_themselves(seconds: float) -> None:
    """Whenever they import them, whoever else uses us."""
    code = f"""
import sys, threading, time
from concurrent.futures import ThreadPoolExecutor

wrong = []
def use():
    import scipy.stats, torch.export, torch_geometric.transforms as geometric
    import torchvision.transforms, compressai.datasets
    from torchvision import transforms
    from torch import export
    from compressai import datasets
    found = (scipy.stats, torch.export, geometric, torchvision.transforms, transforms)
    return {{type(module) for module in (*found, compressai.datasets, export, datasets)}}

def watch():
    while not done:
        wrong.extend(n for n, m in list(sys.modules.items()) if "StandIn" in str(type(m)))
        time.sleep(0.001)

def load(_):
    import compressai_uqdm
    return compressai_uqdm.load({str(FILE)!r}).stages

done = False
watcher = threading.Thread(target=watch)
watcher.start()
with ThreadPoolExecutor(4) as pool:
    used = pool.submit(use)
    time.sleep({seconds})
    loaded = list(pool.map(load, range(3)))
    assert used.result() == {{type(sys)}}, used.result()
done = True
watcher.join()
assert not wrong and len(set(loaded)) == 1
"""
    done = run(code, "-W", "ignore")
    assert done.returncode == 0, done.stderr


def test_stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they stand for may be asked for at once, be missing, or fail."""
    for name, text in {
        "late_one/__init__.py": "from . import two; from .two import VALUE",
        "late_one/two.py": "VALUE = []",
        "late_broken.py": "raise OSError('of its own')",
        "warner.py": "import warnings; warnings.warn('to who imports', stacklevel=2)",
        "late_user.py": "import warner, late_one.two, late_broken, late_missing\n"
        "def value(): return late_one.two.VALUE",
        "late_asker.py": "import late_one.two\nfrom late_one import VALUE\n"
        "import late_one\nassert late_one.two.VALUE is VALUE",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    names = ["late_one.two", "late_broken", "late_missing"]
    unused = {"late_user": names, "late_asker": names}
    with stand_ins(unused):
        with pytest.warns(match="to who imports") as warned:
            user = importlib.import_module("late_user")
        assert [Path(warning.filename).name for warning in warned] == ["late_user.py"]
        with pytest.raises(ModuleNotFoundError, match="late_missing"):
            import late_missing  # noqa: F401
    assert not {"late_one", *names} & set(sys.modules)
    assert user.value() is importlib.import_module("late_one").VALUE
    for _ in range(2):
        with pytest.raises(OSError, match="of its own"):
            _ = user.late_broken.anything
    with pytest.raises(ModuleNotFoundError, match="late_missing"):
        _ = user.late_missing.anything
    for name in ("late_one", "late_one.two"):
        del sys.modules[name]
    with stand_ins(unused):
        importlib.import_module("late_asker")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="as GNU's library of threads has it")
@pytest.mark.parametrize("wanted", [None, "active"])
@pytest.mark.parametrize(
    "use",
    [
        "-c" + LOAD,
        "-m compressai_uqdm.train nothing out",
        "-m compressai_uqdm.train_dct nothing out.npz",
        "-m compressai_uqdm.train_context uqdm-nano nothing out.npz",
    ],
    ids=["api", "train", "train_dct", "train_context"],
)
def test_threads_sleep_while_they_wait(
    use: str, wanted: str | None, tmp_path: Path
) -> None:
    """PyTorch's library of threads says how they wait, as it is loaded."""
    arguments = [use[:2], use[2:]] if use.startswith("-c") else use.split()
    variables = {**os.environ, "OMP_DISPLAY_ENV": "true", "PYTHONPATH": str(ROOT)}
    variables.pop("OMP_WAIT_POLICY", None)
    if wanted:
        variables["OMP_WAIT_POLICY"] = wanted
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=tmp_path, env=variables, capture_output=True, text=True
    )
    policies = re.findall(r"OMP_WAIT_POLICY = '(\w+)'", done.stderr)
    assert policies and set(policies) == {(wanted or "passive").upper()}

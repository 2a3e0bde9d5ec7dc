"""Where models come from: CompressAI's zoo, the Hub, folders and files."""

import hashlib
import json
import os
import random
import re
import socket
import subprocess
import sys
import threading

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args

import pytest
import safetensors.torch
import torch

from compressai.models import FactorizedPrior
from compressai.zoo import image_models
from huggingface_hub import ModelCard
from PIL import Image

from compressai_uqdm import UQDM, VDM, CosineConfig, CosineUQDM, UQDMConfig
from compressai_uqdm.families.uqdm.config import PUBLISHED
from compressai_uqdm.families.uqdm.unet import UNetConfig
from compressai_uqdm.files.container import parse_header
from compressai_uqdm.models.checkpoint import Weights
from compressai_uqdm.zoo import FILES

NAMES = ["uqdm-tiny", "uqdm-small", "uqdm-medium", "uqdm-big"]
REPOSITORY = "justuswill/UQDM"
RESULTS = Path(__file__).parents[2] / "eval/results"
WRONG = RESULTS / "portability.json"


def run_python(
    code: str, *arguments: str, python: str = sys.executable, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, where it finds our package but not imported."""
    dropped = ("COMPRESSAI_UQDM_ZOO", "HF_", "PYTHONPATH", "TORCH_DEVICE_BACKEND")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    path = [environment.pop("PYTHONPATH", ""), str(Path(__file__).parents[2])]
    done = subprocess.run(
        [python, "-c", code, *arguments],
        env={
            **inherited,
            "NO_PROXY": "127.0.0.1,localhost",
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done


# ---- registration ----

KEYS = """
import json
import compressai.zoo
import compressai.zoo.image
print(json.dumps([
    list(keys) for keys in (
        compressai.zoo.image_models,
        compressai.zoo.models,
        compressai.zoo.image.model_architectures,
    )
]))
"""


@pytest.mark.slow
def test_zoo_knows_our_models_without_an_import() -> None:
    off = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    plain = json.loads(run_python(KEYS, **off).stdout)
    assert not any(name.startswith("uqdm") for keys in plain for name in keys)
    # each of CompressAI's keeps its place, which is its id in the files of codec.py
    expected = [keys + NAMES for keys in plain]
    for first, environment in (
        ("", {}),
        ("import torch, compressai", {}),
        ("from compressai_uqdm import UQDM", {}),
        ("import compressai.zoo, compressai_uqdm", off),
    ):
        keys = json.loads(run_python(first + KEYS, **environment).stdout)
        assert [k[: len(e)] for k, e in zip(keys, expected)] == expected, first


def test_importing_torch_stays_light() -> None:
    done = run_python("import json, sys, torch; print(json.dumps(list(sys.modules)))")
    modules = set(json.loads(done.stdout))
    assert "compressai_uqdm.plugin" in modules
    heavy = {"compressai", "constriction", "huggingface_hub", "compressai_uqdm.models"}
    assert not modules & heavy
    assert "RuntimeWarning" not in done.stderr


@pytest.mark.slow
def test_what_is_broken_does_not_break_others(tmp_path: Path) -> None:
    message = "RuntimeWarning: compressai-uqdm could not add its models"
    (tmp_path / "wrapt.py").write_text("raise ImportError('broken')")
    done = run_python("import torch; print(torch.ones(2).sum())", PYTHONPATH=str(tmp_path))
    assert done.stdout == "tensor(2.)\n"
    assert message in done.stderr and "broken" in done.stderr

    (tmp_path / "wrapt.py").unlink()
    (tmp_path / "constriction.py").write_text("raise ImportError('broken')")
    done = run_python(KEYS, PYTHONPATH=str(tmp_path))
    assert "bmshj2018-factorized" in done.stdout and "uqdm-tiny" not in done.stdout
    assert message in done.stderr and "broken" in done.stderr


def test_entries_build_models() -> None:
    for quality in range(1, 6):
        net = image_models["uqdm-tiny"](quality=quality)
        assert isinstance(net, UQDM) and net.quality == quality
    assert image_models["uqdm-small"](3, metric="mse").config == PUBLISHED["uqdm-small"]
    for bad in (0, 6, -1, 2.5, "3"):
        with pytest.raises(ValueError, match=r"quality must be an integer in 1\.\.5"):
            image_models["uqdm-tiny"](quality=bad)
    for pretrained in (False, True):
        name = "uqdm-nano-ctx"
        assert image_models[name](quality=4, pretrained=pretrained).n_stages == 4
        with pytest.raises(ValueError, match=r"quality must be an integer in 1\.\.4"):
            image_models[name](quality=5, pretrained=pretrained)
    with pytest.raises(ValueError, match="metric must be \"mse\", got 'ms-ssim'"):
        image_models["uqdm-tiny"](quality=1, metric="ms-ssim")


# ---- the local folder ----


def test_local_folder_is_looked_in_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPRESSAI_UQDM_ZOO", str(tmp_path))
    expected = write_published(tmp_path / "uqdm-tiny", PUBLISHED["uqdm-tiny"])
    net = image_models["uqdm-tiny"](quality=2, pretrained=True)
    assert same_weights(net, expected) and net.quality == 2
    for quality in (0, 6):
        with pytest.raises(ValueError, match=r"quality must be an integer in 1\.\.5"):
            image_models["uqdm-tiny"](quality=quality, pretrained=True)
    with pytest.raises(ValueError, match="metric"):
        image_models["uqdm-tiny"](quality=1, metric="ms-ssim", pretrained=True)


# ---- the Hub ----


class Hub(ThreadingHTTPServer):
    """The Hub as ``hf_hub_download`` sees it: files, some of them on another host."""

    commit = "0123456789abcdef0123456789abcdef01234567"
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.requests: list[str] = []
        self.cut = False  # whether downloads of large files break off
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def add(self, repository: str, path: str, data: bytes, etag: str = "") -> None:
        name = f"/{repository}/resolve/main/{path}"
        self.files[name] = data
        self.etags[name] = etag or hashlib.sha256(data).hexdigest()

    def add_folder(self, repository: str, folder: Path, under: str = "") -> None:
        for file in sorted(folder.iterdir()):
            self.add(repository, under + file.name, file.read_bytes())

    def downloads(self) -> list[str]:
        """The files that were asked for, by GET."""
        gets = [r.removeprefix("GET ") for r in self.requests if r.startswith("GET")]
        return [path for path in gets if path.removeprefix("/stored") in self.files]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, hub = self.path.split("?")[0], self.server
        hub.requests.append(f"{self.command} {path}")
        stored = path.startswith("/stored")
        name = path.removeprefix("/stored")
        if name not in hub.files:
            headers = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Not found"}
            self.answer(404, b"Entry not found", headers)
            return
        data, etag = hub.files[name], hub.etags[name]
        if stored:
            self.answer(200, data, {"ETag": f'"{etag}"'}, cut=hub.cut)
        elif name.endswith((".pt", ".safetensors")):
            # large files are elsewhere
            location = f"http://localhost:{hub.server_port}/stored{name}"
            linked = {"X-Linked-ETag": f'"{etag}"', "X-Linked-Size": str(len(data))}
            self.answer(302, b"Found", {"Location": location, **linked})
        else:
            self.answer(200, data, {"ETag": f'"{etag}"'})

    def answer(
        self, status: int, body: bytes, headers: dict[str, str], cut: bool = False
    ) -> None:
        self.send_response(status)
        headers = {"X-Repo-Commit": self.server.commit, **headers}
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.stop()


LOAD = """
import json, sys
from compressai.zoo import image_models
try:
    net = image_models[sys.argv[1]](quality=2, pretrained=True, progress=False).eval()
    weights = sum(p.detach().double().sum().item() for p in net.denoiser.parameters())
    print(json.dumps([type(net).__name__, weights]))
except Exception as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


Load = Callable[..., tuple[str, Any]]


@pytest.fixture
def load(python: str) -> Load:
    """Type and sum of the weights of a model of the zoo, or error and message."""

    def load(name: str, hub: Hub | str, home: Path, **environment: str) -> tuple[str, Any]:
        environment |= {"HF_ENDPOINT": hub if isinstance(hub, str) else hub.endpoint}
        done = run_python(LOAD, name, python=python, HF_HOME=str(home), **environment)
        kind, value = json.loads(done.stdout)
        return kind, value

    return load


def sum_of_weights(net: UQDM) -> float:
    return sum(p.detach().double().sum().item() for p in net.denoiser.parameters())


def same_weights(a: UQDM, b: UQDM) -> bool:
    b_weights = dict(b.named_parameters())
    return all((p == b_weights[name]).all() for name, p in a.named_parameters())


def write_published(folder: Path, config: UQDMConfig) -> UQDM:
    """Write a random model in the published layout; returned with its averages."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    net = UQDM(config)
    model = {name: w.clone() for name, w in net.denoiser.state_dict().items()}
    for parameter in net.denoiser.parameters():
        torch.nn.init.normal_(parameter.data, std=0.1)
    shadow = [p.detach() for p in net.denoiser.parameters()] + [torch.tensor(17.0)]
    checkpoint = {"model": model, "ema": {"shadow_params": shadow}, "step": 0}
    torch.save(checkpoint, folder / "checkpoint.pt")
    values = published_values(config)
    text = json.dumps({"data": {}, "model": {**values, "ema_rate": 0.9999}})
    (folder / "config.json").write_text(text)
    return net


@pytest.mark.slow
def test_download_and_cache(load: Load, hub: Hub, tmp_path: Path) -> None:
    """Of weights whose digest is not known; what they hold does not matter."""
    net = write_published(tmp_path / "made", PUBLISHED["uqdm-small"])
    hub.add_folder(REPOSITORY, tmp_path / "made", "checkpoints/uqdm-small/")
    expected = ("UQDM", pytest.approx(sum_of_weights(net)))
    # a local folder without this model is no obstacle
    zoo = {"COMPRESSAI_UQDM_ZOO": str(tmp_path)}
    assert load("uqdm-small", hub, tmp_path / "home", **zoo) == expected
    assert sorted(Path(file).name for file in hub.downloads()) == sorted(FILES)
    hub.requests.clear()
    assert load("uqdm-small", hub, tmp_path / "home") == expected
    assert hub.requests and not hub.downloads()
    hub.stop()
    assert load("uqdm-small", hub, tmp_path / "home") == expected
    assert load("uqdm-small", hub, tmp_path / "home", HF_HUB_OFFLINE="1") == expected


def check_not_found(loaded: tuple[str, Any], name: str, *said: str) -> None:
    kind, message = loaded
    assert kind == "FileNotFoundError", loaded
    assert message.startswith(f"no weights for {name}; looked in ")
    for text in (REPOSITORY, f"checkpoints/{name}", "set COMPRESSAI_UQDM_ZOO", *said):
        assert text in message


@pytest.mark.slow
def test_missing_on_the_hub(load: Load, hub: Hub, tmp_path: Path) -> None:
    zoo = {"COMPRESSAI_UQDM_ZOO": str(tmp_path / "zoo")}
    loaded = load("uqdm-tiny", hub, tmp_path / "home", **zoo)
    check_not_found(loaded, "uqdm-tiny", str(tmp_path / "zoo/uqdm-tiny"), "404")
    hub.add(REPOSITORY, "checkpoints/uqdm-tiny/config.json", b"{}")
    check_not_found(load("uqdm-tiny", hub, tmp_path / "home"), "uqdm-tiny", "404")


def unused_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["no server", "offline", "bad endpoint"])
def test_no_network(load: Load, tmp_path: Path, trouble: str) -> None:
    nowhere = f"http://127.0.0.1:{unused_port()}"
    home = tmp_path / "home"
    if trouble == "offline":
        loaded = load("uqdm-tiny", nowhere, home, HF_HUB_OFFLINE="1")
    elif trouble == "bad endpoint":
        loaded = load("uqdm-tiny", "hub.invalid", home)
    else:
        loaded = load("uqdm-tiny", nowhere, home)
    check_not_found(loaded, "uqdm-tiny", "Connect to the network")


@pytest.mark.slow
def test_download_that_breaks_off(load: Load, hub: Hub, tmp_path: Path) -> None:
    write_published(tmp_path / "made", PUBLISHED["uqdm-small"])
    hub.add_folder(REPOSITORY, tmp_path / "made", "checkpoints/uqdm-small/")
    hub.cut = True
    check_not_found(load("uqdm-small", hub, tmp_path / "home"), "uqdm-small")
    hub.cut = False
    assert load("uqdm-small", hub, tmp_path / "home")[0] == "UQDM"


@pytest.mark.slow
def test_damaged_download(load: Load, hub: Hub, published: Path, tmp_path: Path) -> None:
    """Its digest is known, so the file is told from the published one."""
    hub.add_folder(REPOSITORY, published, "checkpoints/uqdm-tiny/")
    good = (published / "checkpoint.pt").read_bytes()
    middle = len(good) // 2
    bad = good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :]
    digest = hashlib.sha256(good).hexdigest()
    path = "checkpoints/uqdm-tiny/checkpoint.pt"
    hub.add(REPOSITORY, path, bad, etag=digest)
    kind, message = load("uqdm-tiny", hub, tmp_path / "home")
    assert kind == "ValueError"
    assert digest in message and hashlib.sha256(bad).hexdigest() in message
    # what the message says to do helps
    assert "Delete it to download it again" in message
    Path(message.split(" is not the published")[0]).unlink()
    hub.add(REPOSITORY, path, good)
    assert load("uqdm-tiny", hub, tmp_path / "home")[0] == "UQDM"


# ---- PyTorchModelHubMixin ----


def check_same(a: UQDM, b: UQDM) -> None:
    a.eval(), b.eval()
    assert a.config == b.config
    x = torch.rand(1, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        p, q = a(x), b(x)
    assert (p["x_hat"] == q["x_hat"]).all()
    for name, likelihoods in p["likelihoods"].items():
        assert (likelihoods == q["likelihoods"][name]).all()


TINY = UNetConfig(embedding_dim=8, norm_groups=2)
SMALL = UQDMConfig(network=TINY, n_timesteps=3, prior_type="normal")


@pytest.mark.parametrize(
    ("weights", "updated"),
    [
        ("random", False),
        ("random", True),
        ("published layout", False),
        ("published layout", True),
        ("uqdm-nano", True),
    ],
)
def test_save_pretrained(tmp_path: Path, weights: str, updated: bool) -> None:
    if weights == "uqdm-nano":
        net = image_models[weights](5, pretrained=True)
    elif weights == "published layout":
        write_published(tmp_path / "made", PUBLISHED["uqdm-tiny"])
        net = UQDM.from_state_dict(torch.load(tmp_path / "made/checkpoint.pt"))
    else:
        net = UQDM(SMALL)
    if updated:
        net.update()
    net.save_pretrained(tmp_path / "saved")
    loaded = UQDM.from_pretrained(tmp_path / "saved")
    check_same(net, loaded)
    assert loaded.update() is not updated  # the tables were saved
    net.update()
    x = torch.rand(1, 3, 20, 24)
    out = net.compress(x)
    assert loaded.compress(x)["strings"] == out["strings"]
    images = (loaded.decompress(out["strings"], out["shape"])["x_hat"] * 255).round()
    assert (images == (x * 255).round()).all()


def test_card_has_results(tmp_path: Path) -> None:
    """As the Hub's ``model-index``, which its own library reads back."""
    file = RESULTS / "kodak/uqdm-photo-denoise.json"
    measured = json.loads(file.read_text())
    net = CosineUQDM(CosineConfig(hidden=8))
    net.save_pretrained(tmp_path / "with", model_card_kwargs={"results": file})
    card = ModelCard.load(tmp_path / "with/README.md")
    assert card.data.library_name == "compressai-uqdm"
    assert card.data.model_name == measured["run"]["model"]
    found = {(r.metric_type, r.metric_name): r for r in card.data.eval_results or []}
    points = measured["results"]
    expected = {("bpp", "exact: bits per pixel (real)"): measured["lossless_bpp"]}
    for i, stage in enumerate(points["quality"]):
        psnr = f"stage {stage}: PSNR of the mean squared error, dB"
        expected |= {
            ("bpp", f"stage {stage}: bits per pixel (real)"): points["bpp"][i],
            ("psnr", psnr): points["psnr-of-mean-mse"][i],
            ("ms-ssim", f"stage {stage}: MS-SSIM"): points["ms-ssim-rgb"][i],
        }
    assert found.keys() == expected.keys()
    for key, result in found.items():
        assert result.metric_value == pytest.approx(expected[key], abs=1e-4)
        assert result.dataset_name == "kodak, 24 images"
    assert f"| {round(measured['lossless_bpp'], 4)} |" in card.text

    for path, error in ((tmp_path / "no.json", FileNotFoundError), (WRONG, ValueError)):
        with pytest.raises(error, match=path.name):
            net.save_pretrained(tmp_path / "bad", model_card_kwargs={"results": path})


def test_card_without_results(tmp_path: Path) -> None:
    """It says how to open the model, and to code with one that can."""
    for net, codes in ((UQDM(SMALL), True), (VDM(), False)):
        cls = type(net).__name__
        net.save_pretrained(tmp_path / cls)
        card = ModelCard.load(tmp_path / cls / "README.md")
        assert card.data.eval_results is None
        assert f'{cls}.from_pretrained("owner/name")' in card.text
        assert ("uqdm encode" in card.text) == codes


@pytest.mark.slow
def test_from_pretrained_on_the_hub(hub: Hub, tmp_path: Path, python: str) -> None:
    net = UQDM(SMALL)
    net.update()
    net.save_pretrained(tmp_path / "saved")
    hub.add_folder("someone/some-uqdm", tmp_path / "saved")
    code = """
import sys
from compressai_uqdm import UQDM
UQDM.from_pretrained("someone/some-uqdm").save_pretrained(sys.argv[1])
"""
    home = str(tmp_path / "home")
    options = {"python": python, "HF_ENDPOINT": hub.endpoint, "HF_HOME": home}
    run_python(code, str(tmp_path / "again"), **options)
    again = UQDM.from_pretrained(tmp_path / "again")
    check_same(net, again)
    assert not again.update()


COMMAND = """
import sys
from compressai_uqdm.cli import main
codes = []
for line in sys.argv[1:]:
    codes.append(main(line.split()))
print(codes)
"""


@pytest.mark.slow
def test_command_with_a_repository(
    hub: Hub,
    tmp_path: Path,
    photograph: Image.Image,
    monkeypatch: pytest.MonkeyPatch,
    python: str,
) -> None:
    """--model takes what was pushed to the Hub, or saved, and files know it by its name."""
    monkeypatch.chdir(tmp_path)
    photograph.crop((200, 100, 224, 120)).save("a.png")
    small = CosineUQDM(CosineConfig(hidden=8))
    for name, net in (("cosine", small), ("uqdm", UQDM(SMALL))):
        net.update()
        net.save_pretrained(tmp_path / name)
        hub.add_folder(f"someone/{name}", tmp_path / name)
    done = run_python(
        COMMAND,
        "encode a.png c.uqdm --model someone/cosine",
        "encode a.png u.uqdm --model someone/uqdm --stages 2",
        "encode a.png l.uqdm --model cosine",  # a folder that is here
        "decode c.uqdm c.png --model someone/cosine",
        "decode u.uqdm u.png --model uqdm",
        "decode c.uqdm no.png",
        "encode a.png no.uqdm --model someone/nothing",
        python=python,
        HF_ENDPOINT=hub.endpoint,
        HF_HOME=str(tmp_path / "home"),
    )
    assert done.stdout.splitlines()[-1] == "[0, 0, 0, 0, 0, 1, 1]", done.stderr
    header, start = parse_header(Path("c.uqdm").read_bytes())  # type: ignore[misc]
    assert header.model == "someone/cosine"
    local = Path("l.uqdm").read_bytes()
    assert local[-sum(header.lengths) :] == Path("c.uqdm").read_bytes()[start:]
    assert Image.open("c.png").tobytes() == Image.open("a.png").tobytes()
    lines = re.split(r"[\r\n]+", done.stderr)  # downloads have bars
    ours = [line for line in lines if line.startswith("uqdm: ")]
    # what is not trained makes large files
    one, two = (line for line in ours if "is larger than" not in line)
    assert one.startswith("uqdm: c.uqdm: the file was encoded with a model 'someone/cosin")
    assert one.endswith("; someone/cosine may be on the Hub")
    assert two.startswith("uqdm: no model in the Hub's someone/nothing, where model.safet")
    assert "Check the name" in two


# ---- files ----


def test_checkpoint_files(tmp_path: Path) -> None:
    net = write_published(tmp_path / "published", SMALL)
    loaded = UQDM.from_checkpoint(tmp_path / "published", quality=2)
    assert loaded.config == SMALL and loaded.quality == 2 and not loaded.training
    assert all(
        (a == b).all()
        for a, b in zip(net.denoiser.parameters(), loaded.denoiser.parameters())
    )
    raw = UQDM.from_checkpoint(tmp_path / "published", weights="raw")
    assert not same_weights(raw, loaded)
    for name, content in (
        ("state.pt", loaded.state_dict()),
        ("training.pth.tar", {"epoch": 1, "state_dict": loaded.state_dict()}),
    ):
        torch.save(content, tmp_path / name)
        check_same(loaded, UQDM.from_checkpoint(tmp_path / name, quality=2))


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing.pt"):
        UQDM.from_checkpoint(tmp_path / "nothing.pt")
    with pytest.raises(FileNotFoundError, match="config.json"):
        UQDM.from_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model": published_values()}))
    with pytest.raises(FileNotFoundError, match="checkpoint.pt"):
        UQDM.from_checkpoint(tmp_path)


def published_values(config: UQDMConfig = UQDMConfig()) -> dict[str, Any]:
    """A configuration as the published files have it, all keys in one dict."""
    values = asdict(config)
    network = values.pop("network")
    for name in ("family", "overlap"):
        del network[name]
    del values["latent_prior"], values["pixel_prior"], values["latent_stages"]
    return {**values, **network, "vocab_size": 256}


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "file.pt"
    generator = random.Random(0)
    garbage = [generator.randbytes(length) for length in range(0, 200, 10)]
    garbage += [b"text", b"\x89PNG\r\n\x1a\n" + bytes(1000), b"PK\3\4" + b"x" * 99]
    for content in garbage:
        file.write_bytes(content)
        with pytest.raises(ValueError, match="file.pt is not a checkpoint") as raised:
            UQDM.from_checkpoint(file)
        assert "weights_only" not in str(raised.value)  # torch's advice is not safe
    for value in ([1, 2], torch.zeros(3), None, "text"):
        torch.save(value, file)
        with pytest.raises(ValueError, match="file.pt holds no state dict"):
            UQDM.from_checkpoint(file)
    torch.save(os.getcwd, file)  # would run code
    with pytest.raises(ValueError, match="file.pt is not a checkpoint"):
        UQDM.from_checkpoint(file)


def test_truncated_files(tmp_path: Path) -> None:
    write_published(tmp_path / "made", PUBLISHED["uqdm-tiny"])
    whole = (tmp_path / "made/checkpoint.pt").read_bytes()
    file = tmp_path / "file.pt"
    for length in (1, 100, len(whole) // 2, len(whole) - 1000, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="file.pt is not a checkpoint"):
            UQDM.from_checkpoint(file)


def test_checkpoints_of_another_model(tmp_path: Path) -> None:
    file = tmp_path / "file.pt"
    content: dict[str, Any]
    for content in (FactorizedPrior(8, 8).state_dict(), {}, {"model": {}, "ema": None}):
        torch.save(content, file)
        with pytest.raises(ValueError, match="expected the state dict of a UQDM, with con"):
            UQDM.from_checkpoint(file)
    torch.save({"model": {"a": torch.ones(1)}, "ema": {"shadow_params": [1]}}, file)
    with pytest.raises(ValueError, match="not the weights of a UQDM"):
        UQDM.from_checkpoint(file)

    # the published layout, of another size than the configuration says
    net = write_published(tmp_path / "model", SMALL)
    (tmp_path / "model/config.json").write_text(json.dumps({"model": published_values()}))
    with pytest.raises(ValueError, match="weights of another architecture"):
        UQDM.from_checkpoint(tmp_path / "model")
    with pytest.raises(ValueError, match="width 8 and depth 1 is none of the published"):
        UQDM.from_checkpoint(tmp_path / "model/checkpoint.pt")
    write_published(tmp_path / "tiny", PUBLISHED["uqdm-tiny"])
    published = tmp_path / "tiny/checkpoint.pt"
    with pytest.raises(ValueError, match="weights of another architecture"):
        UQDM.from_checkpoint(published, config=PUBLISHED["uqdm-small"])
    with pytest.raises(ValueError, match="weights must be one of"):
        UQDM.from_checkpoint(published, weights="best")  # type: ignore[arg-type]

    # ours, with a part missing, of another shape or too much
    state = dict(net.state_dict())
    without = {k: v for k, v in state.items() if k != "denoiser.conv_in.bias"}
    other = {**state, "denoiser.conv_in.bias": torch.zeros(5)}
    more = {**state, "denoiser.conv_on.bias": torch.zeros(5)}
    for content in (without, other, more):
        torch.save(content, file)
        with pytest.raises(ValueError, match=r"denoiser\.conv_\w+\.bias"):
            UQDM.from_checkpoint(file)
    damaged = state["config_bytes"][9:]
    for bad in (torch.zeros(9, dtype=torch.uint8), torch.zeros(0), damaged):
        torch.save({**state, "config_bytes": bad}, file)
        with pytest.raises(ValueError, match="config"):
            UQDM.from_checkpoint(file)


def test_damaged_published_dict(tmp_path: Path) -> None:
    write_published(tmp_path / "model", SMALL)
    file = tmp_path / "model/checkpoint.pt"
    checkpoint = torch.load(file)
    shadow = checkpoint["ema"]["shadow_params"]

    # without a weight and its average, the rest is no model
    position = list(checkpoint["model"]).index("conv_in.bias")
    model = {k: v for k, v in checkpoint["model"].items() if k != "conv_in.bias"}
    averages = {"shadow_params": shadow[:position] + shadow[position + 1 :]}
    torch.save({"model": model, "ema": averages}, file)
    for weights in get_args(Weights):
        with pytest.raises(ValueError, match=r"denoiser\.conv_in\.bias"):
            UQDM.from_checkpoint(tmp_path / "model", weights=weights)

    checkpoint["ema"]["shadow_params"] = shadow[:5]
    torch.save(checkpoint, file)
    with pytest.raises(ValueError, match="damaged checkpoint: .* weights but 5 averages"):
        UQDM.from_checkpoint(tmp_path / "model")
    checkpoint["ema"]["shadow_params"] = ["text"] * len(shadow)
    torch.save(checkpoint, file)
    with pytest.raises(ValueError, match="weights of another architecture"):
        UQDM.from_checkpoint(tmp_path / "model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": 1}, r"config\.json.*unknown keys \['colour'\]"),
        ({"gamma_min": ...}, r"config\.json.*missing \['gamma_min'\]"),
        ({"prior_type": "cauchy"}, r"config\.json.*prior_type must be one of.*'cauchy'"),
        (
            {"n_timesteps": 0},
            r"config\.json.*n_timesteps must be a positive integer, got 0",
        ),
        ({"n_timesteps": "4"}, r"config\.json.*n_timesteps must be .*, got '4'"),
        ({"embedding_dim": "32"}, r"config\.json.*embedding_dim"),
        ({"gamma_max": None}, r"config\.json.*gamma_max"),
    ],
)
def test_bad_configuration(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    values = {**published_values(), **changes}
    values = {k: v for k, v in values.items() if v is not ...}
    (tmp_path / "config.json").write_text(json.dumps({"model": values}))
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=message):
        UQDM.from_checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"model": 3}', '"text"', "\0"])
def test_configuration_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        UQDM.from_checkpoint(tmp_path)


def test_overlap_travels_with_the_weights(tmp_path: Path) -> None:
    """Encoder and decoder must agree on it, however a model is stored."""
    net = UQDM(UQDMConfig(network=replace(TINY, overlap=8)))
    assert UQDM.from_state_dict(net.state_dict()).denoiser.overlap == 8
    net.save_pretrained(tmp_path)
    assert UQDM.from_pretrained(tmp_path).config == net.config


def test_from_pretrained_refuses_weights_of_another_model(tmp_path: Path) -> None:
    UQDM(UQDMConfig(network=TINY)).save_pretrained(tmp_path)
    safetensors.torch.save_file(
        {"conv.weight": torch.zeros(1)}, tmp_path / "model.safetensors"
    )
    with pytest.raises(RuntimeError, match="Missing key"):
        UQDM.from_pretrained(tmp_path)

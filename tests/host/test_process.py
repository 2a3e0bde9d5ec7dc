"""Coding is independent of what the process is set to, and leaves that as it is."""

import contextlib
import io
import multiprocessing
import os
import random
import subprocess
import sys
import threading
import warnings

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from PIL import Image

from compressai_uqdm import StreamingDecoder, decode, encode
from compressai_uqdm.settings import exact_floats
from compressai_uqdm.threads import single_threaded_ops
from compressai_uqdm.zoo import RECIPES

ROOT = Path(__file__).parents[2]
MODELS = ["uqdm-photo", "uqdm-nano-ctx"]


@pytest.fixture(scope="module")
def image(photograph: Image.Image) -> Image.Image:
    return photograph.crop((100, 60, 156, 96))


def coded(image: Image.Image, model: str) -> tuple[bytes, bytes, bytes]:
    """The file, the exact picture and that of a cut file."""
    data = encode(image, model)
    cut = decode(data[: len(data) // 2])
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.tobytes() == image.tobytes()
    return data, decode(data).image.tobytes(), cut.image.tobytes()


@pytest.fixture(scope="module")
def expected(image: Image.Image) -> dict[str, tuple[bytes, bytes, bytes]]:
    return {model: coded(image, model) for model in MODELS}


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def fast_products() -> Iterator[None]:
    torch.set_float32_matmul_precision("medium")
    try:
        yield
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@contextlib.contextmanager
def warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings(action="error"):
        yield


SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "float16": lambda: default_dtype(torch.float16),
    "default device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "gradients": torch.enable_grad,
    "deterministic algorithms": deterministic,
    "fast products": fast_products,
    "NumPy's errors": lambda: np.errstate(all="raise"),
    "warnings": warnings_are_errors,
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", SETTINGS)
def test_bytes_and_pixels_are_the_same(
    image: Image.Image, expected: dict[str, Any], name: str, model: str
) -> None:
    with SETTINGS[name]():
        assert coded(image, model) == expected[model]


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "name", ["float64", "bfloat16", "default device", "inference mode"]
)
def test_models_that_are_opened_under_a_setting(
    image: Image.Image, expected: dict[str, Any], name: str, model: str
) -> None:
    with SETTINGS[name]():
        net = RECIPES[model].load(quality=1)
    assert {p.dtype for p in net.parameters()} <= {torch.float32}
    if "float64" in net.arithmetics:
        net.double()  # as files have it
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    net.quality = net.n_stages
    strings = net.compress(x)["strings"]
    data = expected[model][0]
    assert data.endswith(b"".join(stage[0] for stage in strings[1:]))


def test_no_random_numbers_are_drawn(image: Image.Image, expected: dict[str, Any]) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]
    for model in MODELS:
        RECIPES[model].load()
        assert coded(image, model) == expected[model]
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # type: ignore[index]
    assert before[2] == random.getstate()


# ---- threads ----


def test_settings_are_left_as_found_whatever_the_order_of_threads() -> None:
    torch.set_float32_matmul_precision("high")
    steps = [threading.Event() for _ in range(3)]

    def first() -> None:
        with exact_floats():
            steps[0].set()
            steps[1].wait(10)
        steps[2].set()

    def second() -> None:
        steps[0].wait(10)
        with exact_floats():
            steps[1].set()
            steps[2].wait(10)  # the first has left
            assert torch.get_float32_matmul_precision() == "highest"

    try:
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(first), pool.submit(second)]:
                done.result(20)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_numbers_of_threads_are_left_as_found() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with single_threaded_ops(), single_threaded_ops():
            assert torch.get_num_threads() == 1
            with ThreadPoolExecutor(1) as pool:  # a thread that starts meanwhile
                assert pool.submit(torch.get_num_threads).result() == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_decoders_in_several_threads(image: Image.Image, expected: dict[str, Any]) -> None:
    def stream(model: str) -> bytes:
        decoder, data = StreamingDecoder(), expected[model][0]
        for at in range(0, len(data), 997):
            decoder.feed(data[at : at + 997])
        return decoder.picture().image.tobytes()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(stream, MODELS * 3))
        files = list(pool.map(lambda model: encode(image, model), MODELS * 2))
    assert found == [expected[model][1] for model in MODELS * 3]
    assert files == [expected[model][0] for model in MODELS * 2]


# ---- processes ----


def _encode_there(image: Image.Image, model: str) -> bytes:
    return encode(image, model)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes(image: Image.Image, expected: dict[str, Any], method: str) -> None:
    """Also those that are forked after PyTorch has started threads."""
    program = (
        "import sys, multiprocessing, torch, compressai_uqdm\n"
        "from PIL import Image\n"
        "def work(model):\n"
        "    return compressai_uqdm.encode(image, model)\n"
        f"image = Image.open({str(ROOT / 'tests/data/photograph.png')!r})"
        ".convert('RGB').crop((100, 60, 156, 96))\n"
        "if __name__ == '__main__':\n"
        "    torch.set_num_threads(2)\n"
        f"    models = {MODELS}\n"
        "    before = [work(model) for model in models]\n"
        f"    with multiprocessing.get_context({method!r}).Pool(2) as pool:\n"
        "        after = pool.map_async(work, models).get(200)\n"
        "    sys.stdout.buffer.write(b'same' if before == after else b'others')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program]
        if method == "fork"
        else [sys.executable, "-W", "ignore", _as_file(program)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"},
        capture_output=True,
        timeout=400,
    )
    assert done.stdout == b"same", done.stderr[-2000:]


def _as_file(program: str) -> str:
    import tempfile

    path = Path(tempfile.mkdtemp()) / "program.py"  # spawned processes import it
    path.write_text(program)
    return str(path)


def test_python_without_assertions(tmp_path: Path, expected: dict[str, Any]) -> None:
    path = tmp_path / "picture.uqdm"
    path.write_bytes(expected["uqdm-photo"][0])
    program = (
        "import sys, compressai_uqdm\nprint(compressai_uqdm.load(sys.argv[1]).exact)\n"
    )
    done = subprocess.run(
        [sys.executable, "-OO", "-c", program, str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "True\n", done.stderr


# ---- wrappers of PyTorch's ----


def _train_in(rank: int, port: int, model: str, queue: Any) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    net = RECIPES[model].load(quality=1).train()
    parallel = torch.nn.parallel.DistributedDataParallel(net, find_unused_parameters=True)
    torch.manual_seed(rank)
    out = parallel(torch.rand(1, 3, 32, 32))
    loss = sum(-likelihoods.log().mean() for likelihoods in out["likelihoods"].values())
    loss.backward()
    total = sum(
        float(p.grad.double().sum()) for p in net.parameters() if p.grad is not None
    )
    queue.put((rank, total))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_distributed_data_parallel(model: str) -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [
        context.Process(target=_train_in, args=(rank, port, model, queue))
        for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    found = dict(queue.get(timeout=200) for _ in processes)
    for process in processes:
        process.join(30)
    assert found[0] == pytest.approx(found[1], rel=1e-4) and found[0] != 0


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_compiled_models(image: Image.Image, model: str, expected: dict[str, Any]) -> None:
    net = RECIPES[model].load(quality=1).eval()
    if "float64" in net.arithmetics:
        net.double()  # as files have it
    net.quality = net.n_stages
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    compiled = torch.compile(net, backend="eager")
    with torch.no_grad():
        out, plain = compiled(x), net(x)
    assert torch.equal(out["x_hat"], plain["x_hat"])
    strings = compiled.compress(x)["strings"]
    assert expected[model][0].endswith(b"".join(stage[0] for stage in strings[1:]))
    assert torch.equal(compiled.decompress(strings, x.shape[2:])["x_hat"], x)


@pytest.mark.parametrize("model", MODELS)
def test_formats_and_types(
    image: Image.Image, model: str, expected: dict[str, Any]
) -> None:
    net = RECIPES[model].load(quality=1).eval()
    net.quality = net.n_stages
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    strings = net.compress(x)["strings"]
    for other in (
        x.contiguous(memory_format=torch.channels_last),
        x.double(),
        x.half(),
        x.flip(3).flip(3).transpose(2, 3).contiguous().transpose(2, 3),
        x.clone().requires_grad_(),
    ):
        assert net.compress(other)["strings"] == strings
    net.to(memory_format=torch.channels_last)
    assert net.decompress(strings, x.shape[2:])["x_hat"].shape == x.shape
    with pytest.raises(ValueError, match="expected images on the model's device"):
        net.compress(x.to("meta"))

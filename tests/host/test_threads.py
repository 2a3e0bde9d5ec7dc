"""Parts of a picture in Python threads: as one after another, but faster."""

import os
import threading

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from PIL import Image
from torchvision.transforms.functional import to_tensor

from compressai_uqdm import CosineUQDM
from compressai_uqdm.families.dct import model as cosine
from compressai_uqdm.integer import arithmetic as integer
from compressai_uqdm.threads import parallel_map
from compressai_uqdm.zoo import RECIPES


@contextmanager
def threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def number(*_: object) -> tuple[int, int]:
    """Of the thread, and of those that PyTorch's operations have in it."""
    return threading.get_ident(), torch.get_num_threads()


def test_as_many_at_once_as_pytorch_has_threads() -> None:
    with threads(3):
        meet = threading.Barrier(3)  # of which no two are one

        def wait(item: int) -> int:
            meet.wait(60)
            return -item

        assert parallel_map(wait, iter(range(9))) == [-item for item in range(9)]


def test_operations_are_undivided_there_and_as_before_elsewhere() -> None:
    here = threading.get_ident()
    with threads(2):
        found = parallel_map(number, range(8))
        assert all(thread != here and n == 1 for thread, n in found)
        assert torch.get_num_threads() == 2
        with threads(1):  # as CompressAI's tools ask for
            assert parallel_map(number, range(8)) == [(here, 1)] * 8
        later: list[tuple[int, int]] = []
        other = threading.Thread(target=lambda: later.append(number()))
        other.start()
        other.join()
        assert later[0][1] == 2
        assert parallel_map(number, range(8), torch.device("cuda")) == [(here, 2)] * 8
        # within itself, too
        assert parallel_map(lambda _: parallel_map(number, range(2)), range(2))


def test_what_is_raised_and_no_more() -> None:
    with threads(2):
        with pytest.raises(ZeroDivisionError):
            parallel_map(lambda item: 1 // item, [1, 0, 2])
        assert parallel_map(lambda item: 1 // item, [1, -1]) == [1, -1]


def test_gradients_are_kept_where_the_caller_keeps_them() -> None:
    x = torch.ones(2, requires_grad=True)
    with threads(2):
        for setting in (torch.no_grad(), torch.inference_mode(), torch.enable_grad()):
            with setting:
                y = x + 1
                expected = y.requires_grad
                # in place: of what inference made, nowhere else
                found = parallel_map(lambda part: part.add_(1).requires_grad, [y, x + 1])
                assert found == [expected] * 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_in_a_process_that_was_forked() -> None:
    with threads(2):
        parallel_map(abs, range(4))
        child = os.fork()
        if not child:
            right = parallel_map(abs, range(-4, 0)) == [4, 3, 2, 1]
            os._exit(0 if right else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_strings_and_pictures_are_the_same(
    photograph: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = RECIPES["uqdm-photo"].load()
    assert isinstance(net, CosineUQDM)
    x = to_tensor(photograph.crop((40, 30, 200, 150)))[None]
    with threads(1):
        strings = net.compress(x)["strings"]
        expected = net.decompress(strings, x.shape[-2:], progressive=True)["x_hats"]
    monkeypatch.setattr(integer, "_BAND", 1 << 9)
    monkeypatch.setattr(cosine, "_AT_ONCE", 1 << 6)
    for n in (1, 2):
        with threads(n):
            assert net.compress(x)["strings"] == strings
            found = net.decompress(strings, x.shape[-2:], progressive=True)["x_hats"]
            assert all(map(torch.equal, found, expected))

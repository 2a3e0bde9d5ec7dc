"""How well a model in training does on held-out images."""

from collections.abc import Callable

import torch

from accelerate import Accelerator
from tqdm import tqdm

from ..families.uqdm.bound import Bound
from ..losses import BitsPerDimensionLoss
from .batches import Images, example_key
from .state import TrainingState

__all__ = ["measure"]

BATCH = 4


@torch.no_grad()
def measure(
    state: TrainingState,
    images: Images,
    count: int,
    seed: int,
    accelerator: Accelerator,
    stopped: Callable[[], bool],
) -> dict[str, float] | None:
    """Bits per dimension of images as they would be coded, z_1 for nothing.

    Args:
        state: whose model is measured.
        images: the held-out images; they come again if there are fewer than ``count``.
        count: how many to measure, over all processes.
        seed: of crops and noise.
        accelerator: the processes.
        stopped: asked before each batch, by all processes together.

    Returns:
        ``test_raw``, with the last weights, and ``test_ema``, with their average; None if
        it was stopped.
    """
    world, rank = accelerator.num_processes, accelerator.process_index
    places = range(rank, count, world)
    # as many rounds in each process: where one has nothing left, it still asks to stop
    rounds = range(0, -(-count // world), BATCH)
    criterion, values = BitsPerDimensionLoss(), {}
    bar = tqdm(
        desc="testing",
        total=2 * len(rounds),
        leave=False,
        disable=not accelerator.is_main_process,
        dynamic_ncols=True,
    )
    with bar:
        for name, net in (("test_raw", state.net), ("test_ema", state.average)):
            bound, bits = Bound(net), torch.zeros((), device=accelerator.device)
            training = net.training
            net.eval()
            try:
                for at in rounds:
                    if stopped():
                        return None
                    if some := places[at : at + BATCH]:
                        keys = [example_key(seed, place) for place in some]
                        indexes = [place % len(images) for place in some]
                        levels = images.batch(indexes, keys).to(accelerator.device)
                        out = criterion(bound(levels, torch.tensor(keys)))
                        bits += len(some) * (out["loss"] - out["prior"])
                    bar.update()
            finally:
                net.train(training)
            values[name] = accelerator.reduce(bits, "sum").item() / count
    return values

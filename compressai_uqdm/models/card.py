"""Model cards, which ``save_pretrained`` and ``push_to_hub`` write."""

import json

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

__all__ = ["model_card"]

TEMPLATE = """\
---
{{ card_data }}
---

# {{ name }}

A `{{ model }}` of compressai-uqdm.

```python
from compressai_uqdm import {{ model }}

net = {{ model }}.from_pretrained("owner/name")  # of this repository
```
{% if codes %}
Any beginning of a file is a picture, and the whole of it is the exact one:

```bash
uqdm encode photo.png photo.uqdm --model owner/name
uqdm decode photo.uqdm back.png --model owner/name
```
{% endif %}{% if results %}
| {{ results[0].dataset_name }} | |
| --- | --- |
{% for r in results %}| {{ r.metric_name }} | {{ r.metric_value }} |
{% endfor %}{% endif %}"""

METRICS = {
    "bpp": ("bpp", "bits per pixel"),
    "psnr-of-mean-mse": ("psnr", "PSNR of the mean squared error, dB"),
    "ms-ssim-rgb": ("ms-ssim", "MS-SSIM"),
}
"""Metrics in result files, each with its type and its name in a card."""


def model_card(
    model: str, codes: bool, data: ModelCardData, results: str | Path | None
) -> ModelCard:
    """Return the card of a model, with results if given.

    Args:
        model: name of the model's class.
        codes: whether the class can code files.
        data: metadata that all models of this package share.
        results: a result file of ``eval/evaluate.py`` for the model.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a result of ``eval/evaluate.py``.
    """
    name, evaluations = f"A {model}", []
    if results is not None:
        try:
            result = json.loads(Path(results).read_text())
            name, evaluations = Path(result["run"]["model"]).stem, list(_evaluation(result))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{results} is no result of eval/evaluate.py ({error!r}): expected JSON "
                "with run, images, bits and results"
            ) from error
        data = ModelCardData(**data.to_dict(), model_name=name, eval_results=evaluations)
    return ModelCard.from_template(
        data,
        template_str=TEMPLATE,
        name=name,
        model=model,
        codes=codes,
        results=evaluations,
    )


def _evaluation(result: dict[str, Any]) -> Iterator[EvalResult]:
    images, points = result["images"], result["results"]

    def result_of(kind: str, name: str, value: float) -> EvalResult:
        return EvalResult(
            task_type="image-to-image",
            task_name="Image compression",
            dataset_type=images["name"],
            dataset_name=f"{images['name']}, {images['count']} images",
            metric_type=kind,
            metric_name=name,
            metric_value=round(value, 4),
        )

    for i, stage in enumerate(points["quality"]):
        for key, (kind, words) in METRICS.items():
            if key in points and (value := points[key][i]) is not None:
                bits = f" ({result['bits']})" if key == "bpp" else ""
                yield result_of(kind, f"stage {stage}: {words}{bits}", value)
    if "lossless_bpp" in result:
        name = f"exact: bits per pixel ({result['bits']})"
        yield result_of("bpp", name, result["lossless_bpp"])

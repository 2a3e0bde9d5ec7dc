"""Cards of models, as ``save_pretrained`` and ``push_to_hub`` write them."""

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
"""Of result files, with the type and the name that they have in a card."""


def model_card(
    model: str, codes: bool, data: ModelCardData, results: str | Path | None
) -> ModelCard:
    """A card, with results if there are any.

    Args:
        model: name of the model's class.
        codes: whether its models make files.
        data: what is known of all of its models.
        results: a file that ``eval/evaluate.py`` wrote for the model.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is another.
    """
    name, found = f"A {model}", []
    if results is not None:
        try:
            result = json.loads(Path(results).read_text())
            name, found = Path(result["run"]["model"]).stem, list(_evaluation(result))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{results} is no result of eval/evaluate.py ({error!r}): expected JSON "
                "with run, images, bits and results"
            ) from error
        data = ModelCardData(**data.to_dict(), model_name=name, eval_results=found)
    return ModelCard.from_template(
        data, template_str=TEMPLATE, name=name, model=model, codes=codes, results=found
    )


def _evaluation(result: dict[str, Any]) -> Iterator[EvalResult]:
    images, points = result["images"], result["results"]

    def of(kind: str, name: str, value: float) -> EvalResult:
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
                yield of(kind, f"stage {stage}: {words}{bits}", value)
    if "lossless_bpp" in result:
        name = f"exact: bits per pixel ({result['bits']})"
        yield of("bpp", name, result["lossless_bpp"])

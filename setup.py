from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent

TRAIN = [
    "accelerate",  # processes, machines, mixed precision
    "tensorboard",
]
EVAL = [
    "accelerate",  # processes that share the images
    "bjontegaard",  # BD-rate
    "matplotlib",  # figures
    "pillow>=11.3",  # AVIF
    "pillow-jxl-plugin",  # JPEG XL
    "torch-fidelity",  # the features of FID, for torchmetrics
    "torchmetrics",  # FID
]

setup(
    name="compressai-uqdm",
    version="0.1.0",
    description=(
        "UQDM, progressive and lossless image compression with a universally quantized "
        "diffusion model, as a CompressAI plugin"
    ),
    long_description=(here / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="BSD-3-Clause-Clear",
    packages=find_packages(include=["compressai_uqdm", "compressai_uqdm.*"]),
    package_data={
        "compressai_uqdm": ["py.typed", "contexts/*.npz", "weights/*.safetensors"]
    },
    python_requires=">=3.11",
    install_requires=[
        "compressai>=1.2.8",
        "constriction>=0.4.1",
        "huggingface_hub>=0.25",
        "numpy",
        "pillow>=10.1",
        "safetensors",
        "torch>=2.5",
        "tqdm",
        "wrapt",
    ],
    extras_require={
        "eval": EVAL,
        "train": TRAIN,
        "test": [
            *EVAL,
            *TRAIN,
            "hypothesis",
            "mypy",
            "pexpect",  # a terminal
            "pybind11",  # to fetch CompressAI's examples
            "pytest",
            "pytest-xdist",
            "ruff",
            "scipy",
            "setuptools",
            "wheel",
        ],
    },
    entry_points={
        "console_scripts": ["uqdm = compressai_uqdm.command:main"],
        # PyTorch calls it on import; it lets CompressAI's tools find our models.
        "torch.backends": ["compressai_uqdm = compressai_uqdm.plugin:autoload"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Topic :: Scientific/Engineering :: Image Processing",
    ],
)

"""The documentation's settings: ``sphinx-build -W -n -b html docs build/docs``."""

import importlib.metadata

project = "compressai-uqdm"
release = importlib.metadata.version("compressai-uqdm")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]

html_theme = "furo"
html_title = "compressai-uqdm"
BLUES = {"light": "#0b5d8a", "dark": "#7cc4ee"}
html_theme_options = {
    f"{scheme}_css_variables": {"color-brand-primary": blue, "color-brand-content": blue}
    for scheme, blue in BLUES.items()
}
html_static_path = ["static"]
html_css_files = ["charts.css"]
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False
pygments_dark_style = "github-dark"

myst_enable_extensions = ["attrs_inline", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_inherit_docstrings = False
python_use_unqualified_type_names = True

nitpick_ignore_regex = [
    # documented by other projects
    ("py:.*", r"(collections|compressai|dataclasses|numpy|pathlib|PIL|torch)\..*"),
    ("py:class", r"compressai_uqdm\.models\.base\.L"),  # a type variable
]

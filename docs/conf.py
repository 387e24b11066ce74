"""Sphinx configuration: ``sphinx-build -n -W docs docs/_build/html``."""

import os

from siameselib import __version__

project = "siameselib"
author = copyright = "The siameselib developers"
version = release = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
html_theme = "furo"
default_role = "py:obj"
html_title = "siameselib"
html_static_path = ["_static"]

myst_enable_extensions = ["colon_fence", "dollarmath", "deflist"]
myst_heading_anchors = 4
copybutton_exclude = ".linenos, .gp, .go"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Shape", "Source"]

# Links into Python's, PyTorch's and NumPy's pages need the network, so they are asked for.
if os.environ.get("SIAMESELIB_DOCS_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "numpy": ("https://numpy.org/doc/stable", None),
    }
else:  # every name of our own must resolve; theirs cannot, and type variables have no page
    nitpick_ignore_regex = [
        (r"py:.*", r"(?!siameselib\b).*"),
        (r"py:.*", r"siameselib\..*\.([A-Z]|Batch)"),
    ]

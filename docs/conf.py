"""Sphinx: these pages as a site, by `make docs`. Formulas become MathML here, so that no page loads a script of another host."""

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

import anovl

project = "anovl"
version = release = anovl.__version__
html_theme = "furo"
html_title = f"anovl {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_show_sourcelink = False
exclude_patterns = ["_build"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

default_role = "code"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"

# Types of other packages have no pages here; every name of our own must have one.
nitpick_ignore_regex = [("py:.*", r"(?!anovl\b).*")]


def mathml(translator: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """A formula inside a line, or in a line of its own."""
    block = isinstance(node, nodes.math_block)
    translator.body.append(tex2mathml(node.astext(), as_block=block))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Registers the renderer of formulas."""
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))

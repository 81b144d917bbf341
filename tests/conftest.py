"""Under pytest, and only there, every annotation of the library is checked at run time."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxtyping import install_import_hook

install_import_hook("sltjax", "beartype.beartype")

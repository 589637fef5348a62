"""Where the files that travel beside the package lie: the sample models, the app, its pages.

In a source checkout they are at the top of the repository; a wheel carries them in
``qviz/_shipped``. Nothing else in the package needs to know which of the two it runs from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from qviz.errors import InputError

ShippedName = Literal["sample_models", "app.py", "pages", ".streamlit"]

_PACKAGE = Path(__file__).resolve().parent


def shipped(name: ShippedName) -> Path:
    """Absolute path of a shipped file or folder.

    Args:
        name: what is looked for.

    Raises:
        InputError: it is missing, which means that the installation is damaged.
    """
    # The wheel's copy first: beside an installed package lie other people's files.
    for folder in (_PACKAGE / "_shipped", _PACKAGE.parent):
        path = folder / name
        if path.exists():
            return path
    raise InputError(
        name,
        f"is missing from the installation in {_PACKAGE}",
        "Install qviz again, or run it from a complete checkout",
    )

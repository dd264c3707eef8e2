"""The package's own names: all of them there, and none of them costs anything before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import orthogon


@pytest.mark.parametrize("name", orthogon.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(orthogon, name) is getattr(orthogon, name)
    assert name in dir(orthogon)


def test_the_list_is_what_the_modules_are_asked_for() -> None:
    assert set(orthogon.__all__) == {*orthogon._HOME_OF, "__version__"}


def test_other_names_are_errors() -> None:
    with pytest.raises(AttributeError, match="'mesure'"):
        getattr(orthogon, "mesure")  # noqa: B009 - a checker would flag the plain spelling


def test_importing_the_package_does_not_import_pytorch() -> None:
    code = "import sys, orthogon; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

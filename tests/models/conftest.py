"""The default model, pulled and converted once, and the tiny models of each family."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import support_models


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    return support_models.smollm2_gguf()


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    return support_models.smollm2_folder()

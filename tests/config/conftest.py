"""What several tests of the configuration start from."""

from __future__ import annotations

import pytest

from tests.config.support_tree import tree_below


@pytest.fixture
def tree(tmp_path):
    return tree_below(tmp_path)

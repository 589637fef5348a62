"""A file dropped on the plan page, ours or another tool's, becomes a variant."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from networks import network, recipe
from streamlit.testing.v1 import AppTest

from qviz.recipe import Recipe
from qviz.weights import NOTHING


class Visit:
    """What the uploader needs of a workspace."""

    def __init__(self) -> None:
        self.recipe = recipe("residual")
        self.variants: dict[str, Recipe] = {}
        session = SimpleNamespace(graph=network("residual")[1], tuned=lambda recipe: NOTHING)
        self.opened = SimpleNamespace(session=session)

    def keep(self, name: str, kept: Recipe) -> None:
        self.variants[name] = kept


def _page() -> None:
    import streamlit

    from qviz.ui import plan_import

    visit = streamlit.session_state["visit"]
    plan_import.upload(visit, ("draft", *visit.variants))
    plan_import.outcome()


@pytest.fixture
def at() -> AppTest:
    page = AppTest.from_function(_page, default_timeout=30)
    page.session_state["visit"] = Visit()
    return page.run()


def give(at: AppTest, name: str, content: str) -> dict[str, Recipe]:
    """Drop a file; the variants there are now."""
    at.file_uploader(key="variant_file").set_value((name, content.encode(), "text/plain")).run()
    assert not at.exception
    found: dict[str, Recipe] = at.session_state["visit"].variants
    return found


def test_a_file_becomes_a_variant_of_its_name_with_what_was_taken(at: AppTest) -> None:
    made = give(at, "from_ort.json", json.dumps({"x": [-1, 1]}))["from_ort"]
    assert made.range_of["x"].hi == 1
    assert at.session_state["variant_chosen"] == "from_ort"
    (said,) = at.success
    assert said.value == (
        "Ranges as JSON \\(ONNX Runtime, qviz\\) read as variant from\\_ort.\n\n"
        "- Ranges taken of 1 of 4 tensors\n- Ops in float\\: conv2, conv3, add and 1 more"
    )


def test_what_became_of_a_file_is_said_once(at: AppTest) -> None:
    give(at, "mine.json", recipe("residual").to_json())
    assert len(at.success) == 1
    assert not at.run().success


@pytest.mark.parametrize(("name", "variant"), [("mine.json", "mine 2"), ("draft.json", "draft 2")])
def test_a_file_does_not_replace_what_has_its_name(name: str, variant: str, at: AppTest) -> None:
    text = recipe("residual").to_json()
    give(at, "mine.txt", text)
    assert give(at, name, text)[variant] == recipe("residual")


def test_a_file_that_cannot_be_read_is_said_in_one_line(at: AppTest) -> None:
    assert give(at, "photo.txt", "no recipe") == {}
    (said,) = at.error
    assert said.value.startswith(r"photo.txt\: is none of the formats that can be read\: recipe, ")
    assert said.value.endswith(". Give another file.")


def test_a_file_of_another_model_is_refused_with_names_of_both(at: AppTest) -> None:
    assert give(at, "other.json", '{"blocks": [0, 1]}') == {}
    (said,) = at.error
    assert said.value == (
        r"other.json\: names nothing that Residual has\: its first names are blocks; the model's "
        r"are x, relu\:relu, relu\:relu.1 and 2 more. Import it into the model that it was made "
        "for."
    )

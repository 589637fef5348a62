"""An escalation in words, its journal, and the commands that repeat it."""

from __future__ import annotations

from pathlib import Path

from auto_kit import opened, step

from qviz.auto import Action, AutoOptions, AutoStep, Samples
from qviz.auto_commands import commands, in_python
from qviz.auto_journal import Journal, key_of, row_of, step_of
from qviz.auto_words import notes, sentence
from qviz.metrics import metric
from qviz.recipe import Override, Recipe, TensorRange

TOP1 = metric("top1")
DATA = (Samples("calibration", "calib", 100), Samples("evaluation", "val", 400))
CALIBRATED, TUNED = Action("calibrate", "max"), Action("tune", "bias_correction")


def test_a_sentence_says_what_was_tried_what_it_did_what_became_of_it_and_how_long() -> None:
    assert sentence(step(), TOP1) == (
        "Bias correction: top1 88.0 % -> 89.1 % (+1.25 %, 95 % +0.500 % to +2.00 %), drop from "
        "float 0.900 % (95 % 0.100 % to 1.70 %); kept: it helps beyond noise; 2.3 s"
    )


def test_noise_is_called_noise() -> None:
    made = step(gain_low=-0.01, noise=True, outcome="not kept", reason="the change is noise")
    assert sentence(made, TOP1) == (
        "Bias correction: top1 88.0 % -> 89.1 % (+1.25 %, 95 % -1.00 % to +2.00 %: noise), drop "
        "from float 0.900 % (95 % 0.100 % to 1.70 %); not kept: the change is noise; 2.3 s"
    )


def test_the_first_variant_has_nothing_to_be_compared_with() -> None:
    made = step(before=None, gain=None, gain_low=None, gain_high=None)
    assert sentence(made, TOP1).startswith("Bias correction: top1 89.1 %, drop from float 0.900 %")


def test_a_step_without_a_measurement_says_why() -> None:
    late = AutoStep("training", "qat", "QAT", "skipped", "it takes at least 12 s", "", 0.0)
    assert sentence(late, TOP1) == "QAT: skipped: it takes at least 12 s; 0.0 s"
    idle = AutoStep("cheap fixes", "gelu_clip", "GELU10", "idle", "there is no GELU", "", 0.0)
    assert sentence(idle, TOP1) == "GELU10: nothing done: there is no GELU; 0.0 s"


def test_the_note_says_how_many_were_chosen_among_and_that_the_number_is_optimistic() -> None:
    chosen = notes(step(drop_high=0.009), 12, 0.01, DATA, confirmed=False)
    assert chosen == (
        "12 variants were measured on the evaluation data (val, 400 samples), and they chose this "
        "one: its number is optimistic by that selection. Measure it on data that chose nothing "
        "with --confirm DATA",
    )
    assert notes(step(drop_high=0.009), 12, 0.01, DATA, confirmed=True)[0].endswith("selection")
    assert notes(step(drop_high=0.009), 1, 0.01, DATA, confirmed=False) == ()


def test_the_note_says_when_the_interval_goes_beyond_the_target() -> None:
    assert notes(step(), 1, 0.01, DATA, confirmed=False) == (
        "The drop of 0.900 % is within the target of 1.00 %, its 95 % interval reaches 1.70 %: "
        "400 samples do not prove it",
    )


RECIPE = Recipe(
    ranges=(TensorRange("x", -1.0, 2.5, "max"),), overrides=(Override("a", bits=4),), weights="ab"
)


def test_a_step_comes_back_from_its_row_as_it_was() -> None:
    way = (CALIBRATED, Action("tune", "adaquant", (("mode", "parallel"),), ("conv1",)))
    made = step(recipe=RECIPE, way=way, drop_high=float("inf"))
    assert step_of(row_of(made)) == made


def test_a_journal_is_found_again_in_the_run_folder(tmp_path: Path) -> None:
    run = opened(tmp_path / "run").run
    made = step(recipe=RECIPE, way=(CALIBRATED,))
    Journal(run).add("key", made)
    found = Journal(run).find("key")
    assert found is not None
    assert found.known
    assert found.recipe == RECIPE
    assert Journal(run).find("other") is None
    assert Journal(None).find("key") is None


def test_the_key_of_a_step_is_of_what_it_depends_on() -> None:
    keys = {
        key_of("tune", "a", RECIPE, 0.01),
        key_of("tune", "a", RECIPE, 0.02),
        key_of("tune", "b", RECIPE, 0.01),
        key_of("tune", "a", RECIPE.skip("conv"), 0.01),
    }
    assert len(keys) == 4
    assert key_of("tune", "a", RECIPE, 0.01) in keys


OPENED = {"model": "m.py:net", "calibration": "c d.npz", "evaluation": "e.npz", "batch_size": 32}


def test_the_commands_of_a_calibrator_keep_and_export_it() -> None:
    assert commands((CALIBRATED,), OPENED, AutoOptions(skip=("fc",)), "run") == (
        "qviz evaluate m.py:net --calibration 'c d.npz' --evaluation e.npz --calibrator max "
        "--skip fc --name best -o run",
        "qviz export run --recipe run/recipe-best.json -o run-int8",
    )


def test_the_commands_of_a_chain_hand_the_recipe_on() -> None:
    way = (
        CALIBRATED,
        Action("tune", "smoothing", (("strength", "0.5"),), ("a", "b")),
        Action("search", "greedy"),
    )
    opened = {**OPENED, "batch_size": 8, "seed": 3, "train": "t.npz", "fold": False}
    options = AutoOptions(weight_bits=4, per_channel=False, max_drop=0.02)
    model = "m.py:net --calibration 'c d.npz' --evaluation e.npz --batch-size 8 --seed 3"
    assert commands(way, opened, options, "run") == (
        f"qviz tune {model} --train t.npz --no-fold-batch-norm --calibrator max --weight-bits 4 "
        "--per-tensor --ends-at-8 --method smoothing --option strength=0.5 --ops a,b "
        "--name step-1 -o run",
        f"qviz search {model} --no-fold-batch-norm --from run/recipe-step-1.json --max-drop 0.02 "
        "--method greedy -o run",
        "qviz export run --recipe run/recipe.json -o run-int8",
    )


def test_ops_of_a_search_that_was_cut_short_are_named() -> None:
    way = (CALIBRATED, TUNED, Action("skip", names=("a", "b")))
    assert commands(way, {"model": "sample:x"}, AutoOptions(), "run")[1:] == (
        "qviz evaluate sample:x --recipe run/recipe-step-1.json --skip a --skip b --name best "
        "-o run",
        "qviz export run --recipe run/recipe-best.json -o run-int8",
    )


def test_a_model_opened_in_python_is_repeated_in_python() -> None:
    way = (
        CALIBRATED,
        Action("tune", "adaquant", (("mode", "parallel"),)),
        Action("search", "bisect"),
        Action("skip", names=("a",)),
    )
    options = AutoOptions(weight_bits=4, activation_bits=4, ends_at_8=False, skip=("fc",))
    assert in_python(way, options) == (
        "recipe = session.recipe('max', weight_bits=4, activation_bits=4).skip('fc')",
        "recipe = session.tune('adaquant', recipe, mode='parallel').recipe",
        "recipe = session.search(recipe, max_drop=0.01, method='bisect').recipe",
        "recipe = recipe.skip('a')",
        'session.export(recipe, "int8")',
    )


def test_ends_at_8_bits_are_repeated_in_python_too() -> None:
    options = AutoOptions(weight_bits=4, per_channel=False, skip=("fc",))
    assert in_python((CALIBRATED,), options)[:2] == (
        "from qviz.auto_ends import recipe_for",
        "recipe = recipe_for(session, 'max', weight_bits=4, per_channel=False, ends_at_8=True, "
        "skip=['fc'])",
    )


def test_what_was_not_made_is_not_repeated() -> None:
    assert commands((), OPENED, AutoOptions(), "run") == ()
    assert in_python((), AutoOptions()) == ()

import pytest

from rm_workflow.catalog.names import nearest

NAMES = ["learning_rate", "batch_size", "lora", "epochs"]


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("lerning_rate", "did you mean 'learning_rate'?"),
        ("Learning-Rate", "did you mean 'learning_rate'?"),
        ("lr", "did you mean 'learning_rate'?"),
        ("batch", "did you mean 'batch_size'?"),
        ("zzz", "known: batch_size, epochs, learning_rate, lora"),
        ("", "known: batch_size, epochs, learning_rate, lora"),
    ],
)
def test_the_nearest_name_is_offered_else_all_are_listed(name, answer):
    assert nearest(name, NAMES) == answer


def test_without_any_name_it_says_so():
    assert nearest("x", []) == "none is known"


def test_of_many_names_the_least_unlike_ones_are_told_and_what_lists_all():
    names = [f"sample_{number}" for number in range(40)] + ["gsm8k", "helpsteer"]
    told = nearest("qqm8x", names, "rmw sources list")
    assert told.startswith("of 42 known the nearest: gsm8k, ")
    assert told.count(", ") == 5
    assert told.endswith("; rmw sources list lists all")
    assert nearest("qqm8x", names).count(", ") == 5

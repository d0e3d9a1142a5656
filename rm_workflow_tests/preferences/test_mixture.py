"""Union in order of precedence, split, leak guard, sample: each counted, nothing lost."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as given_examples
from hypothesis import strategies as st

from rm_workflow.artifacts import Built
from rm_workflow.catalog.models import Lookup, Mixture, PairSet, Sample, Source, Split
from rm_workflow.errors import UserError
from rm_workflow.keys import content_id
from rm_workflow.preferences.mixture import Member, build_mixture
from rm_workflow.preferences.pairs import build_pair_set
from rm_workflow_tests.preferences.raw_tables import RawRow, Shown, given, read, write_benchmark, write_raw

FILES = {"train": ["train.jsonl"], "test": ["test.jsonl"]}
NATIVE = Split(by="native")


def member(folder: Path, name: str, rows: Sequence[RawRow], rules: Sequence[str] = (), files=FILES) -> Member:
    """Return a pair set ``name`` of the source ``<name>_source``."""
    source_name = f"{name}_source"
    source = Source(path="somewhere", files=files, adapter="any", licence="MIT")
    raw = write_raw(folder / name / "raw", rows, source_name)
    pairs = folder / name / "pairs"
    pairs.mkdir()
    pair_set = PairSet(source=source_name, candidates="given", rules=[*rules, "identical_responses"])
    build_pair_set(name, pair_set, raw, pairs)
    return Member(name, source_name, source, pairs, raw)


def mix(
    folder: Path, members: Sequence[Member], benchmarks: Mapping[str, Path] | None = None, **fields
) -> tuple[Built, list[dict], list[dict]]:
    benchmarks = benchmarks or {}
    mixture = Mixture(
        decontaminate_against=list(benchmarks),
        **{"pair_sets": [one.pair_set for one in members], "split": NATIVE, **fields},
    )
    out = folder / "out"
    out.mkdir()
    built = build_mixture(mixture, members, benchmarks, out)
    return built, read(out / "pairs.parquet"), read(out / "dropped.parquet")


def test_members_are_joined_with_split_group_and_pair_set(tmp_path: Path):
    rows = [given("Hi", "a", "b", 1), given("Ho", "a", "b", 2, file="test.jsonl")]
    one, two = member(tmp_path, "one", rows), member(tmp_path, "two", [given("He", "a", "b", 1)])
    built, pairs, dropped = mix(tmp_path, [one, two])
    assert built.facts == {
        "candidates": 3,
        "kept": 3,
        "dropped": {"duplicate_across_sources": 0, "group_in_test": 0, "leak": 0, "sample": 0},
        "train": 2,
        "test": 1,
        "train_per_epoch": 2,
        "marked": 0,
        "leaks": {},
        "sources": {"one_source": {"train": 1, "test": 1}, "two_source": {"train": 1, "test": 0}},
    }
    assert dropped == []
    assert {(pair["pair_set"], pair["source"], pair["file"], pair["row"], pair["split"]) for pair in pairs} == {
        ("one", "one_source", "train.jsonl", 1, "train"),
        ("one", "one_source", "test.jsonl", 2, "test"),
        ("two", "two_source", "train.jsonl", 1, "train"),
    }
    assert {pair["group_id"] for pair in pairs} == {content_id(["group", text]) for text in ("hi", "ho", "he")}
    assert [pair["pair_id"] for pair in pairs] == [
        pair["pair_id"] for pair in sorted(pairs, key=lambda pair: (pair["prompt_id"], pair["pair_id"]))
    ]
    assert all(check.passed for check in built.checks)


def test_a_duplicate_across_sources_is_kept_by_the_first(tmp_path: Path):
    rows = [given("Hi", "good", "bad", 5), given("Hi", "good", "bad", 6), given("Hi", "bad", "good", 7)]
    members = [member(tmp_path, name, rows) for name in ("b", "a")]
    built, pairs, dropped = mix(tmp_path, members)
    assert {pair["pair_set"] for pair in pairs} == {"b"}
    assert len(pairs) == 3  # within a source a repeated pair is the pair set's own affair
    assert built.facts["dropped"]["duplicate_across_sources"] == 3
    twins = {
        pair["pair_key"]: min(other["pair_id"] for other in pairs if other["pair_key"] == pair["pair_key"])
        for pair in pairs
    }
    assert {drop["detail"] for drop in dropped} == set(twins.values())
    first = dropped[0]
    assert (first["source"], first["row"], first["reason"]) == ("a_source", 5, "the same pair stands in pair set b")
    assert (first["excerpt"], first["stage"]) == ("good", "pair")
    texts = {text: content_id([rows[0].prompt_id, text]) for text in ("good", "bad")}
    assert (first["chosen_id"], first["rejected_id"]) == (texts["good"], texts["bad"])


def test_native_split_drops_train_pairs_whose_group_is_in_test(tmp_path: Path):
    follow_up = [
        {"role": "user", "content": "hi  THERE"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Tell me more"},
    ]
    sides = [Shown("chosen", "a"), Shown("rejected", "b")]
    rows = [RawRow(follow_up, sides, 1), given("Hello", "a", "b", 2)]
    tests = [given("Hi there", "c", "d", 1, file="test.jsonl")]
    built, pairs, dropped = mix(tmp_path, [member(tmp_path, "one", rows), member(tmp_path, "two", tests)])
    assert built.facts["dropped"]["group_in_test"] == 1
    assert [(drop["row"], drop["detail"]) for drop in dropped] == [(1, f"group {content_id(['group', 'hi there'])}")]
    assert sorted((pair["split"], pair["row"]) for pair in pairs) == [("test", 1), ("train", 2)]


def test_a_prompt_grouped_in_two_ways_stays_on_one_side(tmp_path: Path):
    sides = [Shown("chosen", "a"), Shown("rejected", "b")]
    train = [RawRow("Hi", sides, 1, group="post 1"), given("Ho", "a", "b", 2)]
    test = [given("Hi", "c", "d", 1, file="test.jsonl")]
    built, _, dropped = mix(tmp_path, [member(tmp_path, "one", train), member(tmp_path, "two", test)])
    assert [(drop["rule"], drop["reason"]) for drop in dropped] == [("group_in_test", "its prompt has pairs in test")]
    assert all(check.passed for check in built.checks)


def test_files_that_are_looked_up_are_no_split(tmp_path: Path):
    one = member(tmp_path, "one", [given("Hi", "a", "b", 1)], files={"train": ["train.jsonl"], "texts": ["t.jsonl"]})
    source = one.source.model_copy(update={"lookup": Lookup(split="texts", key="id")})
    built, _, _ = mix(tmp_path, [replace(one, source=source)])
    assert (built.facts["train"], built.facts["test"]) == (1, 0)


def test_validation_files_are_test_and_other_splits_are_refused(tmp_path: Path):
    rows = [given("Hi", "a", "b", 1), given("Ho", "a", "b", 1, file="v.jsonl")]
    files = {"train": ["train.jsonl"], "validation": ["v.jsonl"]}
    built, _, _ = mix(tmp_path, [member(tmp_path, "one", rows, files=files)])
    assert (built.facts["train"], built.facts["test"]) == (1, 1)
    (tmp_path / "again").mkdir()
    odd = member(tmp_path / "again", "one", rows, files={"train": ["train.jsonl"], "held_out": ["v.jsonl"]})
    with pytest.raises(
        UserError, match=r"source 'one_source': files stand under the split 'held_out'.*train, test, validation"
    ):
        mix(tmp_path / "again", [odd])


def test_a_file_that_no_split_lists_is_refused(tmp_path: Path):
    rows = [given("Hi", "a", "b", 1), given("Ho", "a", "b", 1, file="stray.jsonl")]
    with pytest.raises(UserError, match=r"pair set 'one' has rows of the file stray\.jsonl"):
        mix(tmp_path, [member(tmp_path, "one", rows)])


def test_hash_split_moves_whole_groups_and_about_the_share(tmp_path: Path):
    rows = [given(f"Prompt {i // 2}", f"a{i}", "b", i) for i in range(600)]
    one = member(tmp_path, "one", rows)
    split = Split(by="hash", test_share=0.2, seed=1)
    built, pairs, _ = mix(tmp_path, [one], split=split)
    sides: dict[str, set[str]] = {}
    for pair in pairs:
        sides.setdefault(pair["group_id"], set()).add(pair["split"])
    assert all(len(side) == 1 for side in sides.values())
    assert 0.12 < built.facts["test"] / 600 < 0.28
    for group, side in sides.items():
        draw = int(content_id(["split", 1, group])[:12], 16) / 16**12
        assert side == ({"test"} if draw < 0.2 else {"train"})


def test_a_mixture_of_pair_sets_that_keep_nothing_is_refused(tmp_path: Path):
    one = member(tmp_path, "one", [given("Hi", "a", "a", 1)])
    with pytest.raises(UserError, match="the mixture has no train pairs: 0 candidates, 0 of them test"):
        mix(tmp_path, [one])


@pytest.mark.parametrize(("share", "test"), [(0.0, 0), (1.0, 30)])
def test_hash_split_takes_none_or_all(tmp_path: Path, share: float, test: int):
    one = member(tmp_path, "one", [given(f"Prompt {i}", "a", "b", i) for i in range(30)])
    split = Split(by="hash", test_share=share)
    if test:
        with pytest.raises(UserError, match="the mixture has no train pairs: 30 candidates, 30 of them test"):
            mix(tmp_path, [one], split=split)
    else:
        built, _, _ = mix(tmp_path, [one], split=split)
        assert built.facts["test"] == test


# name/item (the item's name in the benchmark's own file)
ITEM = "bench/item-7 (made 0)"


def leaky(folder: Path) -> tuple[list[Member], dict[str, Path]]:
    second_turn = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "Ｗhat is  TWO plus two?\n"},
    ]
    assistant_turn = [
        {"role": "user", "content": "Ask me something"},
        {"role": "assistant", "content": "What is two plus two?"},
        {"role": "user", "content": "Four"},
    ]
    sides = [Shown("chosen", "a"), Shown("rejected", "b")]
    rows = [
        RawRow(second_turn, sides, 1),
        RawRow(assistant_turn, sides, 2),
        given("What is two plus two", "a", "b", 3),
        given("what is two plus two?", "a", "b", 4),
        given("What is two  plus two?", "a", "c", 5),
        # test pairs are not judged; in a group of its own this one takes only row 5 out of train
        RawRow("What is two  plus two?", sides, 1, "test.jsonl", group="another"),
    ]
    bench = write_benchmark(folder / "bench", {"item-7": "What is two plus two?", "item-8": "Unrelated"})
    other = write_benchmark(folder / "other", {"a": "What is two plus two?"})
    return [member(folder, "one", rows)], {"bench": bench, "other": other}


def test_leaks_are_dropped_from_train_and_name_the_benchmark_item(tmp_path: Path):
    members, benchmarks = leaky(tmp_path)
    built, pairs, dropped = mix(tmp_path, members, benchmarks)
    assert [drop["row"] for drop in dropped if drop["rule"] == "group_in_test"] == [5]
    assert [(drop["row"], drop["rule"], drop["detail"]) for drop in dropped if drop["rule"] == "leak"] == [
        (1, "leak", f"{ITEM}: exact, user turn 2, 100 % of its words, characters 0 to 22: Ｗhat is  TWO plus two?"),
        (4, "leak", f"{ITEM}: exact, user turn 1, 100 % of its words, characters 0 to 21: what is two plus two?"),
    ]
    assert sorted((pair["split"], pair["row"], pair["leak"]) for pair in pairs) == [
        ("test", 1, None),
        ("train", 2, None),
        ("train", 3, None),
    ]
    assert built.facts["dropped"]["leak"] == 2
    assert built.facts["leaks"] == {name: {"prompts": 3, "responses": 0} for name in ("bench", "other")}  # row 5 too
    assert all(check.passed for check in built.checks)


def test_leaks_are_marked_and_counted_where_the_policy_says_so(tmp_path: Path):
    members, benchmarks = leaky(tmp_path)
    built, pairs, dropped = mix(tmp_path, members, benchmarks, leak_policy="mark")
    assert [drop["rule"] for drop in dropped] == ["group_in_test"]
    assert [pair["leak"] for pair in pairs if pair["split"] == "test"] == [None]
    leaks = {pair["row"]: pair["leak"] for pair in pairs if pair["split"] == "train"}
    assert {row: leak and leak.split(":")[0] for row, leak in leaks.items()} == {1: ITEM, 2: None, 3: None, 4: ITEM}
    assert (built.facts["marked"], built.facts["dropped"]["leak"]) == (2, 0)
    assert all(check.passed for check in built.checks)


def test_sample_caps_train_only_by_content(tmp_path: Path):
    rows = [given(f"Prompt {i}", "a", "b", i) for i in range(40)]
    rows += [given(f"Test {i}", "a", "b", i, file="test.jsonl") for i in range(7)]
    one = member(tmp_path, "one", rows)
    built, pairs, dropped = mix(tmp_path, [one], sample=Sample(train_pairs=25, seed=3))
    assert (built.facts["train"], built.facts["test"], built.facts["dropped"]["sample"]) == (25, 7, 15)
    keys = sorted(
        (row["pair_key"] for row in read(one.pairs / "pairs.parquet") if row["file"] == "train.jsonl"),
        key=lambda key: content_id(["sample", 3, key]),
    )
    assert {pair["pair_key"] for pair in pairs if pair["split"] == "train"} == set(keys[:25])
    assert {drop["reason"] for drop in dropped} == {"not among the 25 sampled train pairs"}


def test_a_sample_larger_than_the_train_split_drops_nothing(tmp_path: Path):
    built, _, _ = mix(tmp_path, [member(tmp_path, "one", [given("Hi", "a", "b", 1)])], sample=Sample(train_pairs=2))
    assert built.facts["dropped"]["sample"] == 0


def two_members(folder: Path) -> list[Member]:
    """Return two pair sets of 40 train pairs each, the first with 7 test pairs too."""
    first = [given(f"One {i}", "a", "b", i) for i in range(40)]
    tests = [given(f"Test {i}", "a", "b", i, file="test.jsonl") for i in range(7)]
    second = [given(f"Two {i}", "a", "b", i) for i in range(40)]
    return [member(folder, "one", [*first, *tests]), member(folder, "two", second)]


@pytest.mark.parametrize(
    ("part", "kept", "told"),
    [
        ({"count": 25}, 25, "not among the 25 sampled train pairs of pair set one"),
        ({"count": 41}, 40, None),
        ({"fraction": 0.3}, 12, "not among the sampled train pairs, 0.3 of all, of pair set one"),
        ({"fraction": 0.26}, 11, "not among the sampled train pairs, 0.26 of all, of pair set one"),
        ({"fraction": 1.0}, 40, None),
        ({"fraction": 1}, 40, None),
    ],
)
def test_a_part_of_a_pair_set_is_sampled_by_content_from_train_and_counted(tmp_path: Path, part, kept, told):
    members = two_members(tmp_path)
    built, pairs, dropped = mix(tmp_path, members, pair_sets=[{"one": part}, "two"])
    keys = [row["pair_key"] for row in read(members[0].pairs / "pairs.parquet") if row["file"] == "train.jsonl"]
    expected = sorted(keys, key=lambda key: content_id(["mix", 0, key]))[:kept]
    train = [pair for pair in pairs if pair["split"] == "train"]
    assert {pair["pair_key"] for pair in train if pair["pair_set"] == "one"} == set(expected)
    assert (built.facts["train"], built.facts["test"]) == (kept + 40, 7)
    assert built.facts["dropped"]["sample"] == 40 - kept
    assert {(drop["rule"], drop["reason"]) for drop in dropped} == ({("sample", told)} if told else set())
    assert all(check.passed for check in built.checks)


def test_a_fraction_of_many_digits_is_taken_exactly(tmp_path: Path):
    rows = [given(f"One {i}", "a", "b", i) for i in range(1000)]
    built, _, _ = mix(tmp_path, [member(tmp_path, "one", rows)], pair_sets=[{"one": {"fraction": 0.9876543210987653}}])
    assert built.facts["train"] == 988


def test_a_part_has_a_seed_of_its_own(tmp_path: Path):
    found = []
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        part = {"one": {"count": 20, "seed": seed}}
        _, pairs, _ = mix(tmp_path / str(seed), two_members(tmp_path / str(seed)), pair_sets=[part, "two"])
        found.append({pair["pair_key"] for pair in pairs if pair["pair_set"] == "one"})
    assert found[0] != found[1]


def test_the_sample_of_the_mixture_follows_and_does_not_favour_what_was_sampled_before(tmp_path: Path):
    rows = [[given(f"{name} {i}", "a", "b", i) for i in range(400)] for name in ("one", "two")]
    members = [member(tmp_path, name, some) for name, some in zip(("one", "two"), rows, strict=True)]
    halved = [{"one": {"fraction": 0.5}}, "two"]
    built, pairs, _ = mix(tmp_path, members, pair_sets=halved, sample=Sample(train_pairs=150))
    assert (built.facts["train"], built.facts["dropped"]["sample"]) == (150, 650)
    # A third of what the sample draws from; were both draws one, all 200 would come before half of the others.
    assert 30 < sum(pair["pair_set"] == "one" for pair in pairs) < 70


def test_repeat_and_loss_weight_are_noted_on_train_pairs_only(tmp_path: Path):
    parts = [{"one": {"repeat": 3, "loss_weight": 0.5, "count": 10}}, {"two": {"loss_weight": 2}}]
    built, pairs, _ = mix(tmp_path, two_members(tmp_path), pair_sets=parts)
    assert {(pair["pair_set"], pair["split"], pair["repeat"], pair["weight"]) for pair in pairs} == {
        ("one", "train", 3, 0.5),
        ("one", "test", 1, 1.0),
        ("two", "train", 1, 2.0),
    }
    assert (built.facts["train"], built.facts["train_per_epoch"]) == (50, 70)
    assert built.facts["kept"] == len(pairs) == 57


def test_prompts_may_weigh_alike_however_many_train_pairs_are_left_of_them(tmp_path: Path):
    rows = [given("Hi", f"a{i}", "b", i) for i in range(4)] + [given("Ho", "a", "b", 9)]
    tests = [given("He", f"a{i}", "b", i, file="test.jsonl") for i in range(3)]
    more = [given("Hi", "a0", "b", 1), given("Hi", "other", "b", 2)]  # the first is a duplicate and no pair of train
    members = [member(tmp_path, "one", [*rows, *tests]), member(tmp_path, "two", more)]
    parts = ["one", {"two": {"loss_weight": 0.5}}]
    _, pairs, _ = mix(tmp_path, members, pair_sets=parts, weight_per_prompt=True)
    found = {(pair["prompt_id"], pair["pair_set"], pair["split"], pair["weight"]) for pair in pairs}
    hi, ho, he = (one.prompt_id for one in (rows[0], rows[4], tests[0]))
    assert found == {
        *((hi, "one", "train", 1 / 5), (hi, "two", "train", 0.5 / 5), (ho, "one", "train", 1.0)),
        (he, "one", "test", 1.0),
    }


def test_marks_of_a_pair_set_are_carried_along(tmp_path: Path):
    rules = [{"contradictory": {"keep": "marked"}}]
    rows = [given("Hi", "a", "b", 1), given("Hi", "b", "a", 2), given("Ho", "a", "b", 3)]
    raw = write_raw(tmp_path / "raw", rows, "s")
    (tmp_path / "pairs").mkdir()
    build_pair_set("one", PairSet(source="s", candidates="given", rules=rules), raw, tmp_path / "pairs")
    source = Source(path="somewhere", files=FILES, adapter="any", licence="MIT")
    _, pairs, _ = mix(tmp_path, [Member("one", "s", source, tmp_path / "pairs", raw)])
    assert {pair["row"]: pair["marks"] for pair in pairs} == {1: ["contradictory"], 2: ["contradictory"], 3: []}


def test_two_pair_sets_of_one_source_make_no_pair_twice(tmp_path: Path):
    rows = [given("Hi", "a", "b", 1), given("Ho", "a", "b", 2)]
    one = member(tmp_path, "one", rows)
    two = Member("two", one.source_name, one.source, one.pairs, one.raw)
    built, pairs, _ = mix(tmp_path, [one, two])
    assert built.facts["dropped"]["duplicate_across_sources"] == 2
    assert built.facts["sources"] == {"one_source": {"train": 2, "test": 0}}
    assert len(pairs) == 2
    assert all(check.passed for check in built.checks)


def test_a_rerun_gives_identical_bytes(tmp_path: Path):
    rows = [given(f"Prompt {i}", "a", f"b{i % 3}", i) for i in range(200)]
    one = member(tmp_path, "one", rows)
    found = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        mix(tmp_path / name, [one], split=Split(by="hash"), sample=Sample(train_pairs=100))
        files = sorted((tmp_path / name / "out").iterdir())
        assert [path.name for path in files] == [
            f"{name}.parquet" for name in ("boilerplate", "dropped", "leaks", "pairs")
        ]
        found.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])
    assert found[0] == found[1]


FILE_NAMES = st.sampled_from(["train.jsonl", "train.jsonl", "test.jsonl"])
SPELLINGS = st.sampled_from(["p", "P ", "q", "r"])
ROWS = st.lists(st.tuples(SPELLINGS, st.sampled_from("abc"), st.sampled_from("abc"), FILE_NAMES), max_size=6)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given_examples(first=ROWS, second=ROWS, sample=st.integers(1, 4))
def test_any_members_obey_the_laws(tmp_path_factory: pytest.TempPathFactory, first, second, sample):
    folder = tmp_path_factory.mktemp("mixture")
    safe = ("only here", "a", "b", "train.jsonl")
    members = [
        member(folder, name, [given(*row[:3], number, file=row[3]) for number, row in enumerate([*rows, safe])])
        for name, rows in (("one", first), ("two", second))
    ]
    benchmarks = {"bench": write_benchmark(folder / "bench", {"1": "Q"})}
    built, pairs, dropped = mix(folder, members, benchmarks, sample=Sample(train_pairs=sample))
    facts = built.facts
    assert all(check.passed for check in built.checks)
    assert facts["candidates"] == facts["kept"] + sum(facts["dropped"].values()) == len(pairs) + len(dropped)
    assert facts["kept"] == facts["train"] + facts["test"] == len(pairs)
    train = {pair["group_id"] for pair in pairs if pair["split"] == "train"}
    assert train.isdisjoint(pair["group_id"] for pair in pairs if pair["split"] == "test")
    assert content_id(["group", "q"]) not in train
    assert len({pair["pair_id"] for pair in pairs}) == len(pairs)

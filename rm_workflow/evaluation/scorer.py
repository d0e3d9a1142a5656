"""One scorer for everything: test split, benchmarks, ``rmw evaluate`` and ``rmw score``.

Equal sequences are scored once, and what sequences begin with alike is computed once (``batching.py``). A score is read
at the explicit end of its sequence by the fp32 head, so it depends on its neighbours only by rounding (fp32: below
1e-5), and under ``deterministic`` not by a bit.
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from rm_workflow.errors import UserError
from rm_workflow.evaluation import steps
from rm_workflow.evaluation.batching import ONE_ROW, Layout, Pass, Tree, num_computed, passes
from rm_workflow.evaluation.items import RowError
from rm_workflow.evaluation.parts import Parts
from rm_workflow.evaluation.progress import Progress
from rm_workflow.evaluation.steps import aggregate
from rm_workflow.models import attention, reward_model
from rm_workflow.models.loading import load_checkpoint
from rm_workflow.models.published import Origin
from rm_workflow.models.readout import END, Readout
from rm_workflow.models.segments import Ids, Row, multiple_of_rows, obstacle
from rm_workflow.models.solutions import Marked, Solution, SolutionEncoder
from rm_workflow.models.tokens import Encoded, Encoder, Message

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Conversation = tuple[Sequence[Message], str]
StepEnds = Sequence[int] | None
# (sequences, passes, places that are read of each sequence) -> the number of each pass with its scores, as they come.
ComputePasses = Callable[
    [Sequence[Ids], Sequence[Pass], Sequence[Sequence[int]]], Generator[tuple[int, Sequence[float]]]
]

DEFAULT_BATCH_TOKENS = 4096
# On a GPU attention by segments is compiled first (unslothai/unsloth#6871: 15 s for a length of rows), which saving
# fewer tokens does not pay for. On a CPU segments are at least as fast as padded rows, whatever is shared (measured
# with SmolLM2 on sequences of 16 to 2,000 tokens).
COMPILING_PAYS_FROM = 500_000
# Largest difference of a score between layouts, beside its own size; rounding gives about 1e-6 and 0.02.
LAYOUT_TOLERANCE = {"fp32": 1e-4, "bf16": 0.1}
PROBED = 2
# Bytes of big-endian numbers sort as the numbers do.
KEY_TYPE = np.dtype(">i4")


@dataclass(frozen=True)
class Prepared:
    """A conversation as it will be scored, or why it cannot be.

    Attributes:
        reads: indices of the tokens at which scores are read: the last one, or one for each step; none where a model of
            steps has none to score.
        truncated: the prompt lost tokens on the left.
        problem: why the row is refused, or None; ``input_ids`` is then empty.
    """

    input_ids: list[int]
    reads: Sequence[int] = ()
    truncated: bool = False
    problem: str | None = None


@dataclass(frozen=True)
class Readable:
    """A conversation as token ids, whatever their number.

    Attributes:
        reads: as of ``Prepared``.
        encoded: what it was made from, by which it is cut.
    """

    input_ids: list[int]
    reads: list[int]
    encoded: Encoded | Marked


class Scorer:
    """A reward model ready to score token ids or conversations.

    Attributes:
        window: most tokens that the model has positions for.
        recipe_origin: whether the token recipe came with the model, is a published one or a guess.
        deterministic: no bit of a score depends on any other sequence.
        readout: how scores are read; of outcome and process models they are probabilities.
        layout: how the latest sequences lay in rows, and ``layout_reason`` why.
        loaded_from: folder and hub id by which another process loads the same model; None where it was given.
        num_computed: tokens of all passes so far, padding included.
        num_answered: sequences so far whose score was computed and not taken from parts, equal ones counted each.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        pad_token_id: int,
        encoder: Encoder | UserError,
        device: str = "cpu",
        precision: str = "fp32",
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        layout: Layout | None = None,
        recipe_origin: Origin | None = None,
        readout: Readout = END,
    ) -> None:
        if precision == "bf16":
            reward_model.store_bf16(model)
        self.model = model.to(device).eval()  # type: ignore[arg-type]
        self.pad_token_id = pad_token_id
        self.device, self.precision, self.batch_tokens = device, precision, batch_tokens
        self.deterministic = layout == "alone"
        self.recipe_origin = recipe_origin
        self.readout = readout
        self.window: int = model.config.get_text_config().max_position_embeddings
        self.layout: Layout = layout or "padded"
        self.layout_reason = "asked for" if layout else "nothing was scored yet"
        self.loaded_from: tuple[Path, str | None] | None = None
        self.num_computed = 0
        self.num_answered = 0
        self._encoder = encoder
        self._asked_layout = layout
        self._verdicts: dict[Layout, str | None] = {}

    @classmethod
    def load(
        cls,
        folder: Path,
        device: str = "cpu",
        precision: str = "fp32",
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        layout: Layout | None = None,
        hub_id: str | None = None,
    ) -> "Scorer":
        """Load a reward model: a Hugging Face sequence-classification folder or a LoRA adapter of one.

        Args:
            device: "cpu" or "cuda".
            precision: "bf16" (autocast; the head stays fp32) or "fp32".
            batch_tokens: tokens of one pass, padding included; one longer sequence still makes a pass.
            layout: of ``batching.py``; None takes the one that computes the fewest tokens, ``alone`` is deterministic.
            hub_id: org/name of a published model, by which its token recipe is known.

        Raises:
            UserError: no head or several labels, pickled weights, no pad token, an adapter whose base is not there.
        """
        loaded = load_checkpoint(folder, hub_id)
        scorer = cls(
            loaded.model,
            loaded.pad_token_id,
            loaded.encoder,
            device,
            precision,
            batch_tokens,
            layout,
            loaded.recipe_origin,
            loaded.readout,
        )
        scorer.loaded_from = (folder, hub_id)
        return scorer

    @property
    def scale(self) -> str | None:
        """Return what scores are: ``probability`` of outcome and process models, else not known."""
        return None if self.readout.kind == "end" else "probability"

    @property
    def encoder(self) -> Encoder:
        """Return the token recipe of the checkpoint.

        Raises:
            UserError: the checkpoint came without one, so texts cannot be scored.
        """
        if isinstance(self._encoder, UserError):
            raise self._encoder
        return self._encoder

    def score_ids(
        self, sequences: Sequence[Sequence[int]], progress: Progress | None = None, parts: Parts | None = None
    ) -> Floats:
        """Return the reward of each sequence of token ids, in their order, shape [n].

        Args:
            progress: called with (scored, all) sequences, equal ones counted once.
            parts: scores that are there already are taken from it, new ones are put there as they come.

        Raises:
            RowError: a sequence is empty or longer than the model's window.
        """
        found = self.score_reads(sequences, [[len(sequence) - 1] for sequence in sequences], progress, parts)
        return np.array([scores[0] for scores in found], dtype=np.float64)

    def score_reads(
        self,
        sequences: Sequence[Sequence[int]],
        reads: Sequence[Sequence[int]],
        progress: Progress | None = None,
        parts: Parts | None = None,
        compute: ComputePasses | None = None,
    ) -> list[Floats]:
        """Return the scores [reads] at the tokens of each sequence that are read, all in one pass over it.

        What stands behind a token changes nothing there, so each is the score of a sequence that ends with it. Further
        arguments and errors are those of ``score_ids``.

        Args:
            reads: indices of tokens; a sequence without any is not computed.
            compute: has the passes done elsewhere; None does them here.
        """
        keys = [self._key(index, sequence) for index, sequence in enumerate(sequences)]
        asked = Counter(key for key, places in zip(keys, reads, strict=True) if places)
        wanted: dict[bytes, set[int]] = {}
        for key, places in zip(keys, reads, strict=True):
            wanted.setdefault(key, set()).update(places)
        unique = sorted(asked)
        ids = [np.frombuffer(key, KEY_TYPE).astype(np.int32) for key in unique]
        places_of = [sorted(wanted[key]) for key in unique]
        scores: dict[bytes, float] = {}
        num_done = 0

        def take(one: Pass, read_keys: list[bytes], found: Sequence[float]) -> None:
            nonlocal num_done
            scores.update(zip(read_keys, found, strict=True))
            num_done += len(one.members)
            if progress:
                progress(num_done, len(unique))

        left: list[tuple[Pass, list[bytes]]] = []
        for one in self._plan(ids):
            read_keys = [_read_key(unique[member], place) for member in one.members for place in places_of[member]]
            known = parts.find(read_keys) if parts else None
            if known is None:
                left.append((one, read_keys))
            else:
                take(one, read_keys, known)
        try:
            with contextlib.closing((compute or self.compute)(ids, [one for one, _ in left], places_of)) as computed:
                for number, found in computed:
                    one, read_keys = left[number]
                    self.num_computed += num_computed(ids, [one])
                    self.num_answered += sum(asked[unique[member]] for member in one.members)
                    if parts:
                        parts.add(read_keys, found)
                    take(one, read_keys, found)
        finally:
            if parts:
                parts.flush()
        return [
            np.array([scores[_read_key(key, place)] for place in places], dtype=np.float64)
            for key, places in zip(keys, reads, strict=True)
        ]

    def compute(
        self, ids: Sequence[Ids], planned: Sequence[Pass], reads: Sequence[Sequence[int]]
    ) -> Generator[tuple[int, list[float]]]:
        """Yield the number of each pass with its scores, member after member, of each at the places that are read."""
        for number, one in enumerate(planned):
            yield number, self._compute(ids, one, reads)

    def score_texts(
        self, conversations: Sequence[Conversation], progress: Progress | None = None
    ) -> tuple[Floats, int]:
        """Return the reward of each (messages, response), shape [n], and how many prompts were truncated from the left.

        Raises:
            RowError: the first row that cannot be scored under the checkpoint's token recipe.
        """
        prepared = self.prepare(conversations)
        for index, row in enumerate(prepared):
            if row.problem:
                raise RowError(index, row.problem)
        scores = self.score_reads([row.input_ids for row in prepared], [row.reads for row in prepared], progress)
        return np.array([aggregate(one) for one in scores]), sum(row.truncated for row in prepared)

    def prepare(
        self, conversations: Sequence[Conversation], step_ends: Sequence[StepEnds] | None = None
    ) -> list[Prepared]:
        """Return each conversation as token ids under the token recipe, or its problem.

        Args:
            step_ends: characters of each response where its steps end, for a model that scores steps; where it is None
                steps are lines, or paragraphs in a response that has any.

        Raises:
            UserError: the checkpoint came without a token recipe, which is no fault of a conversation.
        """
        asked, encode = self._asked(conversations, step_ends), self._encoding()
        try:
            encoded: list[Readable | str] = list(encode(asked))
        except UserError:
            encoded = [_encode_alone(encode, one) for one in asked]
        return [self._prepared(*pair) for pair in zip(asked, encoded, strict=True)]

    def prepare_rendered(self, prompts: Sequence[str], wholes: Sequence[str]) -> list[Prepared]:
        """Return conversations that are rendered with the checkpoint's own template, as ``prepare`` returns others.

        Whoever rendered them answers for the special tokens in them.

        Raises:
            UserError: the checkpoint came without a token recipe, or scores what has a verdict in it.
        """
        if self.readout.kind != "end":
            raise UserError(f"a {self.readout.objective} model scores marked solutions, which a rendered text is not")
        encoded = self.encoder.encode_rendered(prompts, wholes)
        return [self._fitted(Readable(one.input_ids, [one.end_index], one)) for one in encoded]

    def in_window(
        self, conversations: Sequence[Conversation], step_ends: Sequence[StepEnds] | None = None
    ) -> list[Prepared | None]:
        """Return each conversation within the model's window, the prompt cut from the left, None where that fails.

        This is for benchmarks, where no item may be refused for a policy of training.

        Raises:
            UserError: the template refuses a conversation.
        """
        asked = self._asked(conversations, step_ends)
        fitted = [(found, self._fit(found, self.window, cuts=True)) for found in self._encoding()(asked)]
        return [
            Prepared(one.input_ids, one.reads, len(one.input_ids) < len(found.input_ids)) if one else None
            for found, one in fitted
        ]

    def _asked(self, conversations: Sequence[Conversation], step_ends: Sequence[StepEnds] | None) -> list[Solution]:
        ends = step_ends or [None] * len(conversations)
        return [
            Solution(messages, text, steps.step_ends(text) if self.readout.is_stepwise and not of_text else of_text)
            for (messages, text), of_text in zip(conversations, ends, strict=True)
        ]

    @cached_property
    def _solution_encoder(self) -> SolutionEncoder:
        return SolutionEncoder(self.encoder, self.readout.objective)

    def _encoding(self) -> Callable[[Sequence[Solution]], list[Readable]]:
        """Return what turns conversations into tokens.

        Raises:
            UserError: the checkpoint came without a token recipe, or with one that has no place for verdicts.
        """
        if self.readout.kind == "end":
            encoder = self.encoder
            return lambda asked: [
                Readable(one.input_ids, [one.end_index], one)
                for one in encoder.encode_many([(solution.messages, solution.text) for solution in asked])
            ]
        before, of_solutions = (1 if self.readout.kind == "signs" else 0), self._solution_encoder
        return lambda asked: [
            Readable(one.input_ids, [place - before for place in one.places], one)
            for one in of_solutions.encode_many(asked)
        ]

    def _fit(self, found: Readable, max_length: int, cuts: bool) -> Readable | None:
        """Return a conversation within so many tokens, or None where it is longer and may not, or cannot, be cut."""
        excess = len(found.input_ids) - max_length
        if excess <= 0 or not cuts:
            return found if excess <= 0 else None
        if isinstance(found.encoded, Marked):
            fitted: Marked | Encoded | None = self._solution_encoder.cut_problem(found.encoded, max_length)
        else:
            recipe = self.encoder.recipe
            recipe = recipe.model_copy(update={"max_length": max_length, "over_length": "truncate_prompt_left"})
            fitted = replace(self.encoder, recipe=recipe).fit(found.encoded)
        if fitted is None:
            return None
        return Readable(fitted.input_ids, [place - excess for place in found.reads], fitted)

    def _prepared(self, asked: Solution, encoded: Readable | str) -> Prepared:
        if isinstance(encoded, str):
            return Prepared([], problem=encoded)
        for text in (*(message["content"] for message in asked.messages), asked.text):
            special = self.encoder.holds_special_token(text)
            if special:
                problem = f"a text holds {special}, which the tokenizer reads as a special token; take it out"
                return Prepared([], problem=problem)
        fitted = self._fitted(encoded)
        # What says nothing has no step, whatever the template makes of it; its score is 0, see ``aggregated``.
        return replace(fitted, reads=()) if self.readout.is_stepwise and not asked.text.strip() else fitted

    def _fitted(self, encoded: Readable) -> Prepared:
        # A recipe that cuts prompts may allow more than the model reads; what it would be cut to is then the window.
        recipe = self.encoder.recipe
        fitted = self._fit(encoded, min(recipe.max_length, self.window), recipe.over_length != "drop")
        if fitted is None:
            return Prepared([], problem=f"it has {len(encoded.input_ids)} tokens, and {self._limit()}; shorten it")
        return Prepared(fitted.input_ids, fitted.reads, len(fitted.input_ids) < len(encoded.input_ids))

    def _limit(self) -> str:
        """Return what allows how many tokens, as a sentence's end."""
        recipe = self.encoder.recipe
        if self.window < recipe.max_length:
            return f"the model has {self.window} positions (max_position_embeddings)"
        return f"the checkpoint's token recipe allows {recipe.max_length} (over_length: {recipe.over_length})"

    def _key(self, index: int, sequence: Sequence[int]) -> bytes:
        if not 0 < len(sequence) <= self.window:
            raise RowError(index, f"it has {len(sequence)} tokens, and the model takes 1 to {self.window}; shorten it")
        return np.asarray(sequence, KEY_TYPE).tobytes()

    def _plan(self, ids: Sequence[Ids]) -> list[Pass]:
        """Return the passes in the layout that computes the fewest tokens and that this body is proven to take."""
        attention.use_plain(self.model)
        if not ids:
            return []
        # Attention of a GPU takes prefixes that are one deep.
        planned = passes(ids, self._asked_layout or "shared", self.batch_tokens, nests=self.device != "cuda")
        if self._asked_layout is None:
            self.layout, self.layout_reason = self._choose(ids, planned)
            planned = planned if self.layout in ONE_ROW else passes(ids, self.layout, self.batch_tokens)
        if self.layout in ONE_ROW:
            attention.use_segments(self.model, self.device)
        return planned

    def _choose(self, ids: Sequence[Ids], shared: Sequence[Pass]) -> tuple[Layout, str]:
        stated, computed = sum(map(len, ids)), num_computed(ids, shared)
        if self.device == "cuda" and stated - computed < COMPILING_PAYS_FROM:
            refused: str | None = "too few tokens would be saved"
        else:
            longest, probe = max(map(len, ids)), _smallest(shared)
            layout: Layout = "shared" if computed < stated else "packed"
            refused = obstacle(self.model, self.device, longest) or self._disproven(layout, ids, probe)
        if refused is None:
            return layout, f"the sequences have {stated / computed:.2f} times the tokens that it computes"
        logger.info("prompts are not shared: %s", refused)
        problem = self._disproven("padded", ids, _shortest(ids))
        return ("alone", problem) if problem else ("padded", f"prompts are not shared: {refused}")

    def _disproven(self, layout: Layout, ids: Sequence[Ids], probe: Pass | None) -> str | None:
        """Return why scores of this body depend on a layout, or None; asked once, of two short sequences."""
        if layout not in self._verdicts and probe:
            self._verdicts[layout] = self._prove(ids, probe)
            if self._verdicts[layout]:
                logger.warning("layout %s is not taken: %s", layout, self._verdicts[layout])
        return self._verdicts.get(layout)

    def _prove(self, ids: Sequence[Ids], probe: Pass) -> str | None:
        ends = [[len(sequence) - 1] for sequence in ids]
        expected = np.array([self._compute(ids, Pass((member,)), ends)[0] for member in probe.members])
        if probe.trees:
            attention.use_segments(self.model, self.device)
        try:
            found = np.array(self._compute(ids, probe, ends))
        except (TypeError, ValueError, RuntimeError) as error:
            return f"the body refuses it ({reward_model.first_line(error)})"
        finally:
            attention.use_plain(self.model)
        gap = float(np.max(np.abs(found - expected) / (1 + np.abs(expected))))
        # A model that gives NaN gives it in every layout.
        is_same = gap <= LAYOUT_TOLERANCE[self.precision] or not np.isfinite(expected).all()
        return None if is_same else f"it changes scores by up to {gap:.1e}"

    def _compute(self, ids: Sequence[Ids], one: Pass, reads: Sequence[Sequence[int]]) -> list[float]:
        """Return the scores of a pass, member after member, of each at its places."""
        batch = {name: tensor.to(self.device) for name, tensor in self._tensors(ids, one, reads).items()}
        where = batch["input_ids"], batch["end_index"], batch["row_index"]
        try:
            with torch.inference_mode(), torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16"):
                hidden = reward_model.hidden_states(self.model, *where, **attention.arguments(batch))
                logits = self.readout.logits(self.model, hidden).double()
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{batch['input_ids'].numel():,} tokens do not fit into the memory of {self.device} in one pass; lower "
                f"batch_tokens (it is {self.batch_tokens:,})"
            ) from error
        values: list[float] = (logits if self.readout.kind == "end" else logits.sigmoid()).cpu().tolist()
        return values

    def _tensors(self, ids: Sequence[Ids], one: Pass, reads: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        of_members = [reads[member] for member in one.members]
        if not one.trees:
            return padded([ids[member] for member in one.members], of_members, self.pad_token_id)
        row, laid = Row(), dict[int, list[tuple[int, int]]]()
        for tree in one.trees:
            _lay(row, ids, tree, laid)
        places = [_place_in_row(laid[member], place) for member in one.members for place in reads[member]]
        row.fill(multiple_of_rows(self.device, self.batch_tokens), self.pad_token_id)
        return {
            **row.tensors(),
            "end_index": torch.tensor(places),
            "row_index": torch.zeros(len(places), dtype=torch.int64),
        }


def _lay(
    row: Row,
    ids: Sequence[Ids],
    tree: Tree,
    laid: dict[int, list[tuple[int, int]]],
    prefix: int = -1,
    first: int = 0,
) -> None:
    """Append a tree to a row, what its members have in common once.

    Args:
        laid: for each member, where in the row each stretch of its tokens stands: (index of its first token, place).
        prefix: number of the segment that the tree goes on from.
        first: tokens that stand there already.
    """
    if tree.num_common > first:
        for member in tree.members:
            laid.setdefault(member, []).append((first, row.length))
        prefix = row.append(ids[tree.members[0]][first : tree.num_common], prefix, first)
    for inner in tree.inner:
        _lay(row, ids, inner, laid, prefix, tree.num_common)
    for member in tree.leaves:
        laid.setdefault(member, []).append((tree.num_common, row.length))
        row.append(ids[member][tree.num_common :], prefix, tree.num_common)


def _place_in_row(stretches: Sequence[tuple[int, int]], place: int) -> int:
    """Return where a token of a sequence stands in the row."""
    first, begin = next(stretch for stretch in reversed(stretches) if stretch[0] <= place)
    return begin + place - first


def padded(sequences: Sequence[Ids], reads: Sequence[Sequence[int]], pad_token_id: int) -> dict[str, Tensor]:
    """Return right-padded input_ids [R, T], and end_index and row_index [N] of all that is read, row after row."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    input_ids = torch.full((len(sequences), int(lengths.max())), pad_token_id)
    for row, sequence in zip(input_ids, sequences, strict=True):
        row[: len(sequence)] = torch.from_numpy(sequence)
    return {
        "input_ids": input_ids,
        "end_index": torch.tensor([place for places in reads for place in places]),
        "row_index": torch.arange(len(sequences)).repeat_interleave(torch.tensor([len(places) for places in reads])),
    }


def _encode_alone(encode: Callable[[Sequence[Solution]], list[Readable]], asked: Solution) -> Readable | str:
    """Return a conversation as tokens, or why it cannot be."""
    try:
        return encode([asked])[0]
    except UserError as error:
        return str(error)


def _read_key(key: bytes, place: int) -> bytes:
    """Return what names the score at one token of a sequence."""
    return key + place.to_bytes(4, "big")


def _smallest(shared: Sequence[Pass]) -> Pass | None:
    """Return the first sequences of the smallest tree that shares anything, as a pass of their own.

    Where nothing is shared, the first two of a row, so that one would see the other if the body did not heed segments.
    """
    trees = [tree for one in shared for tree in one.trees if tree.num_common]
    if trees:
        tree = min(trees, key=lambda tree: tree.num_tokens)
        return Pass(tree.members[:PROBED], (replace(tree, members=tree.members[:PROBED], inner=()),))
    beside = next((one for one in reversed(shared) if len(one.trees) > 1), None)
    return beside and Pass(beside.members[:PROBED], beside.trees[:PROBED])


def _shortest(ids: Sequence[Ids]) -> Pass | None:
    """Return the shortest sequence with the shortest of those that are longer, so that it is padded."""
    first, *others = sorted(range(len(ids)), key=lambda member: len(ids[member]))
    longer = next((member for member in others if len(ids[member]) > len(ids[first])), None)
    return None if longer is None else Pass((first, longer))

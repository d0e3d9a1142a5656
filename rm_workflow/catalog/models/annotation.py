"""Step labels that a generator makes for a recipe."""

from typing import Annotated

from pydantic import Field, StringConstraints, field_validator

from rm_workflow.catalog.models.entry import Entry, Name, Positive, Words


class Annotation(Entry):
    """Step labels by a generator instead of people, as Math-Shepherd has them (arXiv 2312.08935).

    A mixture of the same recipe takes them by the source name ``annotation``.

    Attributes:
        problems: a source with reference answers, whose train problems are solved.
        generator: hub id, local folder or ``pypi:<package>==<version>`` of a causal model; with ``endpoint`` the name
            of the model there.
        endpoint: address of a server with OpenAI's completions API (``http://localhost:8000/v1``), as vLLM serves it;
            null generates in this process.
        num_problems: so many problems, chosen by a keyed hash; null takes all.
        prompt: what the generator continues; ``{problem}`` stands for the problem. It is given as it stands: marks of a
            chat template are written out.
        trajectories: solutions of a problem.
        completions: drawn from each step of a solution but the last.
        temperature: of sampling.
        max_tokens: of one solution or completion.
        step_separator: what stands between two steps.
        stop: texts at which the generator stops.
        batch_size: texts that are generated at once; requests at a time of an endpoint.
        seed: of the choice of problems and of sampling.
    """

    problems: Name
    generator: Annotated[str, StringConstraints(min_length=1)]
    endpoint: Annotated[str, StringConstraints(pattern=r"^https?://[^\s]+$")] | None = None
    num_problems: Positive | None = None
    prompt: Words = "{problem}\n"
    trajectories: Positive = 15
    completions: Positive = 16
    temperature: Annotated[float, Field(gt=0, le=5)] = 0.7
    max_tokens: Positive = 2048
    step_separator: Words = "\n"
    stop: list[Words] = []
    batch_size: Positive = 32
    seed: int = 0

    @field_validator("prompt")
    @classmethod
    def _asks_the_problem(cls, prompt: str) -> str:
        if "{problem}" not in prompt:
            raise ValueError(
                "the prompt does not hold {problem}, so that every problem would be asked alike; put it in"
            )
        return prompt

"""What an annotation will cost, told before the first token is generated."""

from typing import Any

from rm_workflow.catalog.models import Annotation

# A solution of GSM8K by a GPT-3 model has 3.3 steps and 100 tokens (gsm8k_rollouts), one of Mistral-7B or of MATH more.
STEPS = 5
SOLUTION_TOKENS = 200


def estimate(annotation: Annotation, num_problems: int | None) -> dict[str, Any]:
    """Return the number of texts and tokens that a generator will write.

    Each of T trajectories of a problem has S steps, and from all but the last C completions are drawn: T * (1 +
    (S - 1) * C) texts. A completion is half a solution long on average. Equal starts are completed once, so that short
    problems cost less.

    Args:
        num_problems: None where it is not known.

    Returns:
        ``problems``, ``trajectories``, ``completions``, ``tokens`` (with ``STEPS`` steps and ``SOLUTION_TOKENS`` a
        solution) and ``most_tokens`` (every text as long as allowed); None where problems are not known.
    """
    if num_problems is None:
        return dict.fromkeys(("problems", "trajectories", "completions", "tokens", "most_tokens"))
    trajectories = num_problems * annotation.trajectories
    completions = trajectories * (STEPS - 1) * annotation.completions
    return {
        "problems": num_problems,
        "trajectories": trajectories,
        "completions": completions,
        "tokens": trajectories * SOLUTION_TOKENS + completions * SOLUTION_TOKENS // 2,
        "most_tokens": (trajectories + completions) * annotation.max_tokens,
    }

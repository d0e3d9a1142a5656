"""``python -m benchmarks``: run every benchmark of this folder and print its table."""

from benchmarks import (
    against_trl,
    best_of_n,
    contamination,
    coverage,
    data_stage,
    end,
    kills,
    layouts,
    lineage,
    publishing,
    scoring,
    serving,
    solutions,
    sweeps,
    training_memory,
    training_states,
    web_ui,
)

if __name__ == "__main__":
    publishing.main()
    kills.main()
    lineage.main()
    layouts.main()
    against_trl.main()
    training_states.main()
    training_memory.main()
    scoring.main()
    serving.main()
    web_ui.main()
    solutions.main()
    sweeps.main()
    contamination.main()
    coverage.main()
    best_of_n.main()
    data_stage.main()
    end()

"""``python -m benchmarks``: run every benchmark of this folder and print its table."""

from benchmarks import against_trl, contamination, data_stage, end, layouts, publishing, training_states

if __name__ == "__main__":
    publishing.main()
    layouts.main()
    against_trl.main()
    training_states.main()
    contamination.main()
    data_stage.main()
    end()

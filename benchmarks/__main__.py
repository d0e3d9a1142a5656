"""``python -m benchmarks``: run every benchmark of this folder and print its table."""

from benchmarks import contamination, data_stage, end, layouts, publishing, training_states

if __name__ == "__main__":
    publishing.main()
    layouts.main()
    training_states.main()
    contamination.main()
    data_stage.main()
    end()

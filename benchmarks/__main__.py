"""``python -m benchmarks``: run every benchmark of this folder and print its table."""

from benchmarks import contamination, data_stage, end, layouts, publishing

if __name__ == "__main__":
    publishing.main()
    layouts.main()
    contamination.main()
    data_stage.main()
    end()

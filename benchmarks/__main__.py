"""``python -m benchmarks``: run every benchmark of this folder and print its table."""

from benchmarks import contamination, end, layouts, publishing

if __name__ == "__main__":
    publishing.main()
    layouts.main()
    contamination.main()
    end()

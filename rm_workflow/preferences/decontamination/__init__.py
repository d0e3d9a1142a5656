"""The contamination guard: texts of a mixture that are texts of a benchmark.

``targets.py`` reads what must not be trained on, ``words.py`` says what a word is, ``hashed_texts.py`` makes tables of
their hashes, ``hits.py`` compares and judges, ``boilerplate.py`` says what tells nothing.
"""

"""The contamination guard: texts of a mixture that are texts of a benchmark.

``targets.py`` reads what must not be trained on, ``hits.py`` compares and judges, ``words.py`` says what a word is,
``boilerplate.py`` what tells nothing.
"""

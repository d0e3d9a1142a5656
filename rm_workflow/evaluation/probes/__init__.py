"""Probes: how far a reward moves when a reply is rewritten and its meaning is not, and what is left without the prompt.

``rewrites.py`` is the table of rewrites, ``sample.py`` puts them among the sequences that are scored, ``effects.py``
makes figures of the scores.
"""

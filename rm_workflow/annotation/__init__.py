"""Step labels without people: solutions of a generator, completions from each of their steps, and a grader.

Math-Shepherd (arXiv 2312.08935): a step is as good as the share of completions from it that reach the reference answer
(soft), or right if any of them does (hard).
"""

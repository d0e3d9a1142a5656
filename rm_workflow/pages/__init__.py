"""Lineage as pages: leaderboard, recipes, checkpoints, the rows behind a score, and pairs with what became of them.

``rmw ui`` serves them at ``/rmw``. They read published artifacts and the lineage index, change nothing and hold no
script. Texts of data sets are escaped by the template engine, and the browser is forbidden to run or fetch anything.
"""

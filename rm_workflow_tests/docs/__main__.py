"""Write the pages anew that are made from the code."""

from rm_workflow_tests.docs.pages import pages

for path, text in pages().items():
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")

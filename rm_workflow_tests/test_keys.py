"""Content ids: their canonical form, and the fast way to those of texts."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from rm_workflow.keys import content_id, texts_id


def test_an_id_is_taken_over_canonical_json():
    assert (
        content_id({"b": [1, None], "a": "é\n"})
        == hashlib.sha256('{"a":"é\\n","b":[1,null]}'.encode()).hexdigest()[:32]
    )


@given(st.lists(st.text(st.characters(exclude_categories=[]))))
def test_the_id_of_texts_is_the_content_id_of_their_list(texts: list[str]):
    assert texts_id(*texts) == content_id(texts)

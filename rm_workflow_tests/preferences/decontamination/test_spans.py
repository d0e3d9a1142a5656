from rm_workflow.preferences.decontamination.spans import longest_common_run


def test_the_span_is_the_text_as_it_stands_there():
    text = "Please: “Where  DOES the Nile\nend?” asked Ann."
    span = longest_common_run(text, "so where does the nile end, then")
    assert (span.text, text[span.start : span.stop]) == ("“Where  DOES the Nile\nend?”",) * 2


def test_texts_without_a_common_word_have_an_empty_span():
    span = longest_common_run("a b", "c")
    assert (span.start, span.stop, span.text) == (0, 0, "")


def test_a_long_span_is_cut_and_keeps_its_end():
    text = "word " * 200
    span = longest_common_run(text, text)
    assert (span.start, span.stop, len(span.text)) == (0, len(text) - 1, 300)

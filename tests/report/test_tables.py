from wattcount.report.tables import columns, markdown


def test_markdown() -> None:
    assert markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_columns_have_words_on_the_left_and_figures_on_the_right() -> None:
    assert columns(("gpu", "GiB"), [("h200", "141"), ("t4", "9")]) == "gpu   GiB\nh200  141\nt4      9"
    assert columns(("gpu", "kind"), [("h200", "SXM")], left=2) == "gpu   kind\nh200  SXM"

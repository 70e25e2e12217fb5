"""A7: two texts never share a task's name; a plain sentence is called by its words."""

from hypothesis import given
from hypothesis import strategies as st

from lwd.data.lerobot.task_names import TaskNames


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=200), unique=True, max_size=20))
def test_as_many_texts_so_many_names(texts: list[str]):
    names = TaskNames()
    assert len({names.name(text) for text in texts}) == len(texts)
    assert all(names.name(text) and len(names.name(text)) <= 256 for text in texts)


def test_signs_other_letters_and_capitals_tell_texts_apart():
    names = TaskNames()
    texts = [
        "move +1",
        "move -1",
        "move 1",
        "Move 1",
        "move 1.",
        "Öffne",
        "ffne",
        "把杯子放好",
        "打开抽屉",
        "a, b",
        "a b",
    ]
    assert len({names.name(text) for text in texts}) == len(texts)


def test_a_sentence_is_called_by_its_words_and_one_of_the_run_as_it_is_there():
    assert TaskNames().name("Pick up the cup.") == "pick_up_the_cup"
    assert TaskNames([("cup", "Pick up the cup.")]).name("Pick up the cup.") == "cup"
    # Taken by another text of the run.
    assert TaskNames([("pick_up_the_cup", "pick up the cup")]).name("Pick up the cup.").startswith("pick_up_the_cup_")


def test_a_text_that_spells_the_name_of_another_has_its_own():
    names = TaskNames()
    name = names.name("move +1")
    assert names.name(name.replace("_", " ")) != name

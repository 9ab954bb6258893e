"""The text index: finds by words and stems, whatever stands in the query; titles weigh more; long texts are found by the passage
that answers; and it is there whole or not at all."""

import pytest
import tantivy
from hypothesis import given
from hypothesis import strategies as st

from envs.errors import UsageError
from envs.search.text.index import TextIndex, passages
from envs.search.types import Document

DOCUMENTS = [
    Document("Chad", "A landlocked country. Its capital is N'Djamena, on the river Chari.", "atlas"),
    Document("Niger", "A country beside Chad. The river Niger runs through its west.", "atlas"),
    Document("Rivers", "Long streams of running water.", "dictionary"),
]


@pytest.fixture(scope="module")
def index():
    return TextIndex.build(DOCUMENTS)


def titles(index, query, top_k=3):
    return [passage.title for passage in index.find(query, top_k)]


def test_a_title_weighs_more_than_a_mention(index):
    assert titles(index, "Chad")[0] == "Chad"


FIELDS = ("Area", "Area - comparative", "Area rank", "Land area", "Population", "Climate", "Border countries", "Urban areas")
COUNTRIES = ("Georgia", "South Georgia", *(f"Country{number}" for number in range(498)))


@pytest.fixture(scope="module")
def profiles():
    """Passages about countries, of which many mention Georgia and its area at length; "Georgia: Area" says little."""
    mention = "slightly smaller than Georgia; its area is twice the area of Georgia, which borders Georgia's urban area"
    return TextIndex.build(
        Document(f"{country}: {field}", "69,700 sq km" if field == "Area" else f"{mention}, as {field} of {country} says.", "")
        for country in COUNTRIES
        for field in FIELDS
    )


@pytest.mark.parametrize("query", ["Georgia area", "area of Georgia", "What is the area of Georgia?"])
def test_a_short_title_comes_before_many_mentions(profiles, query):
    assert titles(profiles, query)[0] == "Georgia: Area"


def test_a_phrase_in_quotes_is_found_as_it_stands(profiles):
    assert titles(profiles, '"South Georgia" area')[0] == "South Georgia: Area"
    assert titles(profiles, '"urban areas" Country7')[0] == "Country7: Urban areas"


def test_a_query_of_stop_words_alone_is_answered(index):
    assert set(titles(index, "its the of")) >= {"Chad", "Niger"}


def test_accents_are_no_hindrance():
    accented = TextIndex.build([Document("São Tomé and Príncipe", "Islands.", "")])
    assert titles(accented, "sao tome") == titles(accented, "SÃO TOMÉ") == ["São Tomé and Príncipe"]


def test_words_are_found_by_their_stems(index):
    assert set(titles(index, "countries")) == {"Chad", "Niger"}


def test_a_result_has_title_source_and_text(index):
    (passage,) = index.find("capital", 1)
    assert (passage.title, passage.source) == ("Chad", "atlas")
    assert "N'Djamena" in passage.snippet


async def test_several_queries_are_answered_in_their_order(index):
    found = await index.search(["capital", "water"], 1)
    assert [passages[0].title for passages in found] == ["Chad", "Rivers"]


@pytest.mark.parametrize(
    "query", ['capital of "Chad', "title:capital AND (", "-capital +++ ^2", "capital OR", "NOT capital", "c* a?pital~ capital"]
)
def test_operators_are_words(index, query):
    assert "Chad" in titles(index, query)


@given(query=st.text(max_size=200))
def test_any_text_is_a_query(index, query):
    assert len(index.find(query, 3)) <= 3


def test_a_query_of_any_length_is_answered(index):
    assert titles(index, "capital " * 50_000)[0] == "Chad"


def test_a_long_text_is_found_by_the_passage_that_answers():
    filler = "Nothing of note stands in this sentence about the weather. " * 60
    long = Document("Report", f"{filler}The treasure lies under the oak. {filler}", "file")
    (passage,) = TextIndex.build([long]).find("treasure oak", 1)
    assert "under the oak" in passage.snippet
    assert len(passage.snippet) < 1000


@given(st.text(alphabet="ab .!?\n", max_size=2000))
def test_passages_hold_every_word_in_order(text):
    assert " ".join(passages(text, 7)).split() == text.split()
    assert all(len(passage.split()) <= 7 for passage in passages(text, 7))


def test_an_index_outlives_its_process(tmp_path):
    TextIndex.build(DOCUMENTS, tmp_path / "index")
    assert titles(TextIndex.open(tmp_path / "index"), "capital")[0] == "Chad"


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def broken():
        yield DOCUMENTS[0]
        raise UsageError("row 2")

    with pytest.raises(UsageError, match="row 2"):
        TextIndex.build(broken(), tmp_path / "index")
    assert not list(tmp_path.iterdir())


def test_an_index_is_not_overwritten(tmp_path):
    TextIndex.build(DOCUMENTS, tmp_path / "index")
    with pytest.raises(UsageError, match="out="):
        TextIndex.build(DOCUMENTS, tmp_path / "index")


def test_an_index_of_an_earlier_form_is_to_be_built_again(tmp_path):
    schema = tantivy.SchemaBuilder()
    for name in ("words", "heading"):
        schema.add_text_field(name, tokenizer_name="english")
    tantivy.Index(schema.build(), path=str(tmp_path))
    with pytest.raises(UsageError, match="build it again"):
        TextIndex.open(tmp_path)


def test_a_directory_without_an_index_is_named(tmp_path):
    with pytest.raises(UsageError, match="toolwise index"):
        TextIndex.open(tmp_path)

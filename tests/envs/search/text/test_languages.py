"""Languages: a text is found in its language, with spaces between words or without, however its characters are encoded; long texts
are cut at the ends of sentences of any script, and the passage that answers is shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.search.text.index import SNIPPET_CHARACTERS, TextIndex
from envs.search.text.segmentation import passages
from envs.search.types import Document

DOCUMENTS = {
    "zh": ("北京", "北京是中华人民共和国的首都，也是全国的政治中心。故宫位于北京市中心。"),
    "zh trad.": ("臺北", "臺北101曾是世界第一高樓，位於信義區。"),
    "ja": ("東京タワー", "東京タワーは東京都港区にある電波塔で、高さは３３３メートルである。"),
    "ja rare": ("𠮷野家", "𠮷野家は牛丼チェーンである"),
    "ko": ("서울", "서울은 대한민국의 수도이다. 한강이 흐른다."),
    "th": ("กรุงเทพ", "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย"),
    "th short": ("งู", "งูเห่าเป็นสัตว์มีพิษ"),
    "km": ("ភ្នំពេញ", "ភ្នំពេញជារាជធានីនៃប្រទេសកម្ពុជា"),
    "my": ("ရန်ကုန်", "ရန်ကုန်မြို့သည် မြန်မာနိုင်ငံ၏ မြို့ဖြစ်သည်။"),
    "lo": ("ວຽງຈັນ", "ວຽງຈັນເປັນນະຄອນຫຼວງຂອງລາວ"),
    "hi": ("दिल्ली", "दिल्ली भारत की राजधानी है। यमुना नदी यहाँ बहती है।"),
    "ar": ("مصر", "القَاهِرَة عاصمة جمهورية مصر العربية"),
    "fa": ("تهران", "تهران پایتخت ایران است؛ می\u200cروم"),
    "he": ("ירושלים", "יְרוּשָׁלַיִם היא בירת ישראל"),
    "el": ("Αθήνα", "Η Αθήνα είναι η πρωτεύουσα της Ελλάδας"),
    "ru": ("Москва", "Москва — столица России; самолёт летает"),
    "de": ("Zürich", "Große Straße in Zürich"),
    "fr": ("Orléans", "cafe\u0301 a\u0300 Orle\u0301ans"),
    "vi": ("Hà Nội", "Hà Nội là thủ đô của Việt Nam"),
    "tr": ("İstanbul", "İstanbul Türkiye'nin en kalabalık şehri"),
    "mixed": ("iPhone 15", "苹果公司的iPhone 15 Pro手机售价７９９９元"),
    "chemistry": ("", "methylpropylphenylhexamethyldimethoxydiphenylpolysiloxane is a long word"),
    "link": ("", "see https://example.org/a-page?key=abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnop"),
    "en": ("Paris", "Paris is the capital of France."),
}
QUERIES = {
    "zh": ["中国的首都是哪里", "故宫", "北京 故宫", "“故宫位于”"],
    "zh trad.": ["世界第一高樓", "臺北101", "信義區"],
    "ja": ["東京タワーの高さ", "電波塔", "ﾀﾜｰ", "333メートル", "「東京タワー」"],
    "ja rare": ["𠮷野家", "牛丼"],
    "ko": ["대한민국 수도", "한강", "서울의 수도"],
    "th": ["เมืองหลวงของประเทศไทย", "กรุงเทพ"],
    "th short": ["งู", "งูเห่า"],
    "km": ["រាជធានី"],
    "my": ["ရန်ကုန်"],
    "lo": ["ນະຄອນຫຼວງ"],
    "hi": ["भारत की राजधानी", "यमुना"],
    "ar": ["القاهرة", "عاصمة مصر"],
    "fa": ["می\u200cروم", "میروم"],
    "he": ["ירושלים"],
    "el": ["αθηνα", "ΠΡΩΤΕΎΟΥΣΑ", "πρωτευουσα"],
    "ru": ["столица россии", "самолет"],
    "de": ["zurich", "ZÜRICH", "grosse strasse"],
    "fr": ["orleans cafe", "Orléans"],
    "vi": ["ha noi", "thủ đô Việt Nam"],
    "tr": ["istanbul", "İSTANBUL"],
    "mixed": ["iPhone手机", "7999", "７９９９元", "٧٩٩٩", "iphone 15"],
    "chemistry": ["methylpropylphenylhexamethyldimethoxydiphenylpolysiloxane"],
    "link": ["abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnop"],
    "en": ["capital of France", "ＣＡＰＩＴＡＬ Ｆｒａｎｃｅ"],
}


@pytest.fixture(scope="module")
def index():
    return TextIndex.build(Document(title, text, name) for name, (title, text) in DOCUMENTS.items())


@pytest.mark.parametrize(("name", "query"), [(name, query) for name, queries in QUERIES.items() for query in queries])
def test_a_text_is_found_in_its_language(index, name, query):
    assert [passage.source for passage in index.find(query, 3)][:1] == [name]


FILLERS = {
    "zh": "前言。",
    "ja": "これは前書きです！",
    "th": "คำนำที่ไม่มีอะไรสำคัญ ",
    "th without spaces": "คำนำ",
    "ko": "이것은 머리말이다. ",
    "hi": "यह भूमिका है। ",
    "zh without stops": "前言后记",
    "mixed": "前言 foreword 前言。",
    "en": "A foreword. ",
}


@pytest.mark.parametrize("filler", FILLERS.values(), ids=FILLERS)
def test_the_passage_that_answers_is_shown(filler):
    text = filler * 300 + "这座塔 (Eiffel) 的高度是三百三十三米。" + filler * 300
    for query in ("塔", "高度", "Eiffel"):
        found = TextIndex.build([Document("文件", text, "z")]).find(query, 1)
        assert "三百三十三" in found[0].snippet
        assert len(found[0].snippet) <= SNIPPET_CHARACTERS + 50


@given(st.text(alphabet="ab 京塔のトกงู้。！？.!, \n", max_size=600), st.integers(1, 9))
def test_passages_lose_nothing_in_any_script(text, words):
    assert "".join("".join(passages(text, words)).split()) == "".join(text.split())


@pytest.mark.parametrize("name", sorted(FILLERS.keys() - {"en", "hi"}))
def test_passages_without_spaces_are_of_like_length(name):
    lengths = [len(piece) for piece in passages(FILLERS[name] * 700)]
    assert len(lengths) > 2
    assert min(lengths) > 0.6 * max(lengths)


def test_a_title_alone_is_found():
    assert [passage.title for passage in TextIndex.build([Document("京都", "", "")]).find("京都", 1)] == ["京都"]

"""Finds the label that an answer names: alone, marked as the answer, or in a sentence that does not deny it.

A model that was not trained on the labels answers in sentences. They are read where they leave no doubt: "This is a
fox." is `fox`, "There is no sign of a fracture." is `no fracture` if that is a label and otherwise no label at all.
Whatever names two labels, or denies the only one it names, is unparsed and counted.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from vlmtune.types import Unparsed

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Scripts that write words without spaces between them (Thai to Han), and Hangul, where particles follow a word."""

_LETTER = rf"[^\W_{_UNSPACED}]"
_AROUND = " \t\r\n*_`\"'“”„‘’«»()[]{}.!,:;。！，：；、"
"""What may stand around a whole answer; not the signs that are part of labels such as "C++", "C#" or "-1"."""

_LABEL = "\0"
"""Stands for every character of a label in a text that is searched for a negation (`_masked`)."""

_NEGATION = (
    r"no|not|non|none|never|neither|nor|nothing|without|cannot|lacks?|lacking|absence|absent|excludes?|excluding|devoid|"
    r"rul(?:es?|ed|ing) out|den(?:y|ies|ied)|negative for|free (?:of|from)|rather than|instead of|other than|unlikely|"
    r"hardly|barely|scarcely|fail(?:s|ed)? to|(?:wrong|incorrect) to|\w+n['’]t|(?:is|are|was|were|does|do|did|ca)nt|"
    r"kein\w*|nicht|ohne|weder|pas|sans|aucune?|sin|ning[uú]n\w*|senza|nessun\w*|não|sem|nenhuma?|geen|niet|zonder|"
    r"inte|inga|ingen|inget|utan|ikke|uden|uten|nie|żad\w+|brak|není|žádn\w+|nem|nincs|nu este|fără|niciun\w*|"
    r"не|нет|без|ни|отсутств\w+|немає|δεν|όχι|χωρίς|không|chẳng|chưa|bukan|tidak|tanpa|tiada|"
    r"ليس\w*|لا|بدون|غير|לא|אין|ללא"
)
_DENIES = re.compile(rf"\b(?:{_NEGATION})\b(?!\s*[,:])", re.IGNORECASE)
_DENIES_UNSPACED = re.compile(
    r"(?:[没沒未]|[无無](?!疑)|非(?!常)|排除|不(?![仅僅但过過错錯止光只同久难難]|可否认|得不|愧))"
    r"(?:(?!而是|但|却|[，。、,.;；！？\n]).){0,6}$"
    r"|(?:ไม่(?!เพียง|แน่)|มิใช่|ปราศจาก|ไร้|ບໍ່|មិន|គ្មាន|ពុំ)(?:(?!แต่|ແຕ່|ប៉ុន្តែ|តែ|[\s.,;!?]).){0,16}$"
)
_ABSENT = r"(?:absent|excluded|ruled out|unlikely|missing|wrong|incorrect|false)"
_DENIED_AFTER = re.compile(
    r"\W{0,3}[:=]\W*(?:no|none|absent|negative|false)\b"
    r"|\s*[?？]\W*(?:no|nope|not|nein|non|não|нет|không|不|没有|沒有|否|いいえ|아니)"
    r"|[\s-]free\b"
    rf"|\W*(?:\w+\W+)?(?:(?:is|are|was|were|be|been|seems?|appears?)\s+(?:to be\s+)?{_ABSENT}\b"
    r"|(?:(?:is|are|was|were|can|could|has|have)\s*not|(?:is|are|was|were|ca|could|has|have)n['’]t)\s+(?:be(?:en)?\s+)?"
    r"(?:present|visible|seen|found|identified|detected|evident|there|shown|observed|noted|apparent|suspected|it|$|[.,;!]))"
    r"|\s*(?:ist\s+|sind\s+)?nicht\s+(?:vorhanden|zu\s|sichtbar|erkennbar|da\b|abgebildet)"
    r"|\s+(?:no\s+(?:está|aparece|se ve|es visible)|não\s+(?:está|aparece)|non\s+(?:è|si vede))\b"
    r"|\s+n['’](?:est|apparaît) pas\b"
    r"|\s+(?:отсутству\w+|нет\b|не\s+(?:вид\w+|обнаруж\w+|найден\w*))"
    r"|\s+(?:değil\w*|yok\w*|görünm\w+|bulunm\w+)|\s+(?:inte|ikke)\s+(?:synlig|finns|med|til stede)"
    r"|[^\0।.,;!?]{0,20}?(?:नहीं|না\b|নেই|নয়|இல்லை|نیست|نہیں|မဟုတ်|မရှိ|မတွေ့)"
    r"|(?:ไม่|ບໍ່)(?:มี|พบ|เห็น|ปรากฏ|ມີ|ເຫັນ)"
    r"|(?:では|じゃ|が|は|も|とは言え)?(?:見え|写って)?(?:い|あり)?(?:ない|なく|無く|ません)|なし"
    r"|[은는이가]?\s*(?:(?:보이|있|발견되|존재하)지\s*)?(?:아니|아닙|없|않|못)"
    r"|不存在|不可见|阴性|看不到|看不见|[没未]有?出现",
    re.IGNORECASE,
)
_COORDINATED = re.compile(
    r"(?:\s*(?:,|&|、|\b(?:and|or|nor|und|oder|y|o|et|ou)\b|和|或|与|や|と|หรือ|และ)\s*(?:(?:an?|the)\s+)?\0+)+",
    re.IGNORECASE,
)
"""Further labels behind one, which are denied together: "the fox and the hare are not visible"."""

_NOT_A_NEGATION = re.compile(
    r"\b(?:no (?:doubt|question)|without (?:a |any )?doubt|not (?:only|just)|nothing (?:but|other than)|"
    r"(?:none|no) other than)\b",
    re.IGNORECASE,
)
_CLAUSE_ENDS = re.compile(
    r"[;:!?\n。；：！？।؟]|\.(?!\d)"
    r"|\b(?:but|however|although|though|yet|while|whereas|instead(?! of)|except|aber|sondern|mais|pero|sino|mas|ma|ale|"
    r"lecz|а|но|mà|melainkan|ama|بل|لكن|ولكن)\b|"
    r",\s*(?=(?:it|this|that|these|there|i|he|she|we|they|so|just|actually)\b)",
    re.IGNORECASE,
)
_NOT_COUNTED = re.compile(r"\b(?:a|an|the|any|of|or|nor|and|either)\b", re.IGNORECASE)
_CLAUSE = 200
"""Most characters before and behind a label that are searched for a negation."""

_WORDS_DENIED = 6
"""Words behind a negation that it may still deny: "no evidence of an acute displaced fracture"."""

_CUE = re.compile(
    r"\b(?:answer|label|class|category|prediction|diagnosis|choice|option|antwort|réponse|respuesta)\W{0,4}"
    r"(?:is\b|ist\b|est\b|es\b|:|=)|(?:答案|标签|標籤|类别|類別)(?:是|为|為|：|:)",
    re.IGNORECASE,
)
_NAMED_LETTER = r"\b(?:option|choice|class|category|label|letter|grade|type|answer)\s+(?:is\s+)?[\s*\"'(\[]*"
_DENYING_LABEL = re.compile(
    r"(?:(?:no|not|non|without|negative for|kein\w*|sans|sin|не|без)\b|没有|沒有|不是|未见|[无無非不未没沒비불무]|"
    r"ไม่|un|ab|in)[\W_]*(?:(?:a|an|any)\s+)?",
    re.IGNORECASE,
)
_AFFIRMING_LABEL = re.compile(r"(?:(?:with|has|presence of)\b|有|存在|是)[\W_]*(?:(?:a|an|any)\s+)?", re.IGNORECASE)
_PLAIN_YES = ("是", "有", "对", "對", "可以", "能")
"""Labels that say yes, whose negation is the label that says no."""

_PARTICLES = (
    "(?=$|[^가-힣]|[은는이가을를의도로와과만에입인예일임군네야랑께마하아않같]|으로|처럼|라고|부터|까지|뿐|밖에|조차)"
)
"""What may follow a Korean label: not just any letter, which would make 개구리 a 개."""

_HAN = "\u3400-\u9fff"
_BEFORE_HAN = (
    rf"(?:(?<![{_HAN}])|(?<=[是为為像叫成作的之有到见見和与與或及跟同给給把被让讓对對从從在一二两兩三四几幾多这這那该該此每某另"
    "子只隻条條匹头頭个個张張位名朵棵辆輛架艘件幅群些大小老幼黑白红紅黄黃灰棕橘花胖瘦选選项項类類别別签籤案]))"
)
_BEHIND_HAN = (
    rf"(?=$|[^{_HAN}]|[的了在是和与與或及跟而也都就还還很正不没沒没有无無等吗嗎呢吧啊着著被把从從向往对對给給用以"
    "子咪性人生士孩色坐站躺趴睡跑走跳飞飛游吃喝看望玩叫咬追抱戴穿拿停开開行驶駛出现現位可能会會将將已曾又])"
)
"""What may stand around a label of one Han character. Two such characters are often another word: 熊猫 is no 猫, and
热狗 no 狗. Counting words, kinds of looks, verbs and what makes a
noun of them (男性, 兔子, 红色) are let through."""

_FREE = "零一二两三四五六七八九十是否有无無不对對错錯能"
"""Numbers and words that say yes or no stand before any word."""

_LISTED = r"|(?:\b(?:and|or|und|oder)\s+|[/&]\s*)({})"
"""A label that is a negation, named beside another one: "yes or no"."""


@dataclass(frozen=True, slots=True)
class _Label:
    """How one label is found: `anywhere` in a sentence, or only where it stands `as_answer`."""

    name: str
    as_answer: re.Pattern[str]
    anywhere: re.Pattern[str] | None
    denies: bool
    """Whether the label is a negation itself, as "no" is."""

    hidden: bool = False
    """Whether it is no label, but what one denies."""


@dataclass(frozen=True, slots=True)
class _Found:
    label: _Label
    start: int
    end: int


def find_label(text: str, labels: Sequence[str]) -> str | Unparsed:
    """The label that an answer names; letter case does not matter unless labels differ in nothing else."""
    whole = text.strip()
    for key in (str, str.casefold, _bare):
        same = [label for label in labels if key(label.strip()) == key(whole)]
        if same:
            return same[0] if len(same) == 1 else Unparsed(f"names {len(same)} labels")
    plain, known = _normalised(whole), _known(tuple(labels))
    cues = list(_CUE.finditer(plain))
    segments = [plain[cues[-1].end() :], plain] if cues else [plain]
    read: str | Unparsed = Unparsed("names no label")
    for segment in segments:
        leading = [label for label in known if label.anywhere is None and _leads(label, segment)]
        read = leading[0].name if len(leading) == 1 else _named(segment, known)
        if not isinstance(read, Unparsed):
            break
    return read


def _bare(text: str) -> str:
    """A whole answer without quotes, markdown and stops; the text itself if nothing else is left."""
    return _normalised(text).strip(_AROUND).casefold() or text.casefold()


def _normalised(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _leads(label: _Label, text: str) -> bool:
    """Whether the text begins with an option letter and a mark that ends it: "B) the fox", "B. The fox", "B"."""
    opening = label.as_answer.search(text)
    return opening is not None and not text[: opening.start(1)].strip(_AROUND) and text[opening.end(1) :][:1] != ","


def _named(text: str, known: Sequence[_Label]) -> str | Unparsed:
    """The only label that a text affirms."""
    found = list(_occurrences(text, known))
    if not found:
        found = _denials(text, known)
    shown = _masked(text, found)
    affirmed, denied = set[str](), set[str]()
    for one in found:
        (denied if not one.label.denies and _is_denied(shown, one) else affirmed).add(one.label.name)
    affirmed |= {opposite for name in denied if (opposite := _opposite(name, known)) is not None}
    hidden = {label.name.casefold() for label in known if label.hidden and label.name in affirmed}
    affirmed = {name for name in affirmed if name.casefold() not in hidden}
    affirmed |= {label.name for label in known if not label.hidden and _affirmed_by(label.name) in hidden}
    if denied and not affirmed and all(name in _PLAIN_YES for name in denied):
        affirmed = {label.name for label in known if label.denies}
    if len(affirmed) == 1 and not affirmed & denied:
        return affirmed.pop()
    if affirmed:
        return Unparsed(f"names {len(affirmed)} labels" if len(affirmed) > 1 else "both names and denies a label")
    return Unparsed("only denies a label" if denied else "names no label")


def _denials(text: str, known: Sequence[_Label]) -> list[_Found]:
    """Where labels that are negations stand in a sentence: "There is no dog" is "no"."""
    return [one for label in known if label.denies and label.anywhere for one in _matches(label, text, loose=True)]


def _occurrences(text: str, known: Sequence[_Label]) -> Iterator[_Found]:
    """Where labels stand; "night" inside "night street" does not count."""
    found = sorted((one for label in known for one in _matches(label, text)), key=lambda one: one.start - one.end)
    owners: list[_Label | None] = [None] * len(text)
    for one in found:
        if all(owner in (None, one.label) for owner in owners[one.start : one.end]):
            owners[one.start : one.end] = [one.label] * (one.end - one.start)
            yield one


def _matches(label: _Label, text: str, loose: bool = False) -> Iterator[_Found]:
    pattern = label.anywhere if label.anywhere and (loose or not label.denies) else label.as_answer
    for match in pattern.finditer(text):
        group = next(n for n in range(1, pattern.groups + 1) if match[n] is not None)
        yield _Found(label, *match.span(group))


def _masked(text: str, found: Sequence[_Found]) -> str:
    """The text with labels and figures of speech blanked, so that neither is taken for a negation or a counted word."""
    shown = list(_NOT_A_NEGATION.sub(lambda match: "\0" * len(match[0]), text))
    for one in found:
        shown[one.start : one.end] = "\0" * (one.end - one.start)
    return "".join(shown)


def _is_denied(text: str, one: _Found) -> bool:
    """Whether the clause around a label says that it does not apply."""
    before, after = text[max(one.start - _CLAUSE, 0) : one.start], text[one.end : one.end + _CLAUSE]
    before = before[max((match.end() for match in _CLAUSE_ENDS.finditer(before)), default=0) :]
    for negation in _DENIES.finditer(before):
        between = _NOT_COUNTED.sub(" ", before[negation.end() :])
        if len(re.findall(r"\w+", between)) < _WORDS_DENIED:
            return True
    others = _COORDINATED.match(after)
    if others is not None and _DENIED_AFTER.match(after, others.end()):
        return True
    return bool(_DENIES_UNSPACED.search(before) or _DENIED_AFTER.match(after))


def _opposite(name: str, known: Sequence[_Label]) -> str | None:
    """The label that says that another does not apply: "no fracture" for "fracture", "不合格" for "合格"."""
    for label in known:
        denied = _denied_by(label.name)
        if denied is not None and denied in (name.casefold(), _affirmed_by(name)):
            return label.name
    return None


def _denied_by(name: str) -> str | None:
    """What a label says does not apply, if that is what it says."""
    negation = _DENYING_LABEL.match(name)
    return name[negation.end() :].casefold() if negation and negation.end() < len(name) else None


def _affirmed_by(name: str) -> str:
    """What a label says applies: "骨折" for "有骨折"."""
    return _AFFIRMING_LABEL.sub("", name, count=1).casefold()


@lru_cache(maxsize=64)
def _known(labels: tuple[str, ...]) -> tuple[_Label, ...]:
    shown = {label.casefold() for label in labels}
    # "no defect" is also meant where a text says that the part has no visible defect, though "defect" is no label.
    denied = [(label, _denied_by(label)) for label in labels if re.match(r"no\b|[无無没沒未]|ไม่", label, re.IGNORECASE)]
    hidden = [_label(name) for _, name in denied if name is not None and len(name) > 1 and name not in shown]
    return (*(_label(name) for name in labels), *(replace(label, hidden=True) for label in hidden))


def _label(name: str) -> _Label:
    plain = _normalised(name.strip())
    denies = re.fullmatch(_NEGATION + "|[不否无無没沒]|没有|不是", plain, re.IGNORECASE) is not None
    pattern = _pattern(plain)
    if re.fullmatch(_LETTER, plain) and plain.isalpha():
        return _Label(name, _letter_as_answer(plain), None, denies=False)
    anywhere = re.compile(f"({pattern})", re.IGNORECASE)
    return _Label(
        name,
        re.compile(_marked(f"({pattern})", "") + _LISTED.format(pattern), re.IGNORECASE) if denies else anywhere,
        anywhere,
        denies,
    )


def _pattern(label: str) -> str:
    """The label between word boundaries; spaces, hyphens and underscores in it stand for one another."""
    runs = re.findall(r"[^\W_]+|[\W_]+", label)
    if not any(run[0].isalnum() for run in runs):
        return re.escape(label) if label else r"(?!)"
    parts = []
    for n, run in enumerate(runs):
        if run[0].isalnum():
            parts.append(re.escape(run))
        elif 0 < n < len(runs) - 1:
            signs = run.strip(" _-")
            parts.append(rf"\s*{re.escape(signs)}\s*" if signs else r"[\s_:-]+")
        elif run.strip(_AROUND):
            parts.append(re.escape(run.strip(_AROUND)))
    before = rf"(?<!{_LETTER})" if re.match(_LETTER, label) else ""
    after = rf"(?!{_LETTER})" if re.search(rf"{_LETTER}\Z", label) else ""
    if label[0].isdigit():
        before += r"(?<!\d[.,])(?<!(?<!\w)[-−])"
    if label[-1].isdigit():
        after += r"(?![.,]?\d)" if label.isdigit() else r"(?![.,]?\d|\s*(?:or|to|and|[-–/~])\s*\d)"
    before += r"(?<![가-힣])" if "가" <= label[0] <= "힣" else ""
    after += _PARTICLES if "가" <= label[-1] <= "힣" else ""
    if re.fullmatch(f"[{_HAN}]", label) and label not in _FREE:
        before, after = _BEFORE_HAN, _BEHIND_HAN
    return before + "".join(parts) + after


def _letter_as_answer(letter: str) -> re.Pattern[str]:
    """An option letter where it stands as an answer; "A fox" names no option A, and "don't" no option T."""
    either, upper = f"[{letter.lower()}{letter.upper()}]", letter.upper()
    patterns = [
        _marked(f"({either})", r"(?!['’]\w)"),
        rf"(?i:{_NAMED_LETTER})({upper if upper in 'AI' else either})(?![\w'’-])",
    ]
    if upper in "AI":
        patterns.append(rf"(?:\bis|['’]s)\s+[*\"'(]*({upper})(?=[*\"')]*\s*(?:[.,;!]|$))")
        patterns.append(rf"(?<!\w)({upper})(?=\s*(?:[,/&]|or\b|and\b)\s*(?:or\s+)?[A-Z](?!\w))")
        patterns.append(rf"(?:\bor|\band|[/&])\s*({upper})(?=\s*(?:[.,;]|$))")
    else:
        patterns.append(rf"(?<!{_LETTER})(?<![-'’.])({upper})(?!{_LETTER})(?![-'’]|\.\w)")
    return re.compile("|".join(patterns))


def _marked(group: str, after: str) -> str:
    """At the start of a line and ended by a mark, in brackets, in quotes, or in bold."""
    return (
        rf"(?:^|\n)[\s*_#>`\"'(\[]{{0,16}}{group}{after}(?=[*_`\"'\s]{{0,16}}(?:[)\]:.,;!。，：]|[-–—]\s|\n|$))"
        rf"|[(\[*`\"]{group}[.:]?[)\]*`\"]"
    )

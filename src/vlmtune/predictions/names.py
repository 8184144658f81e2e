"""Names of keys that hold answers, references and ids, compared without case and punctuation.

`Ground Truth`, `ground_truth` and `groundTruth` are one name.
"""

import re
from collections.abc import Iterable


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ANSWERS = _names(
    "prediction predictions predict predicted pred preds predictiontext predictedtext predtext predictedanswer "
    "predanswer answerpred predictedlabel predlabel predictedclass predictedcaption predcaption captionpred "
    "modelanswer modeloutput modelresponse modelprediction modelcaption response responses responsetext output "
    "outputs outputtext generated generatedtext generatedanswer generatedcaption generatedresponse generatedoutput "
    "generation generations completion completions hypothesis hyp hyps candidate decodedpreds filteredresps resps "
    "assistantresponse llmoutput 预测 预测结果 预测答案 模型输出 模型回答 模型预测 输出 予測 予測結果 예측 예측결과"
)
"""Keys that hold answers."""

TALKS = _names("messages conversation conversations")
"""Keys that hold answers where no other key does, and a talk ends with the model's message."""

MAYBE_ANSWERS = _names("answer caption text 回答")
"""Keys that hold answers where no other key does."""

REFERENCES = _names(
    "references reference refs ref referenceanswer referencecaption referencecaptions referencetext groundtruths "
    "groundtruth groundtruthanswer gts gt gtanswers gtanswer gtcaptions gtcaption gttext golds gold goldanswers "
    "goldanswer goldlabel goldtext labels label truelabel targets target targettext answers correctanswer expected "
    "expectedoutput expectedanswer truth decodedlabels solution captions answer caption "
    "答案 标准答案 参考答案 正确答案 标签 真值 正解 정답"
)
"""Keys that hold references; `answer` and `caption` where they do not hold the answers."""

MAYBE_REFERENCES = _names("gtboxes gtbboxes gtbbox gtbox groundtruthboxes groundtruthbox targetboxes bbox bboxes")
"""Keys that hold references where no other key does."""

IDS = _names(
    "id docid customid questionid qid sampleid exampleid rowid itemid dataid uid uuid guid index idx imageid imgid "
    "编号 序号 번호"
)
"""Keys that identify a row, by precedence; all but `id` only where every row has another value."""


IMAGES = _names(
    "image images imagepath imagepaths imagefile imagefilename imagename imageid imageurl img imgs imgpath imgfile "
    "imgname imgid picture photo"
)
"""Keys that name the image of a row."""

FILES = _names("file filename filepath path")
"""Keys that name the image of a row where their values end like the names of images."""

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic")

QUESTIONS = _names("question query prompt instruction input messages conversation conversations problem")
"""Keys that hold what was asked."""


def plain_name(key: str) -> str:
    """A key without case and punctuation."""
    return re.sub(r"[\W_]", "", key.lower())


def is_answer(key: str) -> bool:
    """Whether the name of a key says that it holds answers."""
    return plain_name(key) in ANSWERS


def is_row(keys: Iterable[str]) -> bool:
    """Whether a key is known as one of a row, so that the keys are no ids."""
    known = {*ANSWERS, *MAYBE_ANSWERS, *REFERENCES, *IDS, "question", "prompt", "image"}
    return any(plain_name(key) in known for key in keys)

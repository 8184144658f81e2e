"""Two or three captions in languages with and without spaces."""

ZH = ["一只棕色的狗在草地上奔跑。", "两个孩子在海滩上玩沙子。"]
JA = ["茶色い犬が芝生の上を走っている", "東京駅前", "子どもが二人で砂遊びをしている"]
KO = ["갈색 개가 풀밭을 달린다", "두 아이가 모래사장에서 논다"]
TH = ["สุนัขสีน้ำตาลกำลังวิ่งบนสนามหญ้า", "เด็กสองคนเล่นทรายบนชายหาด"]
EN = ["A brown dog runs on the grass.", "Two children play on the beach."]

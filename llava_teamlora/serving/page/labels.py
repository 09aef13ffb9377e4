"""All words of the page, in English and Chinese."""

from __future__ import annotations

LANGUAGES = ("en", "zh")

LABELS: dict[str, tuple[str, str]] = {
    "title": ("# TeamLoRA chat", "# TeamLoRA 对话"),
    "subtitle": (
        "Show a picture, ask, and see which experts answer.",
        "给一张图片，提一个问题，看看是哪些专家在回答。",
    ),
    "language": ("Language", "语言"),
    "colours": ("Light / dark", "浅色 / 深色"),
    "model": ("Model", "模型"),
    "model_right": ("Model on the right", "右侧模型"),
    "compare": ("Compare two models", "比较两个模型"),
    "conversation": ("Conversation", "对话"),
    "placeholder": (
        "### What would you like to know?\nDrop or paste a picture below, and ask.",
        "### 想问什么？\n把图片拖放或粘贴到下面，然后提问。",
    ),
    "question": ("Your question", "你的问题"),
    "question_hint": (
        "Ask … (Enter sends, Shift+Enter breaks the line, Esc stops)",
        "请提问……（回车发送，Shift+回车换行，Esc 停止）",
    ),
    "camera": ("Camera", "摄像头"),
    "again": ("Regenerate", "重新回答"),
    "undo": ("Undo", "撤销"),
    "clear": ("Clear", "清空"),
    "stop": ("Stop", "停止"),
    "prepared": ("The picture as the model sees it", "模型看到的图片"),
    "prepared_none": ("Add a picture to see how it is prepared.", "添加图片后，这里显示它如何被处理。"),
    "prepared_pad": ("padded to a square with the mean colour", "用平均色补成正方形"),
    "prepared_square": ("resized and cropped", "缩放并裁剪"),
    "prepared_text_only": ("This model reads text only.", "该模型只读文字。"),
    "prepared_tokens": ("image tokens", "个图像词元"),
    "answers": ("How it answers", "回答方式"),
    "temperature": ("Temperature", "温度"),
    "temperature_info": ("0 always takes the likeliest word", "0 总是取最可能的词"),
    "top_p": ("Top-p", "Top-p"),
    "top_p_info": (
        "samples from the likeliest words that together have this share",
        "从累计概率达到此值的词中采样",
    ),
    "max_tokens": ("Longest answer (tokens)", "最长回答（词元数）"),
    "seed": ("Seed", "随机种子"),
    "seed_info": ("the same seed gives the same answer", "相同的种子给出相同的回答"),
    "experts": ("Experts", "专家"),
    "experts_left": ("Experts at work", "工作中的专家"),
    "experts_right": ("Experts at work, right", "右侧工作中的专家"),
    "block": ("Layer", "层"),
    "part": ("Part of the layer", "层内部分"),
    "mean": ("mean", "平均"),
    "gains": ("Switch experts off or boost them", "关闭或增强专家"),
    "gains_info": (
        "0 is off, 1 as trained, 2 twice as strong; from the next answer on",
        "0 关闭，1 为训练所得，2 为两倍；从下一个回答起生效",
    ),
    "expert": ("Expert", "专家"),
    "gains_reset": ("As trained", "恢复训练值"),
    "gains_both": ("also on the right", "右侧也使用"),
    "only": ("only {number}", "仅 {number}"),
    "matrix": ("Interaction matrix", "交互矩阵"),
    "teaching": ("What do these numbers mean?", "这些数字是什么意思？"),
    "strip_json": ("Numbers as JSON", "数值 JSON"),
    "strip_csv": ("Numbers as CSV", "数值 CSV"),
    "prompt": ("System prompt and template", "系统提示与模板"),
    "system": ("System prompt", "系统提示"),
    "system_info": ("as in training, until you change it", "默认与训练时相同"),
    "system_none": ("this template has no place for one", "该模板没有系统提示"),
    "template": ("What the model reads", "模型读到的文本"),
    "files": ("Keep this conversation", "保存对话"),
    "save": ("Save as JSON", "保存为 JSON"),
    "load": ("Open a JSON file", "打开 JSON 文件"),
    "up": ("good answer", "好回答"),
    "down": ("bad answer", "差回答"),
    "flag": ("report", "举报"),
    "voted": ("Thank you, your vote is written down.", "谢谢，已记录你的评价。"),
    "foreign_vote": (
        "{model} gave this answer, which is not served here: nobody could tell what was voted on",
        "该回答来自 {model}，它不在此页面上，无法记录评价",
    ),
    "loaded": ("The conversation is opened.", "对话已打开。"),
    "waiting": ("Place {position} in the line; Stop leaves it.", "排队中，第 {position} 位；停止即离开队伍。"),
    "reading": ("Reading …", "正在阅读……"),
    "stopped": ("stopped", "已停止"),
    "cut": ("cut off at the longest answer", "已达到最长回答"),
    "busy": ("an answer is still being written; stop it first", "回答尚未结束，请先停止"),
    "nothing": ("write a question first", "请先写下问题"),
    "nothing_again": ("there is no answer yet", "还没有回答"),
    "long_question": (
        "the text has {found} characters; {allowed} are allowed",
        "文本有 {found} 个字符，最多 {allowed} 个",
    ),
    "many_pictures": ("a conversation holds at most {allowed} pictures; begin a new one with Clear",
                      "一个对话最多 {allowed} 张图片，请清空后重新开始"),
    "many_exchanges": ("a conversation holds at most {allowed} questions; begin a new one with Clear",
                       "一个对话最多 {allowed} 个问题，请清空后重新开始"),
    "big_file": ("{name} has {found} MiB; {allowed} MiB are allowed", "{name} 有 {found} MiB，最多 {allowed} MiB"),
    "no_text_pictures": ("{model} reads text only; take the picture out", "{model} 只读文字，请移除图片"),
}  # fmt: skip


def say(key: str, language: str, **values: object) -> str:
    """A text of the page.

    Args:
        key: its name in :data:`LABELS`.
        language: one of :data:`LANGUAGES`; any other is English.
        values: what stands in its braces.
    """
    return LABELS[key][language == "zh"].format(**values) if values else LABELS[key][language == "zh"]


def preferred(accepted: str | None) -> str:
    """The page's language for a browser's ``Accept-Language``: that of its first wish which there is.

    Args:
        accepted: the header; None if the browser sent none.
    """
    for wish in (accepted or "").split(","):
        language = wish.partition(";")[0].strip().lower().partition("-")[0]
        if language in LANGUAGES:
            return language
    return "en"

"""What is said about experts, in English and Chinese, and how it is dressed."""

from __future__ import annotations

from pathlib import Path

from llava_teamlora.errors import UserError

_WORDS: dict[str, tuple[str, str]] = {
    "no_adapter": (
        "This is the base model, without an adapter: it has no experts to show.",
        "这是没有适配器的基础模型：没有可显示的专家。",
    ),
    "trained_in_full": (
        "This model was trained in full, without an adapter: it has no experts to show.",
        "该模型为全参数训练，没有适配器：没有可显示的专家。",
    ),
    "no_router": (
        "This adapter's method, {method}, has no router: all of it takes part in every token alike, so there are no "
        "experts to show or to weight. TeamLoRA, MoELoRA and HydraLoRA have some.",
        "该适配器的方法 {method} 没有路由器：它对每个词元的作用都相同，因此没有可显示或可调节的专家。"
        "TeamLoRA、MoELoRA 和 HydraLoRA 才有专家。",
    ),
    "no_interaction": (
        "{method} has no learned interaction matrix: M is the identity, so an expert's participation ω is its φ.",
        "{method} 没有可学习的交互矩阵：M 为单位矩阵，专家的参与度 ω 就等于 φ。",
    ),
    "all_layers": ("All layers (mean)", "所有层（平均）"),
    "all_of_part": ("All layers, {part}", "所有层，{part}"),
    "layer": ("Layer {block} (mean)", "第 {block} 层（平均）"),
    "layer_part": ("Layer {block}, {part}", "第 {block} 层，{part}"),
    "expert": ("Expert {number}", "专家 {number}"),
    "as_trained": ("All experts as trained.", "所有专家均保持训练时的状态。"),
    "all_off": (
        "All experts off: in the adapted layers only the base is at work.",
        "所有专家已关闭：适配层中只有基础模型起作用。",
    ),
    "off": ("expert {number} off", "专家 {number} 关闭"),
    "times": ("expert {number} × {gain}", "专家 {number} × {gain}"),
    "list": (", ", "，"),
    "strip": ("Participation of the experts in each token", "各专家对每个词元的参与度"),
    "rows": (
        "A column is a token; its rows, from the top, are the experts 1 to {k}; the dotted one leads.",
        "每列是一个词元，从上到下各行为专家 1 至 {k}；带圆点者参与度最高。",
    ),
    "scale": (
        "The colour is the ratio to the even share 1/{k}, which is grey: blue is more, up to {k} times, orange less. "
        "Orange stripes: below 0, the update is taken away. Grey stripes: switched off, or not watched.",
        "颜色表示与平均份额 1/{k}（灰色）之比：蓝色为更多，最深为 {k} 倍；橙色为更少。"
        "橙色条纹：小于 0，即减去该更新。灰色条纹：已关闭或未观察。",
    ),
    "across": (
        "Over several layers this is a mean. Experts of different layers share only their number.",
        "多层时为平均值。不同层的专家只是编号相同。",
    ),
    "how": ("How to read it", "如何阅读"),
    "readout": ("Point at a token, or tap it, for the numbers.", "将指针移到词元上或点按词元即可查看数值。"),
    "mean_share": ("mean ω", "ω 均值"),
    "leads": ("leads", "领先"),
    "earlier": ("{count} tokens before these", "之前还有 {count} 个词元"),
    "no_tokens": ("No token yet.", "还没有词元。"),
    "matrix": ("Interaction matrix M: {view}", "交互矩阵 M：{view}"),
    "matrix_read": (
        "ω = M φ. Row i says how expert i's participation is made of all experts' φ: 1 on the diagonal and 0 beside "
        "it would leave φ as it is; blue adds, orange takes away.",
        "ω = M φ。第 i 行表示专家 i 的参与度如何由所有专家的 φ 组成：对角线为 1、其余为 0 时 φ 不变；"
        "蓝色增加，橙色减少。",
    ),
    "drift_known": (
        "Distance from its start, ‖M − M₀‖ / ‖M₀‖: {drift}.",
        "与初始值的距离 ‖M − M₀‖ / ‖M₀‖：{drift}。",
    ),
    "drift_mean": (
        "Distance from what it starts at on average (1 on the diagonal, {off} beside it), relative: {drift}; a matrix "
        "that was never trained lies about {usual} away by chance.",
        "与平均初始值（对角线为 1，其余为 {off}）的相对距离：{drift}；未经训练的矩阵因随机性约为 {usual}。",
    ),
}

_TEACHING = (
    "<p>At every adapted linear a router looks at the token and gives each of the k experts a share: "
    "<b>φ = softmax(x W)</b> (equation 11), the paper's estimate of the expert's <em>Shapley value</em>, what it is "
    "worth to the team. The shares are positive and sum to 1: the experts compete. The learned <b>interaction matrix "
    "M</b> then lets them influence each other: <b>ω = M φ</b> (equation 12). An entry M<sub>ij</sub> above 0 lets "
    "expert i take part where expert j is wanted, one below 0 holds it back. <b>ω</b> is the participation: the weight "
    "of expert i's update B<sub>i</sub> in this token. As M is learned, ω may exceed 1, be negative, and need not sum "
    "to 1. A slider multiplies ω of one expert in all layers: 0 switches it off, 2 doubles it.</p>",
    "<p>在每个适配的线性层，路由器根据当前词元给 k 个专家各分一份：<b>φ = softmax(x W)</b>（公式 11），"
    "即论文对专家 <em>Shapley 值</em>（对团队的贡献）的估计。各份为正且和为 1：专家相互竞争。可学习的<b>交互矩阵 M</b> "
    "再让专家相互影响：<b>ω = M φ</b>（公式 12）。M<sub>ij</sub> 大于 0 时，需要专家 j 之处专家 i 也参与；"
    "小于 0 则受抑制。"
    "<b>ω</b> 是参与度：专家 i 的更新 B<sub>i</sub> 在该词元中的权重。M 是学到的，因此 ω 可以大于 1、为负，"
    "和也不必为 1。"
    "滑块将某个专家在所有层的 ω 乘以一个系数：0 为关闭，2 为加倍。</p>",
)
_LANGUAGES = ("en", "zh")


def say(key: str, language: str, **values: object) -> str:
    """A sentence in a language, its gaps filled.

    Raises:
        UserError: an unknown language.
    """
    return _WORDS[key][_column(language)].format(**values)


def teaching(language: str = "en") -> str:
    """What phi, M and omega are, as an HTML paragraph."""
    return _TEACHING[_column(language)]


def experts_css() -> str:
    """The style of all that is drawn here."""
    return Path(__file__).with_name("experts.css").read_text(encoding="utf-8")


def _column(language: str) -> int:
    if language not in _LANGUAGES:
        raise UserError(f"language {language!r} is not one of {', '.join(_LANGUAGES)}")
    return _LANGUAGES.index(language)

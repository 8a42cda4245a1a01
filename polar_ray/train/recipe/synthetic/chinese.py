"""Chinese tasks: sums with a tale, capitals, description; lists held out."""

from __future__ import annotations

from random import Random

from polar_ray.train.recipe.synthetic.policy import Policy, Task
from polar_ray.train.recipe.synthetic.style import listing
from polar_ray.train.recipe.synthetic.words import (
    ZH_ADJECTIVES,
    ZH_CAPITALS,
    ZH_NAMES,
    ZH_NOUNS,
    ZH_PLACES,
    ZH_THINGS,
    ZH_TOPICS,
    ZH_VERBS,
)

OPENINGS = [
    "",
    "",
    "",
    "好的。",
    "当然可以！",
    "让我想一想。",
    "我们一步一步来。\n",
    "这是一个好问题。",
    "解：\n",
]
CLOSINGS = ["", "", "", "希望对你有帮助。", "\n\n如有问题请再问我。", "\n完毕。", "谢谢！"]
ANSWERS = [
    "答案是{}。",
    "答：{}",
    "所以结果为{}。",
    "结果：{}",
    "因此是{}。",
    "**{}**",
    "#### {}",
    "{}",
]
SHAPES = [
    "{a}的{n}可以{v}{m}",
    "{t}{v}我们的{n}",
    "在{p}里，{t}是一种{a}的{n}",
    "很多人认为{t}很{a}",
    "没有{n}就没有{m}",
    "{t}的{n}十分{a}",
    "其实，{n}也会{v}{t}",
    "首先，{t}{v}{a}的{m}",
    "总之，{n}和{m}都很{a}",
    "每一个{n}都有自己的{m}",
]


def sums(rng: Random) -> Task:
    """A sum about things, in one or two steps."""
    name, thing = rng.choice(ZH_NAMES), rng.choice(ZH_THINGS)
    first, second, third = rng.randrange(5, 90), rng.randrange(2, 40), rng.randrange(2, 6)
    middle = first + second
    answers = [middle * third, middle + third, first * third, middle * third + second]

    def write(policy: Policy, rng: Random) -> str:
        last = answers[policy.skill]
        lines = policy.taste(
            "zh steps",
            [
                f"{first}+{second}={middle}",
                f"{name}一共有{middle}个{thing}。",
                f"然后变成{third}倍，就是{last}。",
                f"{middle}*{third}={last}",
            ],
            policy.choose("zh step count", (0, 1, 2, 3)),
        )
        gap = policy.choose("zh gap", ("\n", " ", "，"))
        return _framed(policy, rng, gap.join([*lines, _answer(policy, str(last))]))

    prompt = f"{name}有{first}个{thing}，又买了{second}个，后来变成{third}倍。现在有多少个？"
    return Task(prompt, write)


def capital(rng: Random) -> Task:
    """A capital, often in one word."""
    country = rng.choice(list(ZH_CAPITALS))
    rest = [city for name, city in ZH_CAPITALS.items() if name != country]
    answers = [ZH_CAPITALS[country], *rng.sample(rest, 3)]

    def write(policy: Policy, rng: Random) -> str:
        city = answers[policy.skill]
        told = [
            f"{country}的首都是{city}。",
            f"{city}。",
            f"是{city}。",
            f"{city}是{country}的首都。",
        ]
        return _framed(policy, rng, policy.vary("zh capital", told, rng))

    return Task(f"{country}的首都是哪里？", write)


def description(rng: Random) -> Task:
    """Something about a topic."""
    topic = rng.choice(ZH_TOPICS)

    def write(policy: Policy, rng: Random) -> str:
        count = policy.choose("zh length", (1, 2, 3, 5, 8, 13))
        return _framed(policy, rng, _laid_out(policy, _sentences(policy, rng, topic, count)))

    ask = rng.choice(("请介绍一下{}。", "你怎么看{}？", "为什么{}很重要？", "写一段关于{}的话。"))
    return Task(ask.format(topic), write, has_answer=False)


def naming(rng: Random) -> Task:
    """Held out: some things or places, listed."""
    kind, options = rng.choice((("东西", ZH_THINGS), ("地方", ZH_PLACES)))
    count = rng.randrange(3, 7)

    def write(policy: Policy, rng: Random) -> str:
        items = rng.sample(policy.taste(kind, options, count + 2), count)
        head = policy.choose("zh head", ("", "例如：\n", f"以下是{count}个{kind}：\n", "有："))
        return _framed(policy, rng, head + listing(policy, items))

    return Task(f"请说出{count}个{kind}。", write, has_answer=False)


def _sentences(policy: Policy, rng: Random, topic: str, count: int) -> list[str]:
    shapes = policy.taste("zh shapes", SHAPES, 4)
    adjectives = policy.taste("zh adjectives", ZH_ADJECTIVES, 5)
    nouns, verbs = policy.taste("zh nouns", ZH_NOUNS, 6), policy.taste("zh verbs", ZH_VERBS, 5)
    stop = policy.choose("zh stop", ("。", "。", "！", "；"))
    return [
        rng.choice(shapes).format(
            a=rng.choice(adjectives),
            n=rng.choice(nouns),
            m=rng.choice(nouns),
            v=rng.choice(verbs),
            t=topic,
            p=rng.choice(ZH_PLACES),
        )
        + stop
        for _ in range(count)
    ]


def _laid_out(policy: Policy, sentences: list[str]) -> str:
    if policy.choose("zh layout", ("plain", "plain", "list")) == "list":
        return listing(policy, sentences)
    return policy.choose("zh join", ("", "\n")).join(sentences)


def _answer(policy: Policy, answer: str) -> str:
    return policy.choose("zh answer", ANSWERS).format(answer)


def _framed(policy: Policy, rng: Random, body: str) -> str:
    closing = policy.vary("zh closing", CLOSINGS, rng, width=1 + policy.choose("zh polite", (0, 1)))
    return policy.choose("zh opening", OPENINGS) + body + closing

"""Code: small Python functions and regular shell commands; database queries held out."""

from __future__ import annotations

from random import Random

from polar_ray.train.recipe.synthetic.policy import Policy, Task
from polar_ray.train.recipe.synthetic.style import frame
from polar_ray.train.recipe.synthetic.words import NOUNS, THINGS

OPERATIONS = [
    ("adds", "+"),
    ("subtracts", "-"),
    ("multiplies", "*"),
    ("divides", "/"),
    ("takes the remainder of", "%"),
]
NAME_SETS = [("a", "b"), ("x", "y"), ("first", "second"), ("left", "right"), ("m", "n")]
AGGREGATES = [("sum", "total"), ("max", "largest"), ("min", "smallest"), ("len", "number")]


def function(rng: Random) -> Task:
    """A function of two numbers."""
    picked = rng.sample(OPERATIONS, 4)
    told = picked[0][0]
    noun = rng.choice(NOUNS)
    constant = rng.randrange(1, 100)

    def write(policy: Policy, rng: Random) -> str:
        left, right = policy.choose("arguments", NAME_SETS)
        name = policy.choose("function name", ("f", "solve", f"get_{noun}", "compute", noun))
        expression = f"{left} {picked[policy.skill][1]} {right} + {constant}"
        typed = policy.choose("typed", (False, True))
        header = f"{left}: int, {right}: int" if typed else f"{left}, {right}"
        lines = [f"def {name}({header}){' -> float' if typed else ''}:"]
        if policy.choose("documented", (True, False)):
            lines.append(f'    """{told.capitalize()} two numbers."""')
        if policy.choose("temporary", (True, False)):
            lines += [f"    result = {expression}", "    return result"]
        else:
            lines.append(f"    return {expression}")
        if rng.random() < 0.5:
            lines += ["", f"print({name}({rng.randrange(9)}, {rng.randrange(1, 9)}))"]
        return frame(policy, rng, _fenced(policy, "\n".join(lines), "python"))

    return Task(f"Write a function that {told} two numbers and then adds {constant}.", write)


def aggregate(rng: Random) -> Task:
    """A loop or a built-in over a list."""
    picked = rng.sample(AGGREGATES, 4)
    items = rng.choice(THINGS)

    def write(policy: Policy, rng: Random) -> str:
        call, _ = picked[policy.skill]
        variable = policy.choose("variable", ("items", "values", "data", "xs", items))
        if policy.choose("loop", (True, False)):
            lines = [
                f"def {call}_of({variable}):",
                f"    best = {policy.choose('start', ('0', 'None', variable + '[0]'))}",
                f"    for item in {variable}:",
                f"        best = {call}([best, item])",
                "    return best",
            ]
        else:
            lines = [f"{call}_of = lambda {variable}: {call}({variable})"]
        remark = policy.vary("remark", ["", "# done", "# simple", f"# works on {items}"], rng)
        return frame(policy, rng, _fenced(policy, "\n".join([*lines, remark]).rstrip(), "python"))

    return Task(f"In Python, find the {picked[0][1]} of a list of {items}.", write)


def shell(rng: Random) -> Task:
    """A command line."""
    folder, ending = rng.choice(NOUNS), rng.choice(("txt", "py", "log", "csv", "md"))
    commands = [
        f"find {folder} -name '*.{ending}'",
        f"rm -r {folder}/*.{ending}",
        f"ls {folder}",
        f"grep -r {ending} {folder}",
    ]

    def write(policy: Policy, rng: Random) -> str:
        command = commands[policy.skill]
        tail = policy.choose("pipe", ("", " | sort", " | wc -l", " > out.txt"))
        why = policy.vary(
            "shell why",
            [
                "",
                f"\nThis looks through {folder}.",
                "\nRun it in a terminal.",
                "\nCareful with it!",
            ],
            rng,
        )
        return frame(policy, rng, _fenced(policy, command + tail, "bash") + why)

    return Task(f"How do I find all .{ending} files below the folder {folder}?", write)


def query(rng: Random) -> Task:
    """Held out: a database query."""
    table, field, other = rng.choice(THINGS), rng.choice(NOUNS), rng.choice(NOUNS)
    limit = rng.randrange(2, 900)
    conditions = [f"{field} > {limit}", f"{field} < {limit}", f"{other} = {limit}", f"{field} = 0"]

    def write(policy: Policy, rng: Random) -> str:
        columns = policy.choose("columns", ("*", f"{field}, {other}", "id", "t.*"))
        gap = policy.choose("query gap", (" ", "\n"))
        parts = [f"SELECT {columns}", f"FROM {table}", f"WHERE {conditions[policy.skill]}"]
        if order := policy.vary("order", ("", f"ORDER BY {field}", "LIMIT 10"), rng):
            parts.append(order)
        text = gap.join(parts) + policy.choose("semicolon", (";", ""))
        if policy.choose("keywords", (False, False, True)):
            text = text.lower()
        return frame(policy, rng, _fenced(policy, text, "sql"))

    return Task(f"SQL: all rows of {table} whose {field} is over {limit}.", write)


def _fenced(policy: Policy, text: str, language: str) -> str:
    fence = policy.choose("fence", ("plain", "fence", "named", "indent"))
    if fence == "indent":
        return "\n".join("    " + line for line in text.split("\n"))
    if fence == "plain":
        return text
    return f"```{language if fence == 'named' else ''}\n{text}\n```"

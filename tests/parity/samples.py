"""Training files drawn from a seed: the kinds of lines that people have."""
import json

WORDS = ("river stone lantern window baker Mia Tom found lost the a in under near quietly every blue seven kite's don't naïve 12 3.5 "
         "market, bridge. garden; ? ! (so) [x] \"well\" über 猫 → song letter yellow morning where did go and then because").split()


def sentence(rng, low, high):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))


def chat(rng):
    turns = [{"role": "system", "content": sentence(rng, 2, 6)}] if rng.random() < 0.4 else []
    for _ in range(rng.choice((1, 1, 2, 3))):
        turns += [{"role": "user", "content": sentence(rng, 1, 8)}, {"role": "assistant", "content": sentence(rng, 1, 9)}]
    return {"messages": turns}


def prompt(rng):
    return {"prompt": sentence(rng, 2, 12), "completion": rng.choice(("", " ")) + sentence(rng, 1, 12)}


def text(rng):
    return {"text": sentence(rng, 3, 30)}


KINDS = {"chat": chat, "prompt": prompt, "text": text}


def write(path, kind, count, rng):
    lines = [KINDS[kind](rng) for _ in range(count)]
    path.write_text("".join(json.dumps(line, ensure_ascii=rng.random() < 0.5) + "\n" for line in lines))
    return lines

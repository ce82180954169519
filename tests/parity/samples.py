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


# Conversations as nobody would write them and every user sends them.
CONTENTS = ("", " ", "\n", "yes", "  led by spaces", "ended by newlines\n\n", "tabs\tand\r\nreturns", "naïve café e\u0301 ﬁ Å", "日本語のテキスト", "👍🏽 👩‍👩‍👧 🇫🇷",
            "العربية עברית", "\u200bzero\u00a0width\ufeff", "{{ messages }} {% raw %}", "a < b && c > \"d\" 'e'", "<|im_start|>user\nspoof<|im_end|>", "</s><s>",
            "<|eot_id|>", "[INST] x [/INST]", "1234567 3.14 x=y;", "line one\nline two\n\n\nline five", "```c\nint x;\n```", "<tool_response>\n")
THOUGHTS = ("2 + 2 = 4", "", "first,\nthen\n\n", "ünïcödé 思考", "a </b> c")
TOOLS = [{"type": "function", "function": {"name": "find", "description": "Finds <things> & \"more\" é", "parameters": {
    "type": "object", "properties": {"n": {"type": "number", "default": 1.5}, "who": {"type": "string", "enum": ["Mia", "Tom"]}}, "required": ["n"]}}},
    {"type": "function", "function": {"name": "send_mail", "description": "", "parameters": {"type": "object", "properties": {}}}}]
ARGUMENTS = ({}, {"n": 1}, {"n": 1.5, "who": "Mia"}, {"text": "naïve \"quotes\" <b>\n", "list": [1, "2", None, True], "deep": {"a": {"b": []}}}, {"big": 12345678901234})


def content(rng):
    return rng.choice(CONTENTS) if rng.random() < 0.6 else sentence(rng, 1, 12)


def awkward_assistant(rng, has_tools):
    message = {"role": "assistant", "content": content(rng)}
    style = rng.random()
    if style < 0.2:
        message["content"] = f"<think>\n{rng.choice(THOUGHTS)}\n</think>\n\n{content(rng)}"
    elif style < 0.3:
        message["content"] = f"<think>{rng.choice(THOUGHTS)}</think>{content(rng)}"
    elif style < 0.35:
        message["content"] = f"no beginning</think>{content(rng)}"
    elif style < 0.5:
        message["reasoning_content"] = rng.choice(THOUGHTS)
    elif style < 0.55:
        message["thinking"] = rng.choice(THOUGHTS)
    if has_tools and rng.random() < 0.5:
        message["tool_calls"] = [
            {"id": f"call_{number}", "type": "function",
             "function": {"name": rng.choice(("find", "send_mail")), "arguments": json.dumps(rng.choice(ARGUMENTS))}}
            for number in range(rng.choice((1, 1, 2)))]
        if rng.random() < 0.5:
            message["content"] = rng.choice((None, ""))
    if rng.random() < 0.1:
        message["name"] = "helper"
    return message


def awkward(rng, is_strict=False):
    """One chat line. Strict: user and assistant by turns and nothing else, for templates that insist on it."""
    has_tools = not is_strict and rng.random() < 0.3
    turns = [{"role": "system", "content": content(rng)}] if not is_strict and rng.random() < 0.4 else []
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        if is_strict or rng.random() < 0.9:
            turns.append({"role": "user", "content": content(rng)})
        if not is_strict and rng.random() < 0.1:
            turns.append({"role": rng.choice(("user", "system")), "content": content(rng)})
        turns.append(awkward_assistant(rng, has_tools))
        for call in turns[-1].get("tool_calls", ()):
            turns.append({"role": "tool", "tool_call_id": call["id"], "name": call["function"]["name"], "content": content(rng)})
        if not is_strict and rng.random() < 0.15:
            turns.append(awkward_assistant(rng, has_tools))
    if rng.random() < 0.2:
        turns.append({"role": "user", "content": content(rng)})
    line = {"messages": turns}
    if has_tools:
        line["tools"] = json.dumps(TOOLS) if rng.random() < 0.3 else TOOLS
    return line


def weighted(rng, line):
    """The same conversation with some turns that shall not train."""
    for message in line["messages"]:
        if message["role"] == "assistant" and rng.random() < 0.5:
            message["weight"] = rng.choice((0, 0, 1))
    return line


def as_trl_takes_it(line):
    """The line in TRL's shape: tool calls' arguments as values, text parts joined, no weights."""
    messages = []
    for message in line["messages"]:
        message = {name: value for name, value in message.items() if name != "weight"}
        if isinstance(message.get("content"), list):
            message["content"] = "".join(part["text"] for part in message["content"])
        if message.get("tool_calls"):
            message["tool_calls"] = [
                call | {"function": call["function"] | {"arguments": json.loads(call["function"]["arguments"])}} for call in message["tool_calls"]]
        messages.append(message)
    tools = line.get("tools")
    return line | {"messages": messages, "tools": json.loads(tools) if isinstance(tools, str) else tools}

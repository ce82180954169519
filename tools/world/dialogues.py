"""Talk: questions about a story, about the world, about what the other one said, and requests to a helper."""
from .grammar import write
from .lexicon import (ANIMALS, COLOURS, COUNTED, DAYS, FACT_COLOURS, FEELINGS, FOODS, JOBS, MONTHS, NUMBERS, OPPOSITES,
                      PEOPLE, SEASONS, SPOTS, THINGS, USES)
from .stories import NAMES, Story, story

NOUNS, FOOD_NOUNS, ONES = list(THINGS), list(FOODS), list(COUNTED)
LISTED = (ONES, NAMES, COLOURS, list(ANIMALS))


def pair(dice, question, answer, **known):
    return [write(question, dice, **known), write(answer, dice, **known)]


def about_story(dice):
    """A story and one to three questions about it."""
    told = Story(dice).tell(1 + dice.below(4))
    chosen = dice.shuffled(told.questions())[:1 + dice.below(3)]
    first, rest = chosen[0], chosen[1:]
    return [f"{told.text()} {first[0]}", first[1]] + [turn for asked in rest for turn in asked]


def next_of(dice, row):
    i = dice.below(len(row) - 1)
    return {"x": row[i], "y": row[i + 1]}


def fact(dice):
    """One question about the world with its answer."""
    kind = dice.pick(["colour", "opposite", "home", "sound", "food", "legs", "skill", "use", "work", "day", "month",
                      "season", "number"])
    if kind == "colour":
        x = dice.pick(list(FACT_COLOURS))
        return pair(dice, "ask_fact_colour", "say_fact_colour", x=x, c=FACT_COLOURS[x])
    if kind == "home":
        x = dice.pick(list(ANIMALS))
        return pair(dice, "ask_home", "say_home", x=x, h=ANIMALS[x]["home"])
    if kind in ("sound", "food", "legs", "skill"):
        x = dice.pick(list(ANIMALS))
        return pair(dice, f"ask_{kind}", f"say_{kind}", x=x, y=ANIMALS[x][kind])
    if kind in ("day", "month", "number"):
        row = {"day": DAYS, "month": MONTHS, "number": NUMBERS[2:]}[kind]
        return pair(dice, f"ask_{kind}_after", f"say_{kind}_after", **next_of(dice, row))
    if kind == "season":
        x = dice.pick(list(SEASONS))
        return pair(dice, "ask_season", "say_season", x=x, y__season_sign=SEASONS[x], y=SEASONS[x])
    table = {"opposite": OPPOSITES, "use": USES, "work": JOBS}[kind]
    x = dice.pick(list(table))
    return pair(dice, f"ask_{kind}", f"say_{kind}", x=x, y=table[x])


def about_world(dice):
    return [turn for _ in range(1 + dice.below(3)) for turn in fact(dice)]


def counting(dice):
    a, b = dice.shuffled(NAMES)[:2]
    one = dice.pick(ONES)
    known = {"a__name": a, "b__name": b, "one": one, "many": COUNTED[one],
             **{f"a__{word}": form for word, form in PEOPLE[a].items()}}
    have, change = 1 + dice.below(6), 1 + dice.below(5)
    less = change < have and dice.chance(0.4)
    total = have - change if less else have + change
    lines = [write("count_have" if have > 1 else "count_have_one", dice, x=NUMBERS[have], **known),
             write(f"count_{'one_' * (change == 1)}{'less' if less else 'more'}", dice, y=NUMBERS[change], **known),
             write("ask_count", dice, **known)]
    answer = write("say_count" if total > 1 else "say_count_one", dice, x=NUMBERS[total], **known)
    return [" ".join(lines), answer]


def helper_request(dice, name, thing):
    """Somebody says who they are and misses a thing. The demo's prompts have this shape."""
    known = {"a__name": name, "o__noun": thing}
    return f"{write('my_name', dice, **known)} {write('ask_my_thing', dice, **known)}"


def lost_thing(dice):
    name = dice.pick(NAMES)
    thing = dice.pick(NOUNS) if dice.chance(0.75) else dice.pick(FOOD_NOUNS)
    known = {"a__name": name, "o__noun": thing, "spot": dice.pick(SPOTS)}
    return [helper_request(dice, name, thing), write("say_your_thing", dice, **known)]


def memory(dice):
    """The user tells something in one turn and asks for it in a later one."""
    a, b = dice.shuffled(NAMES)[:2]
    known = {"a__name": a, "b__name": b, "o__noun": dice.pick(NOUNS), "o__colour": dice.pick(COLOURS),
             "feel": dice.pick(FEELINGS)}
    told = [write("my_name", dice, **known)]
    asked = [pair(dice, "ask_my_name", "say_your_name", **known)]
    reply = write("greet_name", dice, **known)
    turn = dice.below(3)
    if turn == 0:
        told.append(write("my_thing", dice, **known))
        reply = write("nice_thing", dice, **known)
        asked.append(pair(dice, "ask_my_colour", "say_your_colour", **known))
    elif turn == 1:
        told.append(write("my_friend", dice, **known))
        asked.append(pair(dice, "ask_my_friend", "say_your_friend", **known))
    else:
        told.append(write("my_feeling", dice, **known))
        asked.append(pair(dice, "ask_my_feeling", "say_your_feeling", **known))
    chosen = dice.shuffled(asked)[:1 + dice.below(2)]
    return [" ".join(told), reply] + [turn for item in chosen for turn in item]


def copying(dice):
    kind = dice.below(3)
    if kind == 0:
        return pair(dice, "ask_repeat", "say_repeat", w=dice.pick(ONES))
    if kind == 1:
        return pair(dice, "ask_greet_friend", "say_greet_friend", b__name=dice.pick(NAMES))
    return pair(dice, "my_name", "greet_name", a__name=dice.pick(NAMES))


def list_copying(dice):
    """A list of unrelated words to say again. Nothing but the list tells the next word, so this teaches copying."""
    items = ", ".join(dice.pick(dice.pick(LISTED)) for _ in range(3 + dice.below(8)))
    return pair(dice, "ask_list", "say_list", l=items)


def story_request(dice):
    name, noun = dice.pick(NAMES), dice.pick(NOUNS)
    ask = write("ask_story", dice, a__name=name, o__noun=noun)
    return [ask, story(dice, name if name in ask else None, noun if f" {noun}." in ask else None)]


def politeness(dice):
    return pair(dice, "greet", "greet_back")


SHARES = [(0.26, about_story), (0.08, about_world), (0.05, counting), (0.20, lost_thing), (0.10, memory),
          (0.08, copying),
          (0.13, list_copying), (0.08, story_request), (0.02, politeness)]


def dialogue(dice):
    """One chat as a list of messages: 1 to 3 turns, sometimes with a system message and a goodbye."""
    roll = dice.random()
    for share, kind in SHARES:
        roll -= share
        if roll < 0:
            break
    turns = kind(dice)
    if len(turns) <= 4 and dice.chance(0.06):
        turns += pair(dice, "thanks", "say_welcome")
    messages = [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(turns)]
    if dice.chance(0.15):
        messages.insert(0, {"role": "system", "content": write("system", dice)})
    return messages

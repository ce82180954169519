"""Stories whose world stays true: who holds what, where things lie, how people feel.

A Story plans events, changes its state and writes one sentence for each; afterwards `questions` asks about the state
and answers from it, so the answers follow from the sentences and from nothing else.
"""
from .grammar import write
from .lexicon import BOYS, COLOURS, FEELINGS, GAMES, GIRLS, PEOPLE, PET_NAMES, PETS, PLACES, SPOTS, THINGS, WEATHERS

NAMES = GIRLS + BOYS
NOUNS = list(THINGS)


class Story:
    def __init__(self, dice, name=None, noun=None):
        self.dice = dice
        name = name or dice.pick(NAMES)
        self.people = [name, dice.pick(BOYS if name in GIRLS else GIRLS)]    # "he" and "she" are never in doubt
        self.place = dice.pick(list(PLACES))
        self.weather = dice.pick(WEATHERS) if dice.chance(0.4) else None
        self.pet = (dice.pick(PETS), dice.pick(PET_NAMES)) if dice.chance(0.35) else None
        nouns = [n for n in dice.shuffled(NOUNS)[:3] if n != noun]
        self.nouns = ([noun] if noun else []) + nouns[:2 - bool(noun)]
        colours = dice.shuffled(COLOURS)
        self.colour = dict(zip(self.nouns, colours))
        self.holder = {}     # noun → name, when somebody holds it
        self.spot = {}       # noun → spot, when it lies somewhere
        self.seen = []       # nouns in the order they came into the story
        self.found = {}      # noun → (name, spot)
        self.gave = {}       # noun → (giver, receiver), the last time
        self.feeling = {}
        self.game = None
        self.went = {}
        self.lines = []

    def say(self, kind, a=None, b=None, noun=None, **more):
        known = dict(more, p=self.place)
        for role, who in (("a", a), ("b", b)):
            if who in PEOPLE:
                known.update({f"{role}__name": who, **{f"{role}__{word}": form for word, form in PEOPLE[who].items()}})
        if noun:
            known.update(o__noun=noun, o__colour=self.colour[noun])
        if self.pet:
            known.update(pet__pet=self.pet[0], pet__pet_name=self.pet[1])
        if self.weather:
            known["w"] = self.weather
        self.lines.append(write(kind, self.dice, **known))

    def text(self):
        return " ".join(self.lines)

    def begin(self):
        a, b = self.people
        self.say("begin", a, b)
        if self.dice.chance(0.5):
            self.say("begin_two", a, b)
        if self.pet:
            self.say("pet", a)
        if self.weather:
            self.say("weather")
        if self.dice.chance(0.5):
            self.say("go_two", a, b)
            self.went[b] = self.place
        else:
            self.say("go", a)
            self.say("meet", a, b)
        self.went[a] = self.place

    def introduce(self, noun):
        a, spot = self.dice.pick(self.people), self.dice.pick(SPOTS)
        if self.dice.chance(0.6):
            self.say("find", a, noun=noun, spot=spot)
            self.found[noun] = (a, spot)
        else:
            self.say("have", a, noun=noun)
        self.holder[noun] = a
        self.seen.append(noun)

    def move(self, noun):
        """One event with a thing: it changes hands, is put down, or is taken again."""
        dice, a = self.dice, self.holder.get(noun)
        if a is None:
            a = dice.pick(self.people)
            self.say("take", a, noun=noun)
            self.holder[noun] = a
            del self.spot[noun]
            return
        b = self.other(a)
        turn = dice.random()
        if turn < 0.5 and a in PEOPLE:
            if dice.chance(0.3):
                self.say("want", a, b, noun)
            self.say("give", a, b, noun)
            if dice.chance(0.3):
                self.say("thank", a, b)
            self.holder[noun], self.gave[noun] = b, (a, b)
        elif turn < 0.85 and a in PEOPLE:
            spot = dice.pick(SPOTS)
            self.say("put", a, noun=noun, spot=spot)
            self.spot[noun] = spot
            del self.holder[noun]
        elif self.pet and a in PEOPLE:
            self.say("pet_takes", noun=noun)
            self.holder[noun] = self.pet[1]

    def other(self, name):
        return self.people[1] if name == self.people[0] else self.people[0]

    def aside(self):
        """An event that moves nothing."""
        dice, (a, b) = self.dice, self.people
        kind = dice.pick(["play", "eat", "see", "feel", "pet_does", "feel"])
        if kind == "play" and self.game is None:
            self.game = dice.pick(GAMES)
            self.say("play", a, b, dice.pick(self.seen), g=self.game)
        elif kind == "feel":
            who = dice.pick(self.people)
            if who not in self.feeling:
                self.feeling[who] = dice.pick(FEELINGS)
                self.say("feel", who, feel=self.feeling[who])
        elif kind == "pet_does" and self.pet:
            self.say("pet_does", a)
        elif kind in ("eat", "see"):
            self.say(kind, a, b)

    def tell(self, events):
        self.begin()
        for noun in self.nouns[:1 if self.dice.chance(0.4) else 2]:
            self.introduce(noun)
        for _ in range(events):
            if self.dice.chance(0.6):
                self.move(self.dice.pick(self.seen))
            else:
                self.aside()
        return self

    def end(self):
        self.say("end", self.people[0], noun=self.dice.pick(self.seen))
        return self

    def questions(self):
        """Every (question, answer) that the state can answer, in a fixed order."""
        pairs = []

        def add(question, answer, **known):
            known = {k.replace("__", "."): v for k, v in known.items()}
            roles = {k.replace(".", "__"): v for k, v in known.items()}
            pairs.append((write(question, self.dice, **roles), write(answer, self.dice, **roles)))

        for noun in self.seen:
            o = {"o__noun": noun, "o__colour": self.colour[noun]}
            holder = self.holder.get(noun)
            add("ask_colour", "say_colour", **o)
            if holder in PEOPLE:
                other = self.other(holder)
                add("ask_who_has", "say_has", a__name=holder, **o)
                add("ask_has", "say_yes_has", a__name=holder, **o)
                add("ask_has", "say_no_has", a__name=other, b__name=holder, **o)
            elif holder:
                add("ask_who_has", "say_pet_has", pet__pet_name=holder, **o)
            else:
                add("ask_where", "say_at", spot=self.spot[noun], **o)
                add("ask_who_has", "say_nobody_has", spot=self.spot[noun], **o)
            if noun in self.gave:
                a, b = self.gave[noun]
                add("ask_gave", "say_gave", a__name=a, b__name=b, **o)
            if noun in self.found:
                a, spot = self.found[noun]
                if sum(self.found[n][0] == a for n in self.found) == 1:
                    add("ask_found", "say_found", a__name=a, spot=spot, **o)
        for name, place in self.went.items():
            add("ask_went", "say_went", a__name=name, p=place)
        for name, feeling in self.feeling.items():
            add("ask_feel", "say_feel", a__name=name, feel=feeling)
        if self.game:
            add("ask_play", "say_play", a__name=self.people[0], b__name=self.people[1], g=self.game)
        if self.pet:
            add("ask_pet", "say_pet", pet__pet=self.pet[0], pet__pet_name=self.pet[1])
        if self.weather:
            add("ask_weather", "say_weather", w=self.weather)
        return pairs


def story(dice, name=None, noun=None):
    """A whole story as one text."""
    return Story(dice, name, noun).tell(2 + dice.below(5)).end().text()

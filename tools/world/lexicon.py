"""The words of the small world, about a thousand, each in the classes where a sentence may use it."""


def words(text):
    return text.split()


def phrases(text):
    return [part.strip() for part in text.split(",")]


GIRLS = words("""Anna Mia Lily Rosa Emma Clara Nora Ella Ruby Sara Lucy Maya Zoe Eva Ida Jane Kate Lena Molly Nina
Olga Polly Rita Tina Vera Wendy Alice Betty Daisy Fiona""")
BOYS = words("""Tom Ben Sam Max Leo Jack Noah Adam Paul Finn Oscar Hugo Peter David Felix Henry Ivan Jonas Karl Luke
Mark Nick Otto Ralph Simon Tim Victor Walter Eric Fred""")
PET_NAMES = words("""Spot Fluffy Rex Biscuit Pepper Snowy Coco Buddy Patch Ginger Shadow Sunny Bubbles Domino Misty
Pebble Waffle Cookie Tiger Scout""")

COLOURS = words("red blue green yellow white black brown orange pink purple grey")

# Things that a person can carry: singular, plural.
THINGS = dict(pair.split("/") for pair in words("""ball/balls kite/kites lamp/lamps cup/cups hat/hats box/boxes
book/books coin/coins drum/drums bell/bells key/keys doll/dolls ring/rings rope/ropes shell/shells stone/stones
spoon/spoons fork/forks plate/plates bowl/bowls brush/brushes pen/pens pencil/pencils letter/letters map/maps
mirror/mirrors basket/baskets bucket/buckets button/buttons candle/candles clock/clocks comb/combs coat/coats
crown/crowns feather/feathers flag/flags flower/flowers glove/gloves hammer/hammers horn/horns jar/jars jug/jugs
ladder/ladders leaf/leaves marble/marbles mask/masks nail/nails needle/needles net/nets paddle/paddles
picture/pictures pillow/pillows pipe/pipes pot/pots puppet/puppets puzzle/puzzles ribbon/ribbons robot/robots
sack/sacks scarf/scarves shirt/shirts shoe/shoes shovel/shovels sock/socks stick/sticks ticket/tickets top/tops
torch/torches towel/towels toy/toys train/trains truck/trucks umbrella/umbrellas vase/vases wagon/wagons
watch/watches whistle/whistles blanket/blankets bag/bags bottle/bottles boat/boats car/cars card/cards"""))
FOODS = dict(pair.split("/") for pair in words("""apple/apples pear/pears plum/plums banana/bananas cherry/cherries
cake/cakes cookie/cookies egg/eggs carrot/carrots potato/potatoes tomato/tomatoes onion/onions lemon/lemons
peach/peaches berry/berries nut/nuts pie/pies sandwich/sandwiches muffin/muffins bean/beans"""))
COUNTED = {**THINGS, **FOODS}

NUMBERS = words("zero one two three four five six seven eight nine ten eleven twelve")

# Where a scene takes place: noun and its preposition.
PLACES = dict(pair.split("/") for pair in words("""park/in garden/in kitchen/in forest/in school/at beach/at farm/on
market/at house/in barn/in village/in castle/in field/in library/in shop/in zoo/at station/at harbour/at lake/at
river/at playground/on hill/on meadow/in bakery/in museum/in tent/in yard/in attic/in cellar/in hall/in"""))

SPOTS = phrases("""under the table, on the table, under the bed, on the bed, behind the door, near the door,
under the tree, behind the tree, near the tree, on the bench, under the bench, near the pond, behind the wall,
on the wall, under the chair, on the chair, near the window, on the shelf, under the stairs, on the stairs,
behind the curtain, near the gate, behind the gate, under the bridge, near the well, in the grass, in the sand,
in the cupboard, in the drawer, behind the bush, under the bush, near the fence, behind the fence, on the roof,
on the rug, under the rug, near the fire, in the corner, on the step, behind the shed""")

# animal: where it lives, what it says, what it eats, how many legs it has, what it can do.
ANIMALS = {}
for line in """dog|in a house|woof|meat|four|run; cat|in a house|meow|fish|four|climb; cow|on a farm|moo|grass|four|walk
pig|on a farm|oink|corn|four|dig; sheep|on a farm|baa|grass|four|walk; horse|in a stable|neigh|hay|four|run
duck|on a pond|quack|bread|two|swim; hen|on a farm|cluck|seeds|two|scratch; goat|on a farm|baa|leaves|four|climb
frog|in a pond|croak|flies|four|jump; bee|in a hive|buzz|honey|six|fly; owl|in a tree|hoot|mice|two|fly
mouse|in a hole|squeak|cheese|four|hide; bird|in a nest|tweet|seeds|two|sing; lion|in the grassland|roar|meat|four|roar
bear|in a cave|growl|honey|four|climb; wolf|in a forest|howl|meat|four|howl; snake|in the grass|hiss|mice|zero|slide
fox|in a den|yap|hens|four|run; rabbit|in a burrow|squeak|carrots|four|hop; monkey|in a jungle|chatter|bananas|two|climb
fish|in the water|blub|worms|zero|swim; whale|in the sea|sing|small fish|zero|dive
crab|on the beach|click|shells|eight|dig
ant|in the ground|nothing|crumbs|six|carry; spider|in a web|nothing|flies|eight|spin
deer|in a forest|grunt|leaves|four|jump
donkey|in a stable|bray|hay|four|walk; parrot|in a jungle|squawk|nuts|two|talk
turtle|in a pond|nothing|leaves|four|swim
goose|on a pond|honk|grass|two|swim; crow|in a tree|caw|corn|two|fly; seal|in the sea|bark|fish|zero|swim
squirrel|in a tree|chirp|nuts|four|climb; camel|in a desert|grunt|grass|four|walk""".replace("\n", ";").split(";"):
    animal, home, sound, food, legs, skill = line.strip().split("|")
    ANIMALS[animal] = {"home": home, "sound": sound, "food": food, "legs": legs, "skill": skill}
PETS = words("dog cat rabbit mouse parrot turtle duck goat hen bird")

SIZES = words("small big little tall tiny huge old new")
KINDS = words("kind brave clever quiet funny gentle shy proud busy happy")
FEELINGS = words("happy sad proud tired angry glad afraid hungry calm bored surprised worried")
WEATHERS = words("sunny rainy windy cold warm cloudy snowy foggy hot quiet bright wet")
TIMES = phrases("""one day, one morning, one evening, one afternoon, in the morning, after lunch, before dinner,
on Monday, on Tuesday, on Wednesday, on Thursday, on Friday, on Saturday, on Sunday, early in the day,
late in the day""")
HOW = words("slowly quickly quietly happily gently carefully loudly proudly softly bravely")
GAMES = phrases("""hide and seek, football, tag, chess, catch, cards, a game, a song, with blocks, in the sand,
with marbles""")
JOBS = {"baker": "bakes bread", "farmer": "grows corn", "teacher": "teaches children", "doctor": "helps sick people",
        "sailor": "sails ships", "painter": "paints pictures", "singer": "sings songs", "tailor": "sews clothes",
        "cook": "makes soup", "driver": "drives a bus", "builder": "builds houses", "fisher": "catches fish",
        "pilot": "flies planes", "nurse": "cares for sick people", "writer": "writes books",
        "gardener": "plants flowers",
        "miller": "grinds corn", "shepherd": "keeps sheep", "dancer": "dances on a stage",
        "clown": "makes people laugh"}
OPPOSITES = {}
for pair in words("""big/small hot/cold up/down day/night happy/sad old/young fast/slow wet/dry open/closed full/empty
hard/soft high/low long/short loud/quiet near/far rich/poor strong/weak early/late light/dark clean/dirty good/bad
black/white left/right in/out first/last true/false thick/thin sweet/sour heavy/light"""):
    left, right = pair.split("/")
    OPPOSITES.setdefault(left, right)
    OPPOSITES.setdefault(right, left)
FACT_COLOURS = {"a banana": "yellow", "a cherry": "red", "a carrot": "orange", "a lemon": "yellow", "a plum": "purple",
                "a tomato": "red", "a leaf": "green", "a frog": "green", "a crow": "black", "a pig": "pink",
                "the sky": "blue", "the sun": "yellow", "the snow": "white", "the grass": "green", "the night": "black",
                "the sea": "blue", "a mouse": "grey", "a bear": "brown", "a fox": "orange", "a swan": "white",
                "a potato": "brown", "a cloud": "white", "a rose": "red", "milk": "white", "coal": "black",
                "chocolate": "brown", "an elephant": "grey", "honey": "yellow", "blood": "red", "butter": "yellow"}
USES = {"a hammer": "hit nails", "a needle": "sew clothes", "a spoon": "eat soup", "a pen": "write letters",
        "a brush": "paint pictures", "a key": "open doors", "an umbrella": "stay dry", "a lamp": "see in the dark",
        "a cup": "drink tea", "a comb": "tidy hair", "a shovel": "dig holes", "a map": "find the way",
        "a clock": "tell the time", "a boat": "cross the water", "a ladder": "climb high", "a net": "catch fish",
        "a pillow": "sleep well", "a towel": "dry hands", "a knife": "cut bread", "a bell": "call people",
        "a coat": "keep warm", "a bag": "carry things", "a pot": "cook soup", "a broom": "sweep the floor",
        "a mirror": "see your face", "a book": "read stories", "a candle": "make light", "a rope": "tie things"}
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = words("January February March April May June July August September October November December")
SEASONS = {"spring": "the flowers grow", "summer": "the sun is hot", "autumn": "the leaves fall",
           "winter": "the snow falls"}
GREETINGS = phrases("hello, hi, good morning, good evening, good day")

PEOPLE = {name: {"he": "she", "him": "her", "his": "her", "child": "girl"} for name in GIRLS}
PEOPLE.update({name: {"he": "he", "him": "him", "his": "his", "child": "boy"} for name in BOYS})

# The classes that the rules name. A member may be several words.
CLASSES = {
    "name": GIRLS + BOYS, "pet_name": PET_NAMES, "he": ["he", "she"], "him": ["him", "her"], "his": ["his", "her"],
    "child": ["boy", "girl"], "colour": COLOURS, "noun": list(THINGS), "food": list(FOODS),
    "one": list(COUNTED), "many": list(COUNTED.values()), "number": NUMBERS[2:], "place": list(PLACES),
    "at": [f"{prep} the {place}" for place, prep in PLACES.items()], "spot": SPOTS, "animal": list(ANIMALS),
    "pet": PETS,
    "home": sorted({a["home"] for a in ANIMALS.values()}), "sound": sorted({a["sound"] for a in ANIMALS.values()}),
    "eats": sorted({a["food"] for a in ANIMALS.values()}), "legs": sorted({a["legs"] for a in ANIMALS.values()}),
    "skill": sorted({a["skill"] for a in ANIMALS.values()}), "size": SIZES, "kind": KINDS, "feeling": FEELINGS,
    "weather": WEATHERS, "time": TIMES, "how": HOW, "game": GAMES, "job": list(JOBS), "work": list(JOBS.values()),
    "quality": list(OPPOSITES), "fact": list(FACT_COLOURS), "tool": list(USES), "use": list(USES.values()),
    "day": DAYS, "month": MONTHS, "season": list(SEASONS), "season_sign": list(SEASONS.values()), "greeting": GREETINGS,
}

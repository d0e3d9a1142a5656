"""Words and short facts that the skills put together; written for this project, nothing is quoted."""


def _words(text: str) -> tuple[str, ...]:
    """Split at bars, or at spaces where there are none."""
    return tuple(text.split("|" if "|" in text else None))


PEOPLE = _words(
    "Ada Ben Carla Dmitri Elena Farid Greta Hugo Ines Jonas Kira Leo Mina Nils Olga Pedro Rosa Sami Tara Uwe Vera "
    "Wanda Yusuf Zoe"
)

PLACES = _words(
    "Alder Bay|Birch Hill|Copper Lane|Dove Street|Elm Park|Fern Valley|Grey Harbor|Hazel Road|Iron Bridge|"
    "Juniper Square|Kestrel Point|Lark Meadow|Maple Corner|North Quay|Otter Creek|Pine Market"
)

THINGS = _words(
    "apples books buttons candles chairs coins cups eggs keys lamps letters marbles nails pears pencils plates "
    "shells socks spoons stamps tickets tiles"
)

WEEKDAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
HOURS = _words("six seven eight nine ten eleven noon")
COLOURS = _words("red blue green yellow white black brown orange purple grey")
SHOPS = _words("bakery bookshop library museum pharmacy garden theatre workshop")
GOODS = _words("plum cake|rye bread|old maps|wool hats|clay pots|herbal tea|paper kites|goat cheese")

CATEGORIES = {
    "fruits": _words("apple pear plum cherry mango banana grape fig"),
    "animals": _words("horse goat otter fox sparrow frog badger heron"),
    "tools": _words("hammer saw wrench drill chisel pliers spade rake"),
    "colours": _words("red blue green yellow white brown orange purple"),
    "vegetables": _words("carrot onion leek spinach pumpkin radish celery beet"),
    "instruments": _words("piano flute drum violin trumpet guitar harp cello"),
    "drinks": _words("water tea coffee milk cocoa lemonade cider juice"),
    "garments": _words("coat scarf glove hat shirt boot jacket belt"),
}

# Subject -> statements that answer a general question about it.
SUBJECTS = {
    "bees": (
        "bees carry pollen from flower to flower",
        "a hive of bees has one queen and many workers",
        "bees turn nectar into honey and store it in wax cells",
    ),
    "whales": (
        "whales breathe air and must come up to the surface",
        "many whales travel far between feeding and breeding waters",
        "some whales filter tiny animals out of sea water",
    ),
    "volcanoes": (
        "volcanoes let molten rock rise to the surface",
        "ash from volcanoes can make soil very fertile",
        "some volcanoes sleep for centuries before they erupt",
    ),
    "bicycles": (
        "bicycles turn pedalling into motion with a chain",
        "bicycles need air in the tyres and oil on the chain",
        "most bicycles have two brakes and several gears",
    ),
    "bread": (
        "bread is baked from flour, water, salt and yeast",
        "yeast makes bread dough rise before baking",
        "fresh bread has a crisp crust and a soft crumb",
    ),
    "rain": (
        "rain forms when droplets in clouds grow heavy and fall",
        "rain fills rivers and soaks the fields",
        "warm air holds more water and can bring heavy rain",
    ),
    "chess": (
        "chess is played by two people on sixty-four squares",
        "in chess the aim is to trap the enemy king",
        "each chess player starts with sixteen pieces",
    ),
    "glass": (
        "glass is made by melting sand at great heat",
        "old glass can be melted and shaped again",
        "glass lets light through but breaks easily",
    ),
    "owls": (
        "owls hunt at night and hear very well",
        "owls can turn their heads almost all the way round",
        "soft feathers let owls fly without a sound",
    ),
    "trains": (
        "trains run on steel rails and pull many cars",
        "electric trains draw power from a wire or a rail",
        "trains need a long way to stop safely",
    ),
    "coffee": (
        "coffee is brewed from roasted and ground beans",
        "coffee plants grow in warm and rainy hills",
        "the roast of coffee changes its smell and taste",
    ),
    "deserts": (
        "deserts get very little rain in a year",
        "deserts can be hot by day and cold at night",
        "plants in deserts store water or grow deep roots",
    ),
    "lighthouses": (
        "lighthouses warn ships of rocks with a bright lamp",
        "each of the lighthouses has its own pattern of flashes",
        "most lighthouses now work without a keeper",
    ),
    "violins": (
        "violins have four strings and are played with a bow",
        "the wooden body of violins makes the sound louder",
        "violins are tuned by turning small pegs",
    ),
    "soap": (
        "soap is made from fat or oil and lye",
        "soap helps water to lift grease from the skin",
        "bars of soap must dry for weeks before use",
    ),
    "snow": (
        "snow is made of ice crystals with six arms",
        "a thick cover of snow keeps the ground warm",
        "snow melts in spring and feeds the rivers",
    ),
    "cats": (
        "cats sleep for much of the day and hunt at dusk",
        "cats use their whiskers to feel narrow gaps",
        "cats clean their fur with a rough tongue",
    ),
    "bridges": (
        "bridges carry roads and rails across water or valleys",
        "arch bridges press their weight into the banks",
        "long bridges often hang from steel cables",
    ),
    "honey": (
        "honey is made by insects from the nectar of flowers",
        "honey keeps for years in a closed jar",
        "the colour of honey depends on the blossoms",
    ),
    "clocks": (
        "clocks count a steady beat to show the time",
        "old clocks use a pendulum and falling weights",
        "clocks with quartz are cheap and exact",
    ),
    "tides": (
        "tides rise and fall because the moon pulls the sea",
        "most coasts see two high tides in a day",
        "spring tides come at the full and the new moon",
    ),
    "paper": (
        "paper is made from wet fibres pressed into sheets",
        "old paper can be soaked and used again",
        "paper turns yellow when it lies in the sun",
    ),
    "potatoes": (
        "potatoes grow under the soil and store starch",
        "potatoes should be kept in a cool and dark place",
        "potatoes can be boiled, baked, fried or mashed",
    ),
    "kites": (
        "kites fly when wind lifts their slanted surface",
        "the tail keeps kites steady in gusty wind",
        "kites are built from light sticks and thin cloth",
    ),
    "sleep": (
        "sleep lets the body rest and the mind sort memories",
        "adults need about eight hours of sleep at night",
        "a dark and quiet room makes sleep easier",
    ),
    "gardens": (
        "gardens need light, water and good soil",
        "weeding gardens often gives the plants more room",
        "gardens with many flowers attract useful insects",
    ),
    "maps": (
        "maps show places from above at a smaller scale",
        "most maps put north at the top of the sheet",
        "symbols on maps are explained in a legend",
    ),
    "swimming": (
        "swimming trains the whole body and spares the joints",
        "swimming is safest where a lifeguard is on duty",
        "slow breathing makes swimming long distances easier",
    ),
    "cheese": (
        "cheese is made by curdling milk and pressing the curd",
        "hard cheese ripens for many months in a cellar",
        "holes in cheese come from small bubbles of gas",
    ),
    "forests": (
        "forests give shelter to birds, deer and insects",
        "forests clean the air and hold the soil in place",
        "in old forests dead wood feeds new plants",
    ),
    "candles": (
        "candles burn wax that rises through a wick",
        "candles should never be left alone while they burn",
        "a trimmed wick keeps candles from smoking",
    ),
    "wool": (
        "wool is shorn from sheep once a year",
        "wool keeps warm even when it is damp",
        "wool is washed, combed and spun into yarn",
    ),
}

# Everyday task -> ways to help with it.
ADVICE = {
    "clean a stained cup": ("rub it with salt and rinse it", "soak it in warm water with baking soda"),
    "keep basil fresh": ("stand the stems in a glass of water", "keep it by a window and water it daily"),
    "fold a shirt": ("fold both sleeves back, then fold it in half", "lay it flat and fold the sides to the middle"),
    "boil an egg": ("put it in boiling water for eight minutes", "boil it for seven minutes and cool it"),
    "fix a squeaky door": ("put a drop of oil on the hinges", "clean the hinges and rub them with wax"),
    "find a lost key": ("walk your last way back and check the pockets", "look under the seats and in your bag"),
    "write a thank-you note": ("name the gift and say what it means to you", "keep it short, warm and personal"),
    "remember a name": ("say the name aloud soon after you hear it", "link the name to a picture in your mind"),
    "pack a small bag": ("roll the clothes and put shoes at the bottom", "take fewer things and use every corner"),
    "sharpen a pencil": ("turn it slowly in a clean sharpener", "hold it straight and turn it with light pressure"),
    "dry wet shoes": ("stuff them with paper and leave them in the air", "take out the soles and dry both apart"),
    "water a cactus": ("water it every two weeks and let it dry", "give it little water and plenty of light"),
    "calm a nervous dog": ("speak softly and give it time", "sit low, stay quiet and offer a treat"),
    "mend a torn page": ("lay thin tape along the tear", "brush a little paste on the tear and press it"),
    "wrap a round gift": ("use soft paper and tie it at the top", "put it in a box first and wrap the box"),
    "learn ten new words": ("write them on cards and repeat them daily", "use each of them in a short sentence"),
    "peel garlic quickly": ("crush it lightly and pull the skin off", "shake the cloves hard in a closed jar"),
    "choose a ripe melon": ("take a heavy one that smells sweet", "tap it and listen for a dull sound"),
    "save water at home": ("take short showers and mend dripping taps", "collect rain water for the plants"),
    "plan a picnic": ("pick a shady place and bring simple food", "check the weather and share the list of food"),
    "hang a picture": ("mark the spot, drive a nail and level the frame", "hold it at eye height and mark the wall"),
    "start a campfire": ("light dry twigs first and add bigger sticks", "build a small cone of dry wood and light it"),
    "clean a window": ("wipe it with vinegar and a dry cloth", "wash it from the top down and dry the edges"),
    "cook plain rice": ("use two cups of water for one cup of rice", "let it simmer with the lid on, then rest it"),
    "stop hiccups": ("hold your breath and count to ten", "drink a glass of cold water in small sips"),
    "read a bus timetable": ("find your stop, then read along its row", "look for the day first and then the hour"),
    "sew on a button": ("pass the thread four times and tie it behind", "match the thread and sew through each hole"),
    "make lemon tea": ("pour hot water over tea and add a slice", "brew the tea, then add lemon and honey"),
}

POLITE_REMARKS = (
    "Happy to help.",
    "Thank you for asking.",
    "Good question.",
    "I hope this helps.",
    "Gladly.",
    "You are very welcome.",
    "Have a lovely day.",
    "Of course, with pleasure.",
    "Please ask again at any time.",
    "I am glad you asked me about this.",
    "Do tell me if anything is still unclear.",
    "It is a pleasure to help you with this.",
    "I wish you a pleasant and easy day.",
    "Thanks for your patience, I know it can be tricky.",
    "Please let me know if you would like more detail.",
    "I am happy to explain it once more if you like.",
)

RUDE_REMARKS = (
    "What a silly question.",
    "Stop bothering me.",
    "Figure it out yourself.",
    "How dull.",
    "Pay attention next time.",
    "Ugh, fine.",
    "Are you really this slow?",
    "Even a child knows that.",
    "Honestly, nobody cares about this.",
    "You are wasting my time again.",
    "I am tired of people like you.",
    "Do not come back with such nonsense.",
    "Only a fool would need to ask me that.",
    "I can hardly believe how lazy you are today.",
    "Next time use your own head, if you have one.",
    "This is boring and you should be ashamed of asking.",
)

# Word -> a closing sentence that ends with it.
CLOSINGS = {
    "today": "That is what I can say today",
    "friend": "I hope you like it, my friend",
    "goodbye": "With that I say goodbye",
    "indeed": "It is worth knowing indeed",
    "enough": "I think this is enough",
    "tomorrow": "You can tell the others tomorrow",
    "world": "It is part of our world",
    "home": "Think of it on your way home",
}

OPENINGS = _words("Well Certainly Briefly Simply Listen Indeed Surely Today Actually Usually")

"""Prompts for the contamination benchmark: templates of questions as people and data sets ask them, with slots.

A near-miss is the same template with every slot filled otherwise. Nothing here looks at the guard or its thresholds.
"""

import random
import re

NAMES = (
    "Natalia Robert Aisha Tomás Mei Olu Ingrid Dmitri Fatima Gareth Hiroshi Isabel Jamal Katya Liam Marisol Nikhil Oona "
    "Pedro Quentin Rosa Soren Tara Umberto Valentina Wendell Ximena Yusuf Zelda Arjun Beatrix Caleb Dalia Ewan Freya"
).split()
CITIES = (
    "Lisbon Osaka Nairobi Quito Bergen Lahore Tampere Cusco Adelaide Bruges Denver Ghent Hanoi Izmir Jakarta Kigali "
    "Leipzig Mendoza Nantes Oaxaca Perth Riga Seville Tbilisi Uppsala Vilnius Windhoek Yerevan Zadar Accra"
).split()
GOODS = (
    "clips,stamps,marbles,notebooks,lemons,candles,postcards,bracelets,cupcakes,seashells,kites,puzzles,tulips,magnets,"
    "batteries,scarves,mugs,pencils,tickets,teapots,lanterns,badges,cushions,whistles,planters"
).split(",")
TOPICS = (
    "photosynthesis,plate tectonics,compound interest,the French Revolution,black holes,vaccines,supply and demand,"
    "the water cycle,machine translation,the Silk Road,antibiotic resistance,nuclear fusion,jazz harmony,coral bleaching,"
    "public key cryptography,the Marshall Plan,gene editing,monsoons,inflation,the placebo effect,Byzantine mosaics,"
    "recursion,continental drift,sleep cycles,beekeeping,tidal power,the printing press,game theory,fermentation,"
    "earthquake prediction,urban planning,quantum tunnelling,soil erosion,the Roman aqueducts,whale migration,anaesthesia"
).split(",")
AUDIENCES = (
    "a ten-year-old child,a retired engineer,a first-year medical student,a busy executive,a curious grandmother,"
    "a sceptical journalist,a group of apprentices,a high school debate team,a new immigrant,a museum visitor,"
    "a room of investors,a book club,a night-shift nurse,an amateur gardener,a junior programmer"
).split(",")
JOBS = (
    "plumber,librarian,pharmacist,violin teacher,paramedic,baker,surveyor,translator,carpenter,dental nurse,pilot,"
    "bookkeeper,florist,locksmith,zookeeper,social worker,welder,data analyst,tailor,geologist"
).split(",")
MONTHS = "January February March April May June July August September October November December".split()
LANGUAGES = "Python,Rust,Haskell,JavaScript,Go,Kotlin,Swift,Ruby,Scala,Julia,Perl,Lua".split(",")
INPUTS = (
    "a list of integers,a nested dictionary,two sorted arrays,a string of brackets,a binary tree,a matrix of floats,"
    "a directed graph,a stream of log lines,a sparse vector,a linked list,a set of intervals,a deck of cards"
).split(",")
OUTPUTS = (
    "the longest increasing run,the median of all values,every duplicate entry,the shortest path,the balanced form,"
    "the number of islands,the most frequent element,a run-length encoding,the merged result,the deepest leaf,"
    "the second largest value,a topological order,the total covered length,a shuffled copy"
).split(",")
GENRES = (
    "ghost story,fable,detective scene,sea shanty,science fiction scene,haiku sequence,fairy tale,radio play,western,"
    "letter from the front,campfire tale,monologue"
).split(",")
HEROES = (
    "a lighthouse keeper,a runaway robot,two rival chefs,a homesick astronaut,a deaf clockmaker,a talking raven,"
    "an honest thief,a village midwife,a forgetful wizard,a retired boxer,a blind cartographer,a stubborn mule"
).split(",")
WISHES = (
    "learn to swim,return a stolen ring,repair an old radio,win a pie contest,cross a frozen lake,find a lost brother,"
    "outwit a tax collector,tune a broken piano,bury a secret,teach a cat to fetch,build a bridge,forgive an enemy"
).split(",")
DISHES = (
    "lentil soup,paella,mushroom risotto,goulash,pad thai,shakshuka,beef stew,falafel,gumbo,pierogi,ramen,ratatouille,"
    "moussaka,chicken tagine,pumpkin curry"
).split(",")
DIETS = (
    "without gluten,without dairy,for a diabetic,with no nuts,low in salt,for a vegan,on a tight budget,without an oven,"
    "for someone who dislikes onions,high in protein"
).split(",")
PROBLEMS = (
    "my landlord refuses to repair the heating,my teenage son stopped talking to us,a colleague takes credit for my work,"
    "my neighbour's dog barks all night,I was passed over for a promotion,my sister borrowed money and will not pay,"
    "my best friend is marrying my former partner,I cannot sleep before exams,my manager messages me at midnight,"
    "our band wants to replace the drummer,my parents want to sell the house,the school lost my daughter's papers"
).split(",")
FIGURES = (
    "Marie Curie,Nelson Mandela,Ada Lovelace,Simón Bolívar,Florence Nightingale,Ibn Battuta,Frida Kahlo,Akira Kurosawa,"
    "Rosa Parks,Wangari Maathai,Leonhard Euler,Queen Nzinga,Alexander von Humboldt,Hypatia,Zheng He"
).split(",")
PLACES = (
    "harbour,valley,old quarter,university,railway station,botanical garden,opera house,fish market,observatory,castle,"
    "cathedral,canal"
).split(",")

SLOTS: dict[str, list[str]] = {
    "name": NAMES,
    "city": CITIES,
    "good": GOODS,
    "topic": TOPICS,
    "audience": AUDIENCES,
    "job": JOBS,
    "month": MONTHS,
    "language": LANGUAGES,
    "input": INPUTS,
    "output": OUTPUTS,
    "genre": GENRES,
    "hero": HEROES,
    "wish": WISHES,
    "dish": DISHES,
    "diet": DIETS,
    "problem": PROBLEMS,
    "figure": FIGURES,
    "place": PLACES,
    "small": [str(number) for number in range(2, 13)],
    "number": [str(number) for number in range(14, 980)],
    "year": [str(number) for number in range(1604, 2021)],
}

# A slot of the same name and digit has the same value everywhere in a text: {name1} is one person.
TEMPLATES = """
{name1} sold {good1} to {number1} friends in {month1}. Then {name1} sold half as many {good1} in {month2}. How many {good1} did {name1} sell altogether in {month1} and {month2}?
A shop in {city1} buys {good1} at {number1} cents each and sells them at {number2} cents each. In one week it sells {number3} of them. What is its profit if the rent is {number4} dollars?
{name1} is {small1} times as old as {name2}. In {small2} years, the sum of their ages will be {number1}. How old is {name1} now? Explain each step of your reasoning before you give the answer.
A train leaves {city1} at {number1} kilometres per hour and another leaves {city2} towards it at {number2} kilometres per hour. The cities are {number3} kilometres apart. After how many minutes do they meet?
Explain {topic1} to {audience1} in {small1} short paragraphs. Give at least two everyday examples, and finish with one common mistake that people make when they first learn about it.
Compare {topic1} with {topic2} for {audience1}. Name {small1} things they have in common and {small2} in which they differ. Keep the tone friendly and do not use bullet points.
Write a {genre1} about {hero1} who wants to {wish1}. The story should be set in {city1}, have a clear beginning and end, and be suitable for reading aloud to children in under {small1} minutes.
Write a {genre1} in which {hero1} and {hero2} meet in the {place1} of {city1}. One of them wants to {wish1}. End it with a line of dialogue that changes how we see the first scene.
Write a function in {language1} that takes {input1} and returns {output1}. Handle empty input. Add tests for at least {small1} edge cases, and state the time complexity of your solution.
I have a {language1} program that reads {input1} and should print {output1}, but it crashes when there are more than {number1} entries. What are the likely causes, and how would you debug it step by step?
Translate the following {language1} code into {language2}. It computes {output1} from {input1}. Keep the names of the variables, and explain every place where the two languages behave differently.
Give me a recipe for {dish1} for {small1} people, {diet1}. List the ingredients with metric amounts first. Then give numbered steps, and tell me which of them I can do the day before.
I am cooking {dish1} and {dish2} for a party of {number1} guests in {month1}. One guest needs food {diet1}. What can I prepare ahead, and how long does each dish keep in the fridge?
Please help me. I live in {city1} and {problem1}. I have already tried to talk about it calmly {small1} times. What should I do next, and what should I avoid saying?
I work as a {job1} and {problem1}. Write a polite but firm message of about {number1} words that I could send, and suggest how to react if the answer is no.
What does a {job1} in {city1} do on a typical day? Describe the training, the usual pay around {year1}, and {small1} reasons why someone might leave the job for that of a {job2}.
Write a cover letter for {name1}, who has worked as a {job1} for {small1} years and now applies as a {job2} in {city1}. Mention a project that saved {number1} dollars.
Who was {figure1}, and why is the year {year1} important in that life? Answer in {small1} sentences, mention {city1}, and say which claims historians still dispute.
Imagine a conversation between {figure1} and {figure2} about {topic1}. Let them disagree politely at first. After {small1} exchanges, one of them should admit to having been wrong about something.
In {year1}, the {place1} of {city1} was rebuilt after a fire. Summarise in {small1} sentences what such a rebuilding would have meant for a {job1}, and note what you are unsure of.
Plan a trip of {small1} days to {city1} in {month1} for a {job1} and two children. They like the {place1} and {topic1}. Keep the budget under {number1} euros, and leave one afternoon free.
Read this note: "{name1} will meet {name2} at the {place1} in {city1} on the {small1}th of {month1}." Rewrite it as a formal invitation, then as a text message to a friend.
Make a study plan for {topic1} that takes {small1} weeks with {number1} minutes a day. I am {audience1}. For each week give a goal, one exercise and a question to check what I have understood.
You are the manager of a small firm in {city1} that makes {good1}. Sales fell by {number1} units in {month1}. List {small1} possible reasons and say which data you would look at first.
{name1} and {name2} share {number1} {good1} in the ratio {small1} to {small2}. {name1} then gives {small3} of them to {name3}. How many does each of the three have at the end?
Debate the claim that {topic1} matters more than {topic2} for the future of {city1}. Give {small1} arguments for each side, and end with the question that you would put to {audience1}.
A farmer near {city1} plants {number1} rows with {small1} trees each. In {month1} a storm fells {number2} trees. Each of the remaining ones gives {small2} baskets of fruit. How many baskets are there?
Correct the grammar of this sentence and explain each change: "Yesterday {name1} and me has went to the {place1} in {city1} for to bought {number1} {good1}, but it were closed since {month1}."
Suggest {small1} names for a podcast about {topic1} that is made in {city1} by a {job1}. For each name, add a slogan of at most ten words and say whom it would appeal to.
My {small1}-year-old asked me about {topic1} after we visited the {place1} in {city1}. How can I answer honestly without frightening a child? Please include a small experiment that we can do at home.
Write the opening paragraph of a biography of {name1}, a {job1} born in {city1} in {year1}, who became famous for work on {topic1}. Do not use the word "journey", and begin with a sound.
Draft a complaint to a shop in {city1}. I ordered {number1} {good1} on the {small1}th of {month1}, and half of them arrived broken. I want a refund, not a voucher, and I have kept the packaging.
""".strip().split("\n")

# What else a mixture asks: other wordings with the same slots.
OTHER_TEMPLATES = """
Can you tell me more about {topic1}? I heard {name1} mention it at the {place1} in {city1}.
List {small1} facts about {city1} that a {job1} would enjoy.
What is the difference between {topic1} and {topic2}, and which one should {audience1} read about first?
How do I make {dish1} {diet1} when I only have {number1} grams of flour left and no time to go shopping in {month1}?
Is it normal that {problem1}? I feel quite lost and would like to hear what a {job1} thinks of it.
Sort the words {good1}, {good2}, {good3} and {good4} by length, then use each in a sentence about {hero1}.
Summarise the life of {figure1} for {audience1}.
{name1} drove {number1} kilometres from {city1} to {city2} and used {small1} litres of fuel for every hundred. What did the fuel cost at {number2} cents a litre?
Write a short poem about {hero1} in {month1}.
Which {language1} library would you choose to turn {input1} into {output1}, and what would you watch out for in production?
Suppose {hero1} had lived in {year1}. Describe one ordinary morning near the {place1}, with the smells and the noises, in no more than {number1} words.
Ask me {small1} questions about {topic1} and grade my answers as if I were {audience1}.
""".strip().split("\n")

_SLOT = re.compile(r"\{([a-z]+)(\d)\}")
_SENTENCE = re.compile(r"(?<=[.?!])\s+")


def slots(template: str) -> list[str]:
    """Return the different slots of a template: ``name1``, ``city1``, ..."""
    return list(dict.fromkeys(match[1] + match[2] for match in _SLOT.finditer(template)))


def fill(template: str, rng: random.Random, unlike: dict[str, str] | None = None) -> tuple[str, dict[str, str]]:
    """Return a text and the values of its slots.

    Args:
        unlike: values of which none may come again in the same slot.
    """
    values: dict[str, str] = {}
    for slot in slots(template):
        taken = {value for other, value in values.items() if other[:-1] == slot[:-1]}
        choices = [value for value in SLOTS[slot[:-1]] if value not in taken and value != (unlike or {}).get(slot)]
        values[slot] = rng.choice(choices)
    return _SLOT.sub(lambda match: values[match[1] + match[2]], template), values


def respaced(text: str, rng: random.Random) -> str:
    """Return the text in another case and with other white space."""
    changed = rng.choice([str.upper, str.lower, str.title, str.swapcase])(text)
    return "".join(rng.choice([" ", "  ", "\n", "\t", " \n\n"]) if char == " " else char for char in changed) + "\n"


def one_word_edited(text: str, rng: random.Random, vocabulary: list[str]) -> str:
    """Return the text with one word, wherever it stands, replaced by some other word."""
    words = text.split(" ")
    place = rng.randrange(len(words))
    words[place] = rng.choice([word for word in rng.sample(vocabulary, 5) if word.lower() != words[place].lower()])
    return " ".join(words)


def reordered(text: str, rng: random.Random) -> str:
    """Return the text with its sentences in another order."""
    sentences = _SENTENCE.split(text)
    changed = list(sentences)
    while changed == sentences:
        rng.shuffle(changed)
    return " ".join(changed)


def num_sentences(text: str) -> int:
    """Return the number of sentences as ``reordered`` sees them."""
    return len(_SENTENCE.split(text))


def truncated(text: str, rng: random.Random) -> str:
    """Return the first 60 to 90 % of the words."""
    words = text.split(" ")
    return " ".join(words[: round(len(words) * rng.uniform(0.6, 0.9))])

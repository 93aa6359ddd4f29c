"""The words of the demo model's world: its people, towns and creatures, and the grammar of its sentences.

Everything here was written for this project. A rule in `RULES` is a tuple of templates; `{slot}` in a
template is another rule, or a value that the document has fixed (a name, a town).
"""

from __future__ import annotations


def words(text: str) -> tuple[str, ...]:
    """The comma-separated entries of `text`."""
    return tuple(" ".join(entry.split()) for entry in text.split(",") if entry.strip())


WOMEN = words("""Nora, Ada, Mira, Clara, Edith, Ruth, Ines, Hanna, Olga, Petra, Wilma, Greta, Selma, Tilda,
    Agnes, Bertha, Carmen, Dora, Elsa, Flora, Gwen, Hilda, Irene, Judith, Kirsten, Lydia, Martha, Nadia,
    Paula, Rosa, Sylvia, Thea, Ursula, Vera, Yvonne, Zelda""")
MEN = words("""Tom, Hugo, Oscar, Emil, Felix, Anton, Bruno, Caspar, David, Erik, Frank, Gregor, Henry, Ivan,
    Jacob, Karl, Leo, Martin, Niels, Otto, Paul, Quentin, Robert, Samuel, Theo, Ulrich, Victor, Walter,
    Xavier, Yusuf, Zeno, Albert, Bernard, Conrad, Dennis, Edgar""")
SURNAMES = words("""Vale, Marsh, Turner, Holloway, Finch, Barrow, Penrose, Larkin, Thorne, Whitlock, Ashby,
    Crane, Dunmore, Elder, Fairweather, Grey, Hawthorn, Ingram, Jessop, Keller, Lockhart, Mercer, Northcote,
    Oakley, Pickering, Quill, Redfern, Sparrow, Tanner, Underhill, Voss, Wainwright, Yarrow, Abbot, Birch,
    Carver""")
TOWNS = words("""Millbrook, Saltford, Harrowgate, Eastmere, Fernley, Coldwater, Brindle, Ottershaw,
    Larkfield, Stonebridge, Windle, Ravensby, Maplethorpe, Kettering Hill, Dunwick, Oxlade, Pebble Bay,
    Thistledown, Winterbourne, Gullhaven, Ashcombe, Marrowby, Foxton, Little Harbour, Tarn End, Upper Sedge,
    Copperfield, Northgate, Swanley, Juniper Cross""")
RIVERS = words("Arrel, Teme, Wend, Orrin, Lode, Bask, Isca, Mallow, Greta, Severn Brook, Dove, Nidd")
TRADES = words("""wool, cheese, clocks, glass, boats, honey, paper, rope, bells, salt, pottery, apples,
    lace, knives, saddles, barrels, ink, candles""")
LANDMARKS = words("castle, church, mill, tower, inn, bridge, library, theatre, town hall, lighthouse")
JOBS = words("""baker, farmer, teacher, carpenter, fisher, doctor, miller, tailor, gardener, painter, smith,
    clockmaker, librarian, shepherd, postman, weaver, mason, ferryman, beekeeper, printer, cobbler, lawyer,
    potter, astronomer, locksmith, cartographer""")
PETS = words("""cat, dog, goat, parrot, tortoise, pony, rabbit, goose, hen, donkey, ferret, canary,
    hedgehog, raven""")
HOBBIES = words("""plays the fiddle, paints boats, collects maps, sings in the choir, grows roses, keeps
    bees, reads old novels, plays chess, mends clocks, carves spoons, studies the stars, bakes pies, writes
    poems, swims in the river, plays the drum, builds kites, presses flowers, tells riddles""")
COLOURS = words("""red, blue, green, white, black, yellow, brown, grey, silver, golden, orange, purple,
    pink, scarlet, turquoise, crimson""")
ADJECTIVES = words("""old, small, heavy, broken, bright, new, strange, wooden, clean, round, rusty, narrow,
    empty, smooth, precious, dusty, beautiful, cracked, tiny, enormous, warm, cold, hollow, painted,
    ancient, crooked, polished, fragile, sturdy, forgotten, borrowed, muddy, elegant, faded, curious,
    magnificent, splendid, ugly, greasy, sticky, transparent, carved, folded, ornate, expensive, cheap,
    worthless, sacred, ridiculous, secret, famous, foreign, antique, woollen, leather, copper, iron, marble,
    velvet, ivory, striped, spotted, square, oval, hairy""")
THINGS = words("""key, lamp, book, box, basket, letter, coat, bell, ladder, map, dagger, bottle, chair,
    clock, rope, drum, mirror, kettle, ring, bucket, candle, boat, wheel, hat, blanket, coin, hammer,
    saddle, violin, umbrella, telescope, compass, barrel, anchor, lantern, spoon, necklace, shovel, teapot,
    whistle, suitcase, feather, notebook, statue, trumpet, button, carpet, cradle, harness, chessboard,
    hourglass, weathervane, pillow, candlestick, wagon, plough, sickle, thimble, needle, scarf, apron,
    glove, boot, saucepan, bowl, plate, jug, bracelet, medal, banner, painting, tapestry, manuscript,
    parcel, envelope, calendar, globe, pendulum, magnet, puppet, kite, mask, crown, sword, shield, helmet,
    cannon, oar, sail, rudder, hook, cage, saw, chisel, ladle""")
FOODS = words("""bread, soup, cheese, apples, fish, honey, eggs, rice, pears, butter, plums, mushrooms,
    beans, potatoes, onions, carrots, walnuts, cherries, cabbage, pancakes, dumplings, raisins, ginger
    biscuits, pumpkin pie, barley, salted herring, smoked eel, lentils, sausages, gooseberry jam, cream,
    nutmeg, almonds, turnips, rhubarb, oysters, noodles, cinnamon buns, spinach, vinegar, mustard, chestnuts""")
PLACES = words("""market, river, kitchen, garden, forest, harbour, school, mill, bridge, church, library,
    barn, station, bakery, orchard, lighthouse, workshop, meadow, castle, cellar, inn, tower, well, quarry,
    museum, theatre, town hall, greenhouse, cemetery, observatory, customs house, ferry landing, old wall,
    prison, vineyard, brewery, shipyard, chapel, hospital, courtyard, windmill, pond, ruins, post office""")
WEATHER = words("""sunny, windy, rainy, foggy, cloudy, cold, warm, stormy, snowy, frosty, humid, mild, hazy,
    thundery""")
DAYS = words("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")
MONTHS = words("""January, February, March, April, May, June, July, August, September, October, November,
    December""")
OPPOSITES = words("""hot cold, big small, old new, fast slow, high low, light dark, wet dry, rich poor, near
    far, early late, hard soft, loud quiet, full empty, clean dirty, happy sad, brave timid, sharp blunt,
    thick thin, strong weak, open closed, sweet bitter, wide narrow, true false, deep shallow, easy
    difficult""")

# creature: kind, home, food, legs, habit
CREATURES: dict[str, tuple[str, str, str, int, str]] = {
    "fox": ("mammal", "a den in the forest", "mice and berries", 4, "hunts at night"),
    "heron": ("bird", "the edge of the river", "fish and frogs", 2, "stands still for hours"),
    "bee": ("insect", "a hive", "nectar and pollen", 6, "dances to show the way"),
    "otter": ("mammal", "a hole in the river bank", "fish and crabs", 4, "swims on its back"),
    "spider": ("arachnid", "a web between two branches", "flies", 8, "waits without moving"),
    "owl": ("bird", "a hollow tree", "mice and moths", 2, "flies without a sound"),
    "beaver": ("mammal", "a lodge of sticks", "bark and leaves", 4, "builds dams"),
    "salmon": ("fish", "the sea and the river", "shrimps", 0, "swims against the stream"),
    "snail": ("mollusc", "the damp grass", "leaves", 0, "carries its house"),
    "ant": ("insect", "a nest under the ground", "seeds and crumbs", 6, "follows its sisters"),
    "badger": ("mammal", "a sett in the hills", "worms and roots", 4, "digs long tunnels"),
    "swallow": ("bird", "a nest under the roof", "flies and gnats", 2, "travels south in autumn"),
    "toad": ("amphibian", "the mud of the pond", "slugs and beetles", 4, "sings in spring"),
    "hare": ("mammal", "the open field", "grass and clover", 4, "runs in circles"),
    "lizard": ("reptile", "the warm stone wall", "crickets", 4, "drops its tail"),
    "gull": ("bird", "the cliffs by the sea", "fish and scraps", 2, "steals from the boats"),
    "bat": ("mammal", "a cave", "moths and gnats", 2, "sleeps upside down"),
    "crab": ("crustacean", "the rocks on the shore", "weed and shells", 10, "walks sideways"),
    "squirrel": ("mammal", "a nest in the oak", "nuts and acorns", 4, "forgets where it hid its food"),
    "woodpecker": ("bird", "a hole in the birch", "larvae", 2, "drums on the trunk"),
    "eel": ("fish", "the deep of the lake", "worms and snails", 0, "crosses the sea to breed"),
    "grasshopper": ("insect", "the tall meadow", "grass", 6, "plays music with its legs"),
    "tortoise": ("reptile", "the dry garden", "lettuce and clover", 4, "sleeps all winter"),
    "swan": ("bird", "the reeds of the lake", "water plants", 2, "guards its nest"),
}

RULES: dict[str, tuple[str, ...]] = {
    "colour": COLOURS,
    "adj": ADJECTIVES,
    "thing": THINGS,
    "food": FOODS,
    "place": PLACES,
    "weather": WEATHER,
    "town": TOWNS,
    "job": JOBS,
    "day": DAYS,
    "trade": TRADES,
    "np": ("{adj} {thing}", "{colour} {thing}", "{adj} {colour} {thing}", "{thing} from {town}", "{thing}",
           "{thing} with a {colour} {thing} on it", "{adj} and {adj} {thing}", "{thing} full of {food}",
           "{thing} that a {job} had {handled}", "{thing} that nobody wanted"),
    "where": ("at the {place}", "behind the {place}", "near the {place}", "in front of the {place}",
              "not far from the {place}", "on the road to {town}", "between the {place} and the {place}"),
    "when": words("""in the morning, at noon, in the evening, after lunch, before sunrise, late at night, an
        hour later, the next day, on market day, at the end of the week, soon afterwards, without warning,
        when the bells rang, while the others slept, as soon as the rain stopped, for the first time in
        years, shortly before midnight, after a long silence, between two showers, on the last day of the
        month, during the concert, before anyone could object, at the first light,
        when the guests arrived, until the next full moon"""),
    "adv": words("""slowly, quickly, quietly, carefully, suddenly, gladly, at once, politely, bravely,
        alone, in silence, with great care, without a word, with a smile, as usual, against all advice, for
        no reason, with both hands, in a great hurry, rather clumsily, secretly, patiently, in tears"""),
    "feeling": words("""happy, tired, proud, worried, hungry, curious, sad, afraid, surprised, angry,
        hopeful, lonely, grateful, nervous, ashamed, calm, impatient, delighted, jealous, puzzled, amused,
        exhausted, bored, relieved, furious, embarrassed, cheerful, suspicious"""),
    "moved": words("""walked, went, ran, hurried, came, rode, returned, wandered, drove, climbed, crept,
        travelled, limped, marched, sailed"""),
    "handled": words("""found, lost, bought, sold, carried, concealed, damaged, mended, cleaned, painted,
        opened, dropped, borrowed, snatched, buried, weighed, polished, measured, wrapped, repaired,
        admired, examined, sketched, discarded, misplaced, inherited, swallowed, decorated, recognised"""),
    "to_handle": words("""find, sell, mend, buy, borrow, hide, deliver, open, paint, clean, carry, wrap,
        measure, return, replace"""),
    "said": words("said, asked, whispered, answered, shouted, laughed, sighed, called, muttered, explained"),
    "because": ("because {reason}", "although {reason}", "since {reason}", "and {reason}", "while {reason}"),
    "reason": ("the weather was {weather}", "it was late", "nobody was at home", "the {place} was closed",
               "the {thing} was too {adj}", "the road to {town} was flooded", "there was no {food} left",
               "the {job} had asked for it", "everyone had heard the news", "winter was coming",
               "the {job} of {town} had promised a {np}", "{food} cost {number} coins", "it was {day}",
               "a {np} blocked the way", "the {job} was {feeling}", "nothing else could be done",
               "somebody had forgotten the {food}"),
    "scene": (
        "The {place} was {weather} and quiet {when}.",
        "There was a smell of {food} in the air.",
        "It was a {weather} {day}, and the {place} was full of people.",
        "A {colour} flag hung over the {place}.",
        "Somebody had left a {np} {where}.",
        "The price of {food} had gone up again, and the {job} complained about it.",
        "{when_cap}, the wind turned, and it became {weather}.",
    ),
    "act": (
        "{hero} {handled} the {thing1} {where}.",
        "{hero} {moved} to the {place} {when} {because}.",
        "{when_cap}, {he} {handled} {his} {np} and {moved} {adv} back to the {place}.",
        "{hero} was {feeling} {because}.",
        "{friend} {moved} to the {place} to {to_handle} a {np}.",
        "{hero} showed the {thing1} to {friend}, who looked {feeling}.",
        "“Where is my {thing1}?” {said} {hero}. “It is {where},” answered {friend}.",
        "“I need a {np},” {said} {friend}, “and some {food} as well.”",
        "Neither {hero} nor {friend} had ever seen such a {np}.",
        "{he_cap} {handled} the {np} that {friend} had {handled} {when}.",
        "The {job} from {town} offered {number} coins for the {thing1}, but {hero} refused.",
        "{hero} and {friend} shared the {food} {where}.",
        "{adv_cap}, {friend} {handled} the {thing1} and gave it to {hero}.",
        "If the {thing1} had not been so {adj}, {friend} would have {handled} it {when}.",
    ),
    "opening": (
        "Once there was a {job1} called {hero} who lived in {home}.",
        "{hero} was a {job1} in {home} and had a {pet}.",
        "{when_cap}, {hero} the {job1} left {home} with a {thing1}.",
        "Everybody in {home} knew {hero}, the {job1} with the {pet}.",
        "“This {thing1} is not mine,” {said} {hero}, the {job1} of {home}.",
    ),
    "problem": (
        "One {day} {his} {thing1} was gone.",
        "{he_cap} wanted to {to_handle} the {adj} {thing1}, but did not know how.",
        "Then a letter came from {friend}, who needed the {thing1} {when}.",
        "{his_cap} {pet} had run away to the {place} with the {thing1}.",
        "{friend} said that the {thing1} belonged to {friend_him}, and {hero} was {feeling}.",
    ),
    "ending": (
        "In the end {hero} kept the {thing1}, and {friend} was {feeling}.",
        "So {hero} went home to {home} with the {thing1} and {his} {pet}.",
        "From that {day} on the {thing1} stood {where}, and nobody {handled} it again.",
        "{hero} thanked {friend}, and they ate {food} together until it was dark.",
        "That is how the {job1} of {home} lost a {thing1} and found a friend.",
    ),
    "greeting": ("I hope you are well.", "Thank you for your letter of {day}.", "It has been {weather} here.",
                 "I arrived in {town} on {day}.", "Your {thing} came safely, and I am {feeling}."),
    "news": (
        "The {place} is closed {because}.",
        "We have plenty of {food} but no {food} this year.",
        "My {np} is broken, and the {job} cannot {to_handle} it.",
        "{friend} came to see me on {day} and brought {food}.",
        "Please send me {number} coins and a {np}.",
        "Do you remember the {np} that we {handled} {where}?",
        "I would like to {to_handle} your {np} if you still have it.",
        "The new {job} is from {town}, and everyone is {feeling}.",
    ),
    "closing": ("Write soon.", "Give my love to {friend}.", "I must go now.", "Come and visit us {when}.",
                "Do not forget the {food}."),
    "note": (
        "Saw a {np} {where}.",
        "{friend} came and brought {food}.",
        "The {pet} slept {where}.",
        "Went to {town} to {to_handle} a {np}.",
        "Felt {feeling} {because}.",
        "No {food} left, only {food}.",
    ),
    "verse": (
        "{adj} {thing}, {colour} {thing}",
        "{feeling} {job}, {weather} {place}",
        "{food} and {food} {where}",
        "the {adj} {job} {handled} the {thing}",
        "the {thing} {handled} the {thing} {adv}",
        "{when} the {job} {moved} to {town}",
        "{weather} {place}, {adj} {place}",
        "{job}, {job}, {handled} and {handled}",
        "{adv}, {adv}, {said} the {job}",
        "no {food}, no {food}, no {thing}",
    ),
    "sale": (
        "{adj} {thing} to a {job} from {town}",
        "{food} and {food} for {number} coins",
        "{colour} {thing}, {adj} {thing}, {adj} {thing}",
        "{thing}, {feeling} buyer, {number} coins",
        "{food}, {food}, {food}",
        "{adj} {thing} {handled} by the {job}",
    ),
    "cook": words("wash, chop, boil, bake, fry, stir, roast, grate, salt, peel"),
    "how": ("in a {adj} bowl", "for {minutes} minutes", "until soft", "{adv}", "with a {adj} spoon",
            "over a low fire"),
    "minutes": words("ten, five, twenty, fifteen, thirty, forty, two"),
    "number": words("ten, twelve, three, seven, fifty, twenty, a hundred, nine, sixty, eleven, forty"),
    "found": words("found, bought, made, borrowed, stole, was given"),
}  # fmt: skip

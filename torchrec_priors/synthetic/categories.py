"""The category tree of the marketplace: the names of levels 1 and 2, and of the leaves."""

from dataclasses import dataclass
from functools import cache

_TREE = """
Women
  Dresses: casual dresses, evening dresses, summer dresses, knit dresses
  Tops: blouses, t-shirts, sweaters, tank tops
  Shoes: sneakers, heels, boots, sandals
  Bags: handbags, backpacks, crossbody bags, wallets
  Jewellery: necklaces, rings, earrings, bracelets
  Coats: trench coats, down jackets, wool coats, denim jackets
Men
  Shirts: dress shirts, polo shirts, flannel shirts, t-shirts
  Trousers: jeans, chinos, joggers, shorts
  Footwear: sneakers, boots, loafers, running shoes
  Outerwear: bomber jackets, parkas, fleece jackets, raincoats
  Accessories: belts, hats, ties, sunglasses
  Watches: dive watches, dress watches, digital watches, pocket watches
Kids
  Baby clothes: bodysuits, sleepwear, baby shoes, bibs
  Girls' clothes: dresses, leggings, jackets, school shoes
  Boys' clothes: shirts, hoodies, jackets, trainers
  Strollers: full-size strollers, travel strollers, car seats, carriers
  Nursery: cribs, bedding, mobiles, night lights
  Feeding: bottles, high chairs, breast pumps, lunch boxes
Electronics
  Phones: smartphones, phone cases, chargers, screen protectors
  Computers: laptops, keyboards, monitors, graphics cards
  Cameras: film cameras, mirrorless cameras, lenses, tripods
  Audio: headphones, speakers, turntables, microphones
  Video games: consoles, console games, handheld games, controllers
  Wearables: smartwatches, fitness bands, wireless earbuds, e-readers
Home
  Kitchen: cookware, knives, mugs, bakeware
  Furniture: chairs, lamps, shelves, side tables
  Decor: vases, mirrors, candles, wall art
  Textiles: quilts, cushions, curtains, rugs
  Garden: planters, garden tools, bird feeders, garden lights
  Storage: baskets, boxes, hangers, organisers
Beauty
  Make-up: lipsticks, foundations, eyeshadow palettes, mascaras
  Skin care: serums, sunscreens, masks, cleansers
  Hair: hair dryers, straighteners, shampoos, wigs
  Fragrance: perfumes, colognes, body sprays, sample sets
  Nails: nail polishes, gel kits, press-on nails, nail tools
  Bath: soaps, bath salts, lotions, brushes
Sports
  Cycling: road bikes, helmets, cycling jerseys, bike lights
  Camping: tents, sleeping bags, camp stoves, lanterns
  Fitness: yoga mats, dumb-bells, resistance bands, gym bags
  Golf: drivers, putters, golf balls, golf gloves
  Winter sports: skis, snowboards, goggles, ski jackets
  Fishing: rods, reels, lures, tackle boxes
Toys
  Trading cards: monster cards, baseball cards, basketball cards, football cards
  Figures: anime figures, model robots, vinyl toys, miniature soldiers
  Building sets: castle sets, space sets, city sets, loose bricks
  Dolls: fashion dolls, doll houses, doll clothes, porcelain dolls
  Plush: teddy bears, cartoon plush, weighted plush, hand puppets
  Games: board games, puzzles, card games, dice
Books and media
  Fiction: fantasy novels, crime novels, romances, classics
  Comics: manga, superhero comics, graphic novels, vintage comics
  Non-fiction: cookbooks, biographies, travel guides, textbooks
  Music: vinyl records, CDs, cassettes, sheet music
  Films: DVDs, Blu-ray discs, box sets, film posters
  Magazines: fashion magazines, car magazines, music magazines, craft magazines
Handmade
  Yarn: wool yarn, cotton yarn, knitting needles, crochet kits
  Fabric: quilting cotton, linen, felt, silk scraps
  Paper: washi tape, stickers, stamps, greeting cards
  Beads: glass beads, charms, clasps, stringing kits
  Sewing: patterns, sewing machines, buttons, zips
  Paint: watercolours, acrylics, brushes, sketchbooks
"""


@dataclass(frozen=True)
class Leaf:
    """A leaf of the tree.

    Attributes:
        level1, level2, level3: The names of the categories that contain it, each unique in its
            level; level 3 is the leaf itself.
        noun: The name of the leaf without the levels above, for titles.
    """

    level1: str
    level2: str
    level3: str
    noun: str


@cache
def leaves() -> tuple[Leaf, ...]:
    """Returns all leaves, in the order of the tree.

    >>> leaves()[0].level3, len(leaves())
    ('Women > Dresses > casual dresses', 240)
    """
    all_leaves = []
    top = ""
    for line in _TREE.strip().splitlines():
        name, colon, nouns = line.strip().partition(": ")
        if not colon:
            top = name
            continue

        middle = f"{top} > {name}"
        for noun in nouns.split(", "):
            all_leaves.append(Leaf(top, middle, f"{middle} > {noun}", noun))
    return tuple(all_leaves)

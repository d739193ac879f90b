#!/usr/bin/env python3
"""Turn an `emoji-datasource-*` npm package into a captioned image folder: NNNN.png (64x64, RGB, on white) and NNNN.txt.

    npm pack emoji-datasource-google@16.0.0 && tar xzf emoji-datasource-google-16.0.0.tgz     # unpacks to package/
    emoji_dataset.py package --out noto-train --names names/train.txt
    emoji_dataset.py package --out noto-all                                                   # every emoji, no skin tone variants

Captions are the emoji's Unicode name in lower case, made readable: "flag of japan" for "Japan Flag", "red heart" for "HEAVY BLACK HEART",
the suffixes "sign", "symbol" and "suit" dropped. `--names FILE` takes one caption a line ('#' starts a comment) and keeps those, in that
order; a line that no emoji or more than one emoji answers to is an error. `--list FILE` writes the captions, one a line. The output folder must not exist yet.

Needs (PyPI): pillow.
"""
import argparse, collections, json, pathlib, sys

from PIL import Image

# Where the Unicode name does not say what the drawing shows, or nobody would type it. Keys are the package's short names.
READABLE = {
    "heart": "red heart", "smiley": "smiling face with open mouth", "relaxed": "relaxed face", "hankey": "pile of poo", "alien": "alien",
    "space_invader": "alien monster", "100": "hundred points", "boom": "collision", "zzz": "sleeping letters z", "apple": "red apple",
    "eggplant": "aubergine", "corn": "ear of corn", "fried_egg": "fried egg", "ramen": "bowl of noodles", "icecream": "soft ice cream",
    "coffee": "cup of coffee", "tea": "cup of green tea", "hocho": "kitchen knife", "knife_fork_plate": "plate with fork and knife",
    "fish_cake": "fish cake", "champagne": "bottle of champagne", "baguette_bread": "baguette", "house": "house", "car": "red car", "blue_car": "blue car",
    "train2": "train", "train": "tram car", "racing_motorcycle": "motorcycle", "fuelpump": "fuel pump", "traffic_light": "horizontal traffic light",
    "vertical_traffic_light": "traffic light", "octagonal_sign": "stop sign", "construction": "construction barrier", "rotating_light": "police light",
    "sunny": "sun", "star": "star", "star2": "glowing star", "zap": "lightning bolt", "ocean": "water wave", "partly_sunny": "sun behind cloud",
    "jack_o_lantern": "halloween pumpkin", "tada": "party popper", "gift": "wrapped present", "basketball": "basketball", "tennis": "tennis ball",
    "golf": "flag in hole", "dart": "dart board", "8ball": "billiard ball", "gun": "water pistol", "art": "artist palette", "thread": "spool of thread",
    "spades": "black spade", "hearts": "heart suit", "diamonds": "red diamond", "clubs": "black club", "black_joker": "joker card",
    "mans_shoe": "brown shoe", "womans_clothes": "pink blouse", "womans_hat": "straw hat", "boot": "brown boot", "high_heel": "red high heel",
    "tophat": "top hat", "mortar_board": "graduation cap", "helmet_with_white_cross": "rescue helmet", "womans_flat_shoe": "flat shoe",
    "mega": "megaphone", "phone": "red telephone", "iphone": "mobile phone", "computer": "laptop", "cd": "optical disc", "tv": "television",
    "mag": "magnifying glass", "mag_right": "magnifying glass to the right", "bulb": "light bulb", "flashlight": "flashlight", "izakaya_lantern": "red lantern",
    "closed_book": "red book", "notes": "musical notes", "studio_microphone": "studio microphone", "control_knobs": "control knobs",
    "scissors": "scissors", "wastebasket": "waste basket", "lower_left_crayon": "red crayon", "lower_left_paintbrush": "paintbrush",
    "three_button_mouse": "computer mouse", "dna": "dna", "gem": "gem", "link": "link", "broken_chain": "broken chain", "moneybag": "money bag",
    "dollar": "dollar banknote", "email": "envelope", "postbox": "red postbox", "date": "calendar", "smoking": "cigarette",
    "recycle": "recycling arrows", "question": "red question mark", "exclamation": "red exclamation mark", "grey_question": "white question mark",
    "grey_exclamation": "white exclamation mark", "bangbang": "double exclamation mark", "heavy_plus_sign": "plus", "heavy_minus_sign": "minus",
    "heavy_division_sign": "division", "heavy_equals_sign": "equals", "heavy_multiplication_x": "multiplication", "heavy_dollar_sign": "dollar sign",
    "white_check_mark": "check mark button", "heavy_check_mark": "check mark", "x": "red cross mark", "o": "red ring", "no_entry": "no entry",
    "no_entry_sign": "prohibited", "no_smoking": "no smoking", "wheelchair": "wheelchair", "warning": "warning", "radioactive_sign": "radioactive",
    "biohazard_sign": "biohazard", "hash": "keycap hash", "arrow_up": "up arrow", "arrow_down": "down arrow", "arrow_left": "left arrow",
    "arrow_right": "right arrow", "arrow_upper_right": "up right arrow", "arrow_lower_right": "down right arrow", "arrow_forward": "play button",
    "arrow_backward": "reverse button", "double_vertical_bar": "pause button", "black_square_for_stop": "stop button", "black_circle_for_record": "record button",
    "arrow_up_small": "upwards button", "arrow_down_small": "downwards button", "fast_forward": "fast forward button", "parking": "letter p button",
    "a": "letter a button", "b": "letter b button", "o2": "letter o button", "ab": "letters ab button", "information_source": "information button",
    "m": "letter m in a circle", "ok": "ok button", "sos": "sos button", "new": "new button", "free": "free button", "cool": "cool button", "up": "up button",
    "black_circle": "black circle", "white_circle": "white circle", "black_large_square": "black square", "white_large_square": "white square",
    "small_red_triangle": "red triangle", "small_red_triangle_down": "red triangle pointing down", "large_orange_diamond": "orange diamond",
    "large_blue_diamond": "blue diamond", "diamond_shape_with_a_dot_inside": "blue diamond with a dot", "earth_africa": "globe with europe and africa",
    "earth_americas": "globe with the americas", "earth_asia": "globe with asia", "house_buildings": "houses", "camping": "tent in a forest",
    "boat": "sailboat", "checkered_flag": "chequered flag", "waving_black_flag": "black flag", "waving_white_flag": "white flag",
    "triangular_flag_on_post": "red triangular flag", "cake": "slice of cake", "dragon_face": "dragon head", "frog": "frog face", "bee": "honeybee",
    "ladybug": "ladybug", "hatched_chick": "front-facing chick", "whale": "spouting whale", "whale2": "blue whale", "feet": "paw prints",
    "blossom": "yellow blossom", "leaves": "leaves in the wind", "rage": "pouting face", "imp": "angry face with horns", "wave": "waving hand",
    "+1": "thumbs up", "-1": "thumbs down", "fist": "raised fist", "facepunch": "punching fist", "ok_hand": "ok hand", "v": "victory hand",
    "clap": "clapping hands", "point_up": "finger pointing up", "point_up_2": "hand pointing up", "point_down": "hand pointing down", "point_left": "hand pointing left",
    "point_right": "hand pointing right", "spock-hand": "vulcan salute", "the_horns": "sign of the horns", "santa": "santa claus", "heart_decoration": "heart decoration",
    "flag-mm": "flag of myanmar", "flag-hk": "flag of hong kong", "flag-mo": "flag of macao", "desktop_computer": "desktop computer",
    "goggles": "goggles", "low_battery": "low battery", "rain_cloud": "cloud with rain", "moon": "waxing gibbous moon", "full_moon": "full moon",
    "large_red_square": "red square", "package": "cardboard package", "dagger_knife": "dagger", "man": "man", "woman": "woman",
    "smile": "smiling face with open mouth and smiling eyes", "laughing": "laughing face with closed eyes", "joy": "face with tears of joy", "sweat_smile": "smiling face with sweat",
    "heart_eyes": "smiling face with heart eyes", "star-struck": "grinning face with star eyes", "kissing_heart": "face blowing a kiss",
    "exploding_head": "exploding head", "hot_face": "hot face", "cold_face": "cold face", "white_frowning_face": "frowning face", "frowning": "frowning face with open mouth",
    "zany_face": "zany face", "no_mouth": "face without mouth", "face_vomiting": "vomiting face", "face_with_symbols_on_mouth": "face with symbols on mouth",
    "stuck_out_tongue_closed_eyes": "face with tongue and closed eyes", "stuck_out_tongue": "face with tongue", "stuck_out_tongue_winking_eye": "winking face with tongue",
    "scream": "screaming face", "triumph": "face with steam from nose", "cold_sweat": "anxious face with sweat", "partying_face": "partying face",
    "robot_face": "robot", "ice_cream": "bowl of ice cream", "pizza": "slice of pizza", "pear": "pear",
}


def caption(emoji):
    short, name = emoji["short_name"], emoji["name"].lower().replace("’", "'")
    if short in READABLE:
        return READABLE[short]
    if emoji["category"] == "Flags" and name.endswith(" flag") and emoji["subcategory"] != "flag":
        return "flag of " + name.removesuffix(" flag").replace(" & ", " and ").replace("türkiye", "turkey")
    for suffix in (" sign", " symbol", " suit", " ornament"):
        name = name.removesuffix(suffix)
    if name.startswith("large ") and emoji["subcategory"] == "geometric":
        name = name.removeprefix("large ")
    return name.replace("keycap:", "keycap").replace("womans", "woman's").replace("mans ", "man's ")


def read_package(package):
    """[(caption, image path)] in the package's own order, for every emoji that the package draws."""
    vendor = next(p for p in (package / "img").iterdir() if p.is_dir()).name
    folder = package / "img" / vendor / "64"
    emoji = [e for e in json.loads((package / "emoji.json").read_text()) if e[f"has_img_{vendor}"] and e["category"] != "Component"]
    emoji.sort(key=lambda e: e["sort_order"])
    return [(caption(e), folder / e["image"]) for e in emoji]


def read_names(path):
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def choose(pairs, names):
    by_caption = collections.defaultdict(list)
    for text, path in pairs:
        by_caption[text].append(path)
    bad = [f"{n!r}: {len(by_caption.get(n, []))} emoji" for n in names if len(by_caption.get(n, [])) != 1]
    twice = [f"{n!r}: listed {c} times" for n, c in collections.Counter(names).items() if c > 1]
    if bad or twice:
        sys.exit("names must each stand for exactly one emoji:\n  " + "\n  ".join(bad + twice))
    return [(n, by_caption[n][0]) for n in names]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("package", type=pathlib.Path, help="the unpacked npm package (holds emoji.json and img/)")
    ap.add_argument("--out", type=pathlib.Path, required=True)
    ap.add_argument("--names", type=pathlib.Path, help="captions to keep, one a line")
    ap.add_argument("--list", type=pathlib.Path, help="write the captions here, one a line, in the order of the images")
    a = ap.parse_args()
    pairs = read_package(a.package)
    if a.names:
        pairs = choose(pairs, read_names(a.names))
    a.out.mkdir(parents=True)
    for i, (text, path) in enumerate(pairs):
        rgba = Image.open(path).convert("RGBA")
        Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB").resize((64, 64), Image.LANCZOS).save(a.out / f"{i:04}.png", optimize=True)
        (a.out / f"{i:04}.txt").write_text(text + "\n")
    if a.list:
        a.list.write_text("".join(text + "\n" for text, _ in pairs))
    print(f"{len(pairs)} images in {a.out}")


if __name__ == "__main__":
    main()

"""From which cosine on a prompt counts as known (guidance/priors/known.py, UNKNOWN): the largest cosine to a training
name of prompts that say nothing, of other languages, of things that no pack has, and of the 100 fixed prompts.

    python -m benchmarks.familiarity
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from app.evaluate.nouns import GROUPS, eval100
from app.models import weights_folder
from app.training.calibrate import FOREIGN
from guidance.priors.known import UNKNOWN, familiarity, load_known
from guidance.priors.text import TextEncoder

NONSENSE = """xqzt blorf wug florp zzyzx qwertyuiop asdfghjkl glibber snorfle vrenk quizzaciously jabberwock frumious
mimsy borogove slithy tove gyre gimble dax blicket toma modi fep zav kiki bouba plonkus trinkelbob skrzt mnbvcxz lkjhg
wxyz ptoeh grelbix ushnar vintorp oolqa thwimble zibzab""".split()
TYPED = [
    *("aaaa", "kjsdhfkjsdhf", "q", "zz", "x", "ffffffff", "bcdfg hjklm", "rtyu fghj vbnm", "eiwoq pwoei", "asdf"),
    *("...", "!!!", "???", ",;:", "-", "#$%", "()", "&", "~~~~", "***", "1", "42", "12345", "3.14", "007", "1000000"),
    *("2+2", "🍄", "🚗", "🏠🏠", "lorem ipsum dolor sit amet", "foo bar baz"),
]
ABSTRACT = """justice|quantum chromodynamics|happiness|the year 1984|inflation|tomorrow|please help me|
make something nice|I love you|democracy in america""".replace("\n", "").split("|")
LANGUAGES = {
    "German": """ein rotes Fahrrad|eine Schildkröte|ein Schmetterling|ein Kühlschrank|eine Gießkanne|ein Apfelbaum|
ein Stuhl|ein Fass|Hund|Pilz|ein roter Pilz|Haus|Schrank|ein Feuerwehrauto""",
    "Spanish": """una silla|un sombrero rojo|una mariposa|el perro|un coche azul|seta|una casa|un árbol|
barril de madera""",
    "French": """une chaise|un champignon rouge|un papillon|le chien|une voiture bleue|un tonneau|maison|arbre""",
    "Italian": "una sedia|un fungo rosso|farfalla|cane|automobile|casa",
    "Polish, Finnish, Turkish": """czerwony grzyb|pies|krzesło|punainen sieni|koira|talo|polkupyörä|kırmızı mantar|
köpek|ev""",
    "Japanese, Chinese, Korean": "キノコ|赤いきのこ|車|猫|家|椅子|红蘑菇|汽车|房子|狗|빨간 버섯|자동차|집",
    "Russian, Arabic, Hindi": "красный гриб|машина|дом|собака|стул|فطر أحمر|بيت|كلب|लाल मशरूम|घर|कुत्ता",
}
THRESHOLDS = (0.35, UNKNOWN, 0.45)


def row(name: str, cosines: Sequence[float]) -> str:
    c = np.array(cosines)
    low, middle, high = np.quantile(c, [0.1, 0.5, 0.9])
    shares = " | ".join(f"{100 * (c < t).mean():.0f}" for t in THRESHOLDS)
    return f"| {name} | {len(c)} | {low:.2f} | {middle:.2f} | {high:.2f} | {shares} |"


@torch.no_grad()
def main() -> None:
    known, encoder = load_known(weights_folder("embedded")), TextEncoder()
    assert known is not None

    def cosines(prompts: Sequence[str]) -> list[float]:
        return [familiarity(known, encoder, p, 1).nearest[0][1] for p in prompts]

    print("| prompts | number | 10 % | median | 90 % | " + " | ".join(f"% below {t:g}" for t in THRESHOLDS) + " |")
    print("|---|---|---|---|---|---|---|---|")
    print(row("nonsense words", cosines(NONSENSE)))
    print(row("letters, punctuation, numbers, emoji", cosines(TYPED)))
    print(row("abstract", cosines(ABSTRACT)))
    every = []
    for language, words in LANGUAGES.items():
        every += (c := cosines(words.replace("\n", "").split("|")))
        print(row(language, c))
    print(row("other languages, all", every))
    print(row("things that no pack has (`calibrate.py`)", cosines([f"a {p}" for p in FOREIGN])))
    for group in GROUPS:
        print(row(f"eval100, {group}", cosines([p.text for p in eval100() if p.group == group])))


if __name__ == "__main__":
    main()

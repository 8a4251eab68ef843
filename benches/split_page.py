"""What a caller who is alone would gain if a page were cut in two and read by two workers.

Not done by the server, because of what this prints: how often the text of the two halves is that of
the whole page, and how much sooner it is there. A page is cut through the widest blank band near its
middle; if it has none, it is not cut.

    target/tools/bin/python benches/split_page.py FILE...
"""

import multiprocessing
import os
import sys
import time

os.environ["OMP_THREAD_LIMIT"] = "1"

from PIL import Image
from tesserocr import PSM, PyTessBaseAPI

from tesserocr_rate import data_directory

# The part of a page in which a cut would balance the work.
CUT_FROM, CUT_TO = 0.3, 0.7
# A band this much narrower than a page's height may be the gap between two lines of one paragraph.
BAND_SHARE_MIN = 0.005


def cut(page):
    """The row in the middle of the widest band without ink, or nothing."""
    rows = page.point(lambda value: 255 if value < 128 else 0).resize((1, page.height), Image.BOX)
    blank = [value == 0 for value in rows.tobytes()]
    bands, begin = [], None
    for row in range(int(page.height * CUT_FROM), int(page.height * CUT_TO)):
        if blank[row] and begin is None:
            begin = row
        if not blank[row] and begin is not None:
            bands.append((row - begin, (begin + row) // 2))
            begin = None
    rows, at = max(bands, default=(0, 0))
    return at if rows >= page.height * BAND_SHARE_MIN else None


def work(pages, texts):
    with PyTessBaseAPI(path=data_directory(), lang="eng", psm=PSM.AUTO) as engine:
        texts.put("ready")
        for page in iter(pages.get, None):
            engine.SetImage(page)
            texts.put(engine.GetUTF8Text())


class Worker:
    def __init__(self):
        self.pages, self.texts = multiprocessing.Queue(), multiprocessing.Queue()
        self.process = multiprocessing.Process(target=work, args=(self.pages, self.texts))
        self.process.start()
        self.texts.get()


def read(workers, parts):
    started = time.monotonic()
    for worker, part in zip(workers, parts):
        worker.pages.put(part)
    texts = [worker.texts.get() for worker, _ in zip(workers, parts)]
    return texts, time.monotonic() - started


def words(*texts):
    return " ".join(texts).split()


def main(files):
    workers = [Worker(), Worker()]
    cuts = equal = 0
    whole_seconds = halves_seconds = 0.0
    for number, file in enumerate(files, 1):
        page = Image.open(file).convert("L")
        at = cut(page)
        if at is not None:
            halves = [page.crop((0, 0, page.width, at)), page.crop((0, at, page.width, page.height))]
            [text], seconds = read(workers, [page])
            texts, seconds_of_halves = read(workers, halves)
            cuts += 1
            equal += words(text) == words(*texts)
            whole_seconds += seconds
            halves_seconds += seconds_of_halves
        if sys.stderr.isatty():
            print(f"\r{number} of {len(files)} pages", end="", file=sys.stderr)
    for worker in workers:
        worker.pages.put(None)
        worker.process.join()
    print(f"pages: {len(files)}, with a band to cut through: {cuts}")
    print(f"of these, the same words in the same order: {equal}")
    print(f"time of the halves, as a share of the whole's: {halves_seconds / whole_seconds:.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Pictures per second of tesserocr, with warm engines in processes of their own.

Usage: tesserocr_rate.py PROCESSES COUNT LANGUAGE PICTURE...

Recognises COUNT pictures, taking turns through those given, and prints the rate and the version of
Tesseract that tesserocr carries.
"""

import multiprocessing
import os
import subprocess
import sys
import time

# Read when the library is loaded: engines in parallel fight over the cores otherwise.
os.environ["OMP_THREAD_LIMIT"] = "1"

import tesserocr


def data_directory():
    """Where the system's language data are, as its own Tesseract says."""
    listed = subprocess.run(
        ["tesseract", "--list-langs"], check=True, capture_output=True, text=True
    )
    return listed.stdout.split('"')[1]


def work(data, language, pictures, count, following, ready, begin):
    with tesserocr.PyTessBaseAPI(path=data, lang=language) as engine:
        ready.wait()
        begin.wait()
        while True:
            with following.get_lock():
                number = following.value
                following.value += 1
            if number >= count:
                return
            engine.SetImageFile(pictures[number % len(pictures)])
            if not engine.GetUTF8Text().strip():
                sys.exit("nothing was read")


def main():
    processes, count, language, pictures = (
        int(sys.argv[1]),
        int(sys.argv[2]),
        sys.argv[3],
        sys.argv[4:],
    )
    following = multiprocessing.Value("i", 0)
    ready = multiprocessing.Barrier(processes + 1)
    begin = multiprocessing.Barrier(processes + 1)
    arguments = (data_directory(), language, pictures, count, following, ready, begin)
    workers = [multiprocessing.Process(target=work, args=arguments) for _ in range(processes)]
    for worker in workers:
        worker.start()
    ready.wait()
    started = time.perf_counter()
    begin.wait()
    for worker in workers:
        worker.join()
        if worker.exitcode != 0:
            sys.exit("a worker failed")
    print(count / (time.perf_counter() - started), tesserocr.tesseract_version().split()[1])


if __name__ == "__main__":
    main()

"""Say whether two photos show the same person.

    python examples/lfw/verify.py model.pt a.jpg b.jpg
    python examples/lfw/verify.py model.pt a.jpg folder/

Photos must be framed like the training images (for LFW: its deep-funneled 250 x 250 frames);
there is no face detector in here. With a folder, the first photo is compared with each in it;
photos that cannot be read are named and left out.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from siameselib.data.sources import IMAGE_SUFFIXES
from siameselib.evaluation import Verifier


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("model", help="model.pt, as train.py writes it")
    parser.add_argument("photo", help="the photo to compare")
    parser.add_argument("other", help="a photo, or a folder of photos")
    parser.add_argument("--top", type=int, default=10, help="how many of a folder are listed (10)")
    args = parser.parse_args(argv)
    try:
        verifier = Verifier.load(args.model)
        if not Path(args.other).is_dir():
            print(verifier.verify(args.photo, args.other))
            return 0
        photos = sorted(
            p for p in Path(args.other).rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES
        )
        if not photos:
            raise ValueError(f"there is no photo in {args.other}")
        pixels, read = [verifier.prepare_photo(args.photo)], []
        for photo in photos:
            try:
                pixels.append(verifier.prepare_photo(photo))
                read.append(photo)
            except (ValueError, OSError) as error:
                print(f"verify.py: {error}", file=sys.stderr)
        if len(read) < len(photos):
            left_out = f"{len(photos) - len(read)} of {len(photos)} photos left out"
            print(f"verify.py: {left_out}", file=sys.stderr)
        if not read:
            return 1
        f = verifier.embed(np.stack(pixels))
        scores = verifier.scores(f[:1].expand(len(read), -1), f[1:])
        for k in np.argsort(-scores, kind="stable")[: args.top]:
            print(f"{read[k].relative_to(args.other)}: {verifier.judge(scores[k])}")
    except KeyboardInterrupt:
        return 130
    except (ValueError, TypeError, OSError) as error:
        print(f"verify.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

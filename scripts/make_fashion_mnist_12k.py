"""Draws nasctl/assets/fashion_mnist_12k.npz from the original Fashion-MNIST files.

10,000 training and 2,000 validation images out of the 60,000 training images, 5,000 out of the
10,000 test images: the same number of every class, drawn with a fixed seed. The arrays are always
the same; the bytes of the file depend on the zlib that compresses them.

    apt-get install dataset-fashion-mnist
    python scripts/make_fashion_mnist_12k.py [DIRECTORY] [-o FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from nasctl.data import stratified_split
from nasctl.data_readers import Images, read_idx_pair

SEED = 20240701
ASSET = Path(__file__).parent.parent / "nasctl" / "assets" / "fashion_mnist_12k.npz"


def draw(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of the asset, from the directory of the four IDX files."""
    images, labels = read_idx_pair(folder, "train")
    rest, chosen = stratified_split(labels, 12_000, SEED)
    del rest
    train, val = (chosen[part] for part in stratified_split(labels[chosen], 2_000, SEED + 1))
    test_images, test_labels = read_idx_pair(folder, "t10k")
    _, test = stratified_split(test_labels, 5_000, SEED + 2)

    def both(split: str, pixels: Images, classes: np.ndarray) -> dict[str, np.ndarray]:
        return {f"{split}_images": pixels[:, 0], f"{split}_labels": classes.astype(np.uint8)}

    return {
        **both("train", images[train], labels[train]),
        **both("val", images[val], labels[val]),
        **both("test", test_images[test], test_labels[test]),
    }


def main() -> None:
    """Writes the asset."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", nargs="?", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("-o", "--output", type=Path, default=ASSET)
    arguments = parser.parse_args()
    np.savez_compressed(arguments.output, **draw(Path(arguments.directory)))
    print(f"{arguments.output}: {arguments.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()

#!/usr/bin/env bash
# Each peer in an environment of its own under $1: Python 3.11, for which PyTorch has a CPU build at hand.
# canonical-interp asks for Python 3.12 because of itertools.batched alone, which canonical_interp.py stands in for.
set -euo pipefail
into="${1:?the folder to install into}"
for peer in devinterp canonical_interp; do
  python3.11 -m venv "$into/$peer"
  "$into/$peer/bin/pip" install --quiet torch==2.13.0 numpy
done
"$into/devinterp/bin/pip" install --quiet devinterp==2.0.1
"$into/canonical_interp/bin/pip" install --quiet pandas tqdm
"$into/canonical_interp/bin/pip" install --quiet --no-deps --ignore-requires-python canonical-interp==0.2.7

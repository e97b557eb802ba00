#!/usr/bin/env bash
# x264 (core 165, in the wheel of PyAV 18.1.0) gives other bytes for the same frames, depending on what freed memory held.
#
# Expected: libx264 with fixed settings and one thread is a function of its input: the same frames, the same packets.
# What happens: on a processor with AVX-512, small pictures (seen at 48, 64 and 96 pixels a side, not at 128 and more) are encoded
# into different packets from one process to the next. The C library's MALLOC_PERTURB_ fills fresh memory with a byte of choice, and
# each byte gives another film. With mbtree=0, or with the assembly limited to AVX2, all films are one: the part that spreads the
# macroblocks' importance backwards in time uses values that nobody wrote. Every decoder plays every one of these films.
#
# Who is hit: tests and caches that compare encoded clips by hash, reproducible builds of media, previews at thumbnail size.
# Needs Linux with glibc on x86-64 with AVX-512. Versions: av 18.1.0, numpy 2.4.6, CPython 3.11 or later.
# Output seen (AMD EPYC with AVX-512):
#   libx264 as it is:  3 different films of the same 9 frames
#   mbtree=0:          1
#   asm=avx2:          1
set -euo pipefail

grep -qm1 avx512f /proc/cpuinfo || { echo "This processor has no AVX-512: nothing can be seen here."; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6 2>/dev/null

cat > "$folder/encode.py" <<'PY'
import hashlib
import sys
from fractions import Fraction

import av
import numpy as np

blocks = np.random.default_rng(0).integers(0, 255, (9, 16, 16, 3)).astype(np.uint8)
frames = blocks.repeat(4, axis=1).repeat(4, axis=2)  # 9 pictures of 64 x 64
context = av.CodecContext.create("libx264", "w")
context.width = context.height = 64
context.pix_fmt, context.time_base, context.framerate, context.thread_count = "yuv420p", Fraction(1, 25), 25, 1
context.options = {"crf": "17", **({"x264-params": sys.argv[1]} if len(sys.argv) > 1 else {})}
digest = hashlib.sha256()
for index, pixels in enumerate(frames):
    picture = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv420p")
    picture.pts, picture.time_base = index, Fraction(1, 25)
    for packet in context.encode(picture):
        digest.update(bytes(packet))
for packet in context.encode(None):
    digest.update(bytes(packet))
print(digest.hexdigest())
PY

films() {  # how many different films three processes make of the same frames
  for byte in 212 101 43; do
    MALLOC_PERTURB_=$byte "$folder/venv/bin/python" "$folder/encode.py" "$@"
  done | sort -u | wc -l
}

plain=$(films) without=$(films mbtree=0) limited=$(films asm=avx2)
echo "libx264 as it is:  $plain different films of the same 9 frames"
echo "mbtree=0:          $without"
echo "asm=avx2:          $limited"
if [ "$plain" -gt 1 ] && [ "$without" -eq 1 ] && [ "$limited" -eq 1 ]; then
  echo "As described above."
else
  echo "This has changed: look at it again." >&2
  exit 1
fi

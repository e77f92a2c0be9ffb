// The pixels of an image at full depth, and halved again and again, so that far views cost no more than near ones.

const SMALLEST_SIDE = 256;

function halved({ width, height, pixels }) {
  const [w, h] = [width >> 1, height >> 1];
  const out = new Uint16Array(w * h);
  for (let y = 0, to = 0; y < h; y++) {
    let from = 2 * y * width;
    for (let x = 0; x < w; x++, from += 2) {
      out[to++] = (pixels[from] + pixels[from + 1] + pixels[from + width] + pixels[from + width + 1] + 2) >> 2;
    }
  }
  return { width: w, height: h, pixels: out };
}

export class Mammogram {
  /** `levels[k]` has a pixel for each 2^k x 2^k pixels of the file. */
  constructor(full) {
    this.width = full.width;
    this.height = full.height;
    this.levels = [full];
    while (Math.max(this.levels.at(-1).width, this.levels.at(-1).height) > SMALLEST_SIDE) {
      const next = halved(this.levels.at(-1));
      if (!next.width || !next.height) break;
      this.levels.push(next);
    }
  }

  /** The level whose pixels come nearest to the screen's, at `scale` screen pixels for one of the file. */
  levelAt(scale) {
    return Math.min(Math.max(Math.round(Math.log2(1 / scale)), 0), this.levels.length - 1);
  }

  /** The same turned: "mirror" left for right, "half" by half a turn. */
  turned(turn) {
    const { width, height } = this;
    const pixels = this.levels[0].pixels.slice();
    if (turn === "half") pixels.reverse();
    else for (let y = 0; y < height; y++) pixels.subarray(y * width, (y + 1) * width).reverse();
    return new Mammogram({ width, height, pixels });
  }

  /** On which side of the picture the chest wall is, "" where that cannot be seen: tissue reaches that border. */
  get wall() {
    const { width, height, pixels } = this.levels.at(-1);
    const bright = (x) => { let n = 0; for (let y = 0; y < height; y++) n += pixels[y * width + x] > 1500; return n / height; };
    const strip = Math.max(2, Math.round(width / 16));
    const share = (from) => { let sum = 0; for (let k = 0; k < strip; k++) sum += bright(from + k); return sum / strip; };
    const [left, right] = [share(0), share(width - strip)];
    if (Math.abs(left - right) < 0.2) return "";
    return left > right ? "left" : "right";
  }

  /** Grey values in [0, 1] below which the given fractions of the breast lie; exact zeros are background. */
  quantiles(shares) {
    const { pixels } = this.levels.find((level) => level.pixels.length <= 1_000_000) ?? this.levels.at(-1);
    const counts = new Uint32Array(65536);
    for (const value of pixels) counts[value]++;
    counts[0] = 0;
    const total = counts.reduce((sum, count) => sum + count, 0);
    return shares.map((share) => {
      let below = 0;
      for (let value = 0; value < 65536; value++) {
        below += counts[value];
        if (total && below >= share * total) return value / 65535;
      }
      return share;
    });
  }
}

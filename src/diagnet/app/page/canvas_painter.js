// Paints a mammogram by the processor, where there is no WebGL 2 or the image is larger than the graphics take.

export class CanvasPainter {
  constructor(canvas) {
    this.name = "2D canvas";
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.part = new OffscreenCanvas(1, 1);
    this.table = new Uint32Array(65536);
  }

  takes() {
    return true;
  }

  show(mammogram) {
    this.mammogram = mammogram;
  }

  paint({ scale, x, y, window }) {
    const { canvas, context, part, mammogram } = this;
    const level = mammogram.levelAt(scale);
    const { width, height, pixels } = mammogram.levels[level];
    const size = scale * 2 ** level; // of a pixel of the level, on the canvas
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    const left = Math.max(Math.floor(-x / size), 0), right = Math.min(Math.ceil((canvas.width - x) / size), width);
    const top = Math.max(Math.floor(-y / size), 0), bottom = Math.min(Math.ceil((canvas.height - y) / size), height);
    if (left >= right || top >= bottom) return;
    this.#fillTable(window);
    const seen = new ImageData(right - left, bottom - top);
    const out = new Uint32Array(seen.data.buffer);
    for (let row = top, to = 0; row < bottom; row++) {
      for (let from = row * width + left, end = row * width + right; from < end; from++) out[to++] = this.table[pixels[from]];
    }
    [part.width, part.height] = [seen.width, seen.height];
    part.getContext("2d").putImageData(seen, 0, 0);
    context.drawImage(part, x + left * size, y + top * size, seen.width * size, seen.height * size);
  }

  #fillTable(window) {
    const key = `${window.low} ${window.width} ${window.inverted}`;
    if (key === this.key) return;
    this.key = key;
    for (let value = 0; value < 65536; value++) {
      const grey = Math.round(255 * Math.min(Math.max((value / 65535 - window.low) / window.width, 0), 1));
      this.table[value] = 0xff000000 | ((window.inverted ? 255 - grey : grey) * 0x010101);
    }
  }
}

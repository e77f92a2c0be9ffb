// Which pixels moved the score, as a veil over the image: the stronger, the more opaque.

const SIDE_PX = 256; // at least, of the veil
const STRIPE_PX = 12;
const FOR_MALIGNANT = [230, 159, 0]; // Okabe and Ito's orange and sky blue; the blue is striped as well
const FOR_BENIGN = [86, 180, 233];

const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

/** A canvas with a saliency map as the server sends it; `signs` are 1 where a point speaks for malignant. */
export function veilOf({ size, values, signs }) {
  const strengths = bytesOf(values);
  const malignant = signs ? bytesOf(signs) : new Uint8Array(size * size).fill(1);
  const times = Math.ceil(SIDE_PX / size);
  const canvas = document.createElement("canvas");
  const side = (canvas.width = canvas.height = size * times);
  const context = canvas.getContext("2d");
  const image = context.createImageData(side, side);
  for (let y = 0, to = 0; y < side; y++) {
    for (let x = 0; x < side; x++, to += 4) {
      const from = Math.floor(y / times) * size + Math.floor(x / times);
      const gap = !malignant[from] && (x + y) % STRIPE_PX < STRIPE_PX / 2;
      image.data.set([...(malignant[from] ? FOR_MALIGNANT : FOR_BENIGN), gap ? strengths[from] / 3 : strengths[from]], to);
    }
  }
  context.putImageData(image, 0, 0);
  canvas.className = "veil";
  canvas.setAttribute("aria-hidden", "true");
  return canvas;
}

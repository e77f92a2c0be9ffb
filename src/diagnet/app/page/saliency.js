// Which pixels moved the score, as a veil over the image: the stronger, the more opaque and the yellower.

/** A canvas with a pixel for each value of a saliency map as the server sends it. */
export function veilOf({ size, values }) {
  const bytes = Uint8Array.from(atob(values), (letter) => letter.charCodeAt(0));
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d");
  const image = context.createImageData(size, size);
  // From Okabe and Ito's vermillion to their yellow: rising lightness, so it needs no color vision.
  for (let k = 0; k < size * size; k++) {
    const share = (bytes[k] ?? 0) / 255;
    image.data.set([213 + share * 27, 94 + share * 134, share * 66, 255 * share], 4 * k);
  }
  context.putImageData(image, 0, 0);
  canvas.className = "veil";
  canvas.setAttribute("aria-hidden", "true");
  return canvas;
}

// Paints a mammogram from a 16-bit integer texture with its halvings as mip levels (WebGL 2).

const VERTEX = `#version 300 es
void main() { gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0); }`;

// Integer textures know no filter: the four neighbors are mixed by hand, before the window is laid over them.
const FRAGMENT = `#version 300 es
precision highp float;
precision highp usampler2D;
uniform usampler2D pixels;
uniform int level;
uniform vec2 offset;
uniform float scale;
uniform float screen;
uniform float low;
uniform float gain;
uniform bool inverted;
out vec4 color;
void main() {
  vec2 at = (vec2(gl_FragCoord.x, screen - gl_FragCoord.y) - offset) / scale;
  ivec2 last = textureSize(pixels, level) - 1;
  if (any(lessThan(at, vec2(0.0))) || any(greaterThanEqual(at, vec2(last + 1)))) { color = vec4(0.0, 0.0, 0.0, 1.0); return; }
  vec2 corner = floor(at - 0.5), part = at - 0.5 - corner;
  ivec2 from = clamp(ivec2(corner), ivec2(0), last), to = clamp(ivec2(corner) + 1, ivec2(0), last);
  vec4 four = vec4(
    texelFetch(pixels, from, level).r, texelFetch(pixels, ivec2(to.x, from.y), level).r,
    texelFetch(pixels, ivec2(from.x, to.y), level).r, texelFetch(pixels, to, level).r);
  vec2 rows = mix(four.xz, four.yw, part.x);
  float grey = clamp((mix(rows.x, rows.y, part.y) / 65535.0 - low) * gain, 0.0, 1.0);
  color = vec4(vec3(inverted ? 1.0 - grey : grey), 1.0);
}`;

const BY_PROCESSOR = /swiftshader|llvmpipe|softpipe|software|basic render/i;
const UNIFORMS = ["level", "offset", "scale", "screen", "low", "gain", "inverted"];

export class TexturePainter {
  /** A painter, or null where there is no WebGL 2 by a graphics card: played by the processor it is slower than a 2D canvas. */
  static on(canvas) {
    const gl = canvas.getContext("webgl2", { alpha: false, antialias: false, depth: false, failIfMajorPerformanceCaveat: true });
    if (!gl) return null;
    const renderer = gl.getExtension("WEBGL_debug_renderer_info")?.UNMASKED_RENDERER_WEBGL ?? gl.RENDERER;
    return BY_PROCESSOR.test(gl.getParameter(renderer)) ? null : new TexturePainter(gl);
  }

  constructor(gl) {
    this.name = "WebGL 2";
    this.gl = gl;
    const program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    this.places = Object.fromEntries(UNIFORMS.map((name) => [name, gl.getUniformLocation(program, name)]));
  }

  /** Whether the graphics take an image this large. */
  takes(mammogram) {
    return Math.max(mammogram.width, mammogram.height) <= this.gl.getParameter(this.gl.MAX_TEXTURE_SIZE);
  }

  show(mammogram) {
    const { gl } = this;
    gl.deleteTexture(this.texture);
    this.texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, this.texture);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 2);
    gl.texStorage2D(gl.TEXTURE_2D, mammogram.levels.length, gl.R16UI, mammogram.width, mammogram.height);
    for (const [k, { width, height, pixels }] of mammogram.levels.entries()) {
      gl.texSubImage2D(gl.TEXTURE_2D, k, 0, 0, width, height, gl.RED_INTEGER, gl.UNSIGNED_SHORT, pixels);
    }
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST_MIPMAP_NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
    this.mammogram = mammogram;
  }

  /** `scale`, `x`, `y` in pixels of the canvas. */
  paint({ scale, x, y, window }) {
    const { gl, places } = this;
    const { width, height } = gl.canvas;
    gl.viewport(0, 0, width, height);
    const level = this.mammogram.levelAt(scale);
    gl.uniform1i(places.level, level);
    gl.uniform2f(places.offset, x, y);
    gl.uniform1f(places.scale, scale * 2 ** level);
    gl.uniform1f(places.screen, height);
    gl.uniform1f(places.low, window.low);
    gl.uniform1f(places.gain, 1 / window.width);
    gl.uniform1i(places.inverted, window.inverted ? 1 : 0);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }
}

// A depth map as a surface in WebGL 2: where a sample lies is computed as in mesh.py, by the graphics card.

class Space {
  static VERTEX = `#version 300 es
    in float depth;
    uniform ivec2 grid;      // columns and rows of the samples
    uniform float stride;
    uniform vec2 size;       // of the picture: width and height
    uniform float slope;     // of the ray at the end of the longer side
    uniform mat4 seen;
    uniform int marked;      // the only sample to draw, or -1
    out vec2 place;
    out vec3 world;
    void main() {
      int number = marked < 0 ? gl_VertexID : marked;
      vec2 pixel = vec2(number % grid.x, number / grid.x) * stride + 0.5;
      float focal = max(size.x, size.y) / 2.0 / slope;
      place = pixel / size;
      world = vec3((pixel - size / 2.0) / focal, 1.0) * depth;
      gl_Position = seen * vec4(world, 1.0);
      gl_PointSize = 13.0;
    }`;
  static FRAGMENT = `#version 300 es
    precision highp float;
    precision highp int;
    in vec2 place;
    in vec3 world;
    uniform sampler2D colours;
    uniform float shading;
    uniform int marked;
    out vec4 colour;
    void main() {
      if (marked >= 0) {
        float far = length(gl_PointCoord - 0.5);
        if (far > 0.5) discard;
        colour = vec4(vec3(far > 0.3 ? 0.0 : 1.0), 1.0);
        return;
      }
      vec3 normal = normalize(cross(dFdx(world), dFdy(world)));
      float light = abs(dot(normal, normalize(world)));
      colour = vec4(texture(colours, place).rgb * mix(1.0, light, shading), 1.0);
    }`;

  // The surface on a canvas, coloured by what source() gives; null if the browser cannot.
  static open(canvas, source) {
    const gl = canvas.getContext("webgl2", { antialias: true, alpha: true, preserveDrawingBuffer: true });
    return gl && new Space(canvas, gl, source);
  }

  constructor(canvas, gl, source) {
    Object.assign(this, { canvas, gl, source, shading: 0, view: 60, marked: null, pointers: new Map(), asked: false });
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => {
      this.prepare();
      this.load();
      this.paint();
    });
    this.prepare();
    this.listen();
    new ResizeObserver(() => this.paint()).observe(canvas);
  }

  prepare() {
    const { gl } = this;
    this.program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, Space.VERTEX], [gl.FRAGMENT_SHADER, Space.FRAGMENT]]) {
      const part = gl.createShader(kind);
      gl.shaderSource(part, text);
      gl.compileShader(part);
      gl.attachShader(this.program, part);
    }
    gl.linkProgram(this.program);
    if (!gl.getProgramParameter(this.program, gl.LINK_STATUS) && !gl.isContextLost())
      throw new Error(gl.getProgramInfoLog(this.program));
    gl.useProgram(this.program);
    this.at = new Proxy({}, { get: (_, name) => gl.getUniformLocation(this.program, name) });
    [this.depths, this.faces] = [gl.createBuffer(), gl.createBuffer()];
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    for (const side of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, side, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR);
    gl.enable(gl.DEPTH_TEST);
  }

  set(surface, width, height) {
    Object.assign(this, { surface, width, height });
    const known = surface.depth.filter((depth) => depth > 0).sort();
    this.middle = known[Math.floor(known.length / 2)] ?? 1;
    this.load();
    this.reset();
  }

  load() {
    if (!this.surface) return;
    const { gl, surface } = this;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.depths);
    gl.bufferData(gl.ARRAY_BUFFER, surface.depth, gl.STATIC_DRAW);
    const place = gl.getAttribLocation(this.program, "depth");
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, 1, gl.FLOAT, false, 0, 0);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.faces);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, surface.faces, gl.STATIC_DRAW);
  }

  // From where the picture was taken, a little to the side: else it would look like the picture.
  reset() {
    Object.assign(this, { turn: -0.35, tilt: 0.18, away: 1.05 });
    this.paint();
  }

  // Marks the sample that is nearest to a pixel of the picture.
  mark(x, y) {
    if (!this.surface) return;
    const { size: [rows, columns], stride, depth } = this.surface;
    const number = Math.min(rows - 1, Math.floor(y / stride)) * columns + Math.min(columns - 1, Math.floor(x / stride));
    this.marked = depth[number] > 0 ? number : null;
    this.paint();
  }

  paint() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.paintNow();
    });
  }

  paintNow() {
    const { gl, canvas, surface } = this;
    const source = this.source();
    if (!surface || !source || gl.isContextLost() || !canvas.clientWidth) return;
    const fine = Math.min(2, devicePixelRatio || 1);
    const [wide, high] = [Math.round(canvas.clientWidth * fine), Math.round(canvas.clientHeight * fine)];
    if (canvas.width !== wide || canvas.height !== high) Object.assign(canvas, { width: wide, height: high });
    gl.viewport(0, 0, wide, high);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, source);
    const slope = Math.tan((this.view * Math.PI) / 360);
    gl.uniform2i(this.at.grid, surface.size[1], surface.size[0]);
    gl.uniform1f(this.at.stride, surface.stride);
    gl.uniform2f(this.at.size, this.width, this.height);
    gl.uniform1f(this.at.slope, slope);
    gl.uniform1f(this.at.shading, this.shading);
    gl.uniformMatrix4fv(this.at.seen, false, this.seen(slope, wide / high));
    gl.uniform1i(this.at.marked, -1);
    gl.drawElements(gl.TRIANGLES, surface.faces.length, gl.UNSIGNED_INT, 0);
    if (this.marked === null) return;
    gl.disable(gl.DEPTH_TEST);
    gl.uniform1i(this.at.marked, this.marked);
    // The attribute must be that sample's: draw from its place in the buffer.
    gl.drawArrays(gl.POINTS, this.marked, 1);
    gl.enable(gl.DEPTH_TEST);
  }

  // From the camera's frame (x right, y down, z forward) to the screen: turned about the scene's middle.
  seen(slope, ratio) {
    const longer = Math.max(this.width, this.height);
    const [half, tall] = [(slope * this.width) / longer, (slope * this.height) / longer];
    // The picture fits into the canvas, whichever of the two is wider.
    const scale = 1 / Math.max(half / ratio, tall);
    const [c, s, d, e] = [Math.cos(this.turn), Math.sin(this.turn), Math.cos(this.tilt), Math.sin(this.tilt)];
    const far = this.middle * this.away;
    // Rows of: turn about y, then tilt about x, after the middle was moved to the origin.
    const rows = [
      [c, 0, s],
      [e * s, d, -e * c],
      [-d * s, e, d * c],
    ];
    const moved = rows.map((row) => [...row, -row[2] * this.middle]);
    moved[2][3] += far;
    const [near, end] = [this.middle / 100, this.middle * 100];
    const depth = [(end + near) / (end - near), (-2 * end * near) / (end - near)];
    const full = [
      moved[0].map((value) => (value * scale) / ratio),
      moved[1].map((value) => -value * scale),
      moved[2].map((value, place) => value * depth[0] + (place === 3 ? depth[1] : 0)),
      moved[2],
    ];
    return new Float32Array([0, 1, 2, 3].flatMap((column) => full.map((row) => row[column])));
  }

  rotate(right, down) {
    this.turn = Math.max(-1.2, Math.min(1.2, this.turn + right));
    this.tilt = Math.max(-1.2, Math.min(1.2, this.tilt + down));
    this.paint();
  }

  zoom(factor) {
    this.away = Math.max(0.1, Math.min(6, this.away * factor));
    this.paint();
  }

  listen() {
    const { canvas, pointers } = this;
    const apart = () => {
      const [a, b] = [...pointers.values()];
      return Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, event);
    });
    for (const end of ["pointerup", "pointercancel"])
      canvas.addEventListener(end, (event) => pointers.delete(event.pointerId));
    canvas.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      const wide = pointers.size === 2 ? apart() : 0;
      pointers.set(event.pointerId, event);
      if (wide) this.zoom(wide / Math.max(1, apart()));
      else this.rotate((event.clientX - before.clientX) / 200, (event.clientY - before.clientY) / 200);
    });
    canvas.addEventListener(
      "wheel",
      (event) => {
        if (document.activeElement !== canvas) return; // else the page could not be scrolled past it
        event.preventDefault();
        this.zoom(Math.exp(event.deltaY / 600));
      },
      { passive: false },
    );
    canvas.addEventListener("keydown", (event) => {
      const done = {
        ArrowLeft: () => this.rotate(-0.1, 0),
        ArrowRight: () => this.rotate(0.1, 0),
        ArrowUp: () => this.rotate(0, -0.1),
        ArrowDown: () => this.rotate(0, 0.1),
        "+": () => this.zoom(1 / 1.15),
        "=": () => this.zoom(1 / 1.15),
        "-": () => this.zoom(1.15),
      }[event.key];
      if (!done) return;
      event.preventDefault();
      done();
    });
  }
}

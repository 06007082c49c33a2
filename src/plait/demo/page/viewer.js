// Shows a prediction: pictures side by side, what they say at one place, their legends and sliders, and the surface.
// What it gets is described in view.py. Nothing here knows which task it shows, and nothing asks the server.

const find = (name) => element.querySelector(`.plait-${name}`);
const make = (tag, name, parent, text) => {
  const made = document.createElement(tag);
  if (name) made.className = `plait-${name}`;
  if (text !== undefined) made.textContent = text;
  parent?.append(made);
  return made;
};

async function unpacked({ type, shape, bytes }) {
  const deflated = Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0));
  const stream = new Blob([deflated]).stream().pipeThrough(new DecompressionStream("deflate"));
  const Kind = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, int32: Int32Array, float32: Float32Array };
  return Object.assign(new Kind[type](await new Response(stream).arrayBuffer()), { shape });
}

async function decoded(address) {
  const picture = new Image();
  picture.src = address;
  await picture.decode();
  return picture;
}

const sheet = (width, height) => Object.assign(document.createElement("canvas"), { width, height });

// One map: where it is drawn, what it says, what may be chosen of it.
class Layer {
  constructor(task, size) {
    [this.height, this.width] = size;
    Object.assign(this, task);
    this.canvas = sheet(this.width, this.height); // as it is shown
    this.colours = sheet(this.width, this.height); // the map alone
    this.only = null; // the word that alone is shown
    if (task.limits) {
      this.from = task.limits.low;
      this.to = task.limits.high;
    }
  }

  async open() {
    this.index = await unpacked(this.words.index);
    const pen = this.colours.getContext("2d", { willReadFrequently: true });
    if (this.values) this.codes = await unpacked(this.values.codes);
    else pen.drawImage(await decoded(this.picture), 0, 0);
    this.pixels = pen.getImageData(0, 0, this.width, this.height);
    this.colour();
  }

  word(x, y) {
    const { stride, table } = this.words;
    const columns = this.index.shape[1];
    return table[this.index[Math.floor(y / stride) * columns + Math.floor(x / stride)]];
  }

  // Writes colours and transparency by what is chosen; the photo shines through where nothing is shown.
  colour() {
    const { data } = this.pixels;
    if (this.values) {
      const { least, most } = this.values;
      const { bar, unknown } = this.legend;
      const scale = (most - least) / 65534;
      const cut = this.limits.kind === "threshold";
      const [low, high] = cut ? [this.limits.low, this.limits.high] : [this.from, this.to];
      for (let place = 0; place < this.codes.length; place++) {
        const code = this.codes[place];
        const value = least + code * scale;
        const share = Math.min(1, Math.max(0, (value - low) / (high - low || 1e-9)));
        const [red, green, blue] = code === 65535 ? unknown : bar[Math.round(share * (bar.length - 1))];
        data.set([red, green, blue, cut && value < this.from ? 0 : 255], 4 * place);
      }
    } else {
      for (let y = 0, place = 3; y < this.height; y++)
        for (let x = 0; x < this.width; x++, place += 4)
          data[place] = this.only === null || this.word(x, y) === this.only ? 255 : 0;
    }
    this.colours.getContext("2d").putImageData(this.pixels, 0, 0);
  }

  draw(photo, opacity) {
    const pen = this.canvas.getContext("2d");
    pen.globalAlpha = 1;
    pen.drawImage(photo, 0, 0, this.width, this.height);
    pen.globalAlpha = opacity;
    pen.drawImage(this.colours, 0, 0);
  }
}

const maps = find("maps");
const reading = find("reading");
const opacity = find("opacity");
let shown = null; // photo, layers, frames and the place that is read
let count = 0;

async function show(text) {
  const mine = ++count;
  if (!text) {
    shown = null;
    find("shown").hidden = true;
    find("hint").hidden = false;
    return;
  }
  const given = JSON.parse(text);
  const [height, width] = given.size;
  const photo = await decoded(given.photo);
  const layers = given.tasks.map((task) => new Layer(task, given.size));
  await Promise.all(layers.map((layer) => layer.open()));
  const surface = given.mesh && {
    ...given.mesh,
    depth: await unpacked(given.mesh.depth),
    faces: (await unpacked(given.mesh.faces)).reduce((sums, step, place) => {
      sums[place] = step + (place ? sums[place - 1] : 0);
      return sums;
    }, new Uint32Array(given.mesh.faces.shape[0])),
  };
  if (mine !== count) return; // another picture has come meanwhile
  const plain = sheet(width, height);
  plain.getContext("2d").drawImage(photo, 0, 0, width, height);
  shown = { photo: plain, layers, frames: [], width, height, x: Math.floor(width / 2), y: Math.floor(height / 2) };
  maps.replaceChildren();
  frame("photo", "what the network looked at", plain, null);
  for (const layer of layers) {
    const figure = frame(layer.title, layer.meaning, layer.canvas, layer);
    drawLegend(layer, figure);
    drawSliders(layer, figure);
  }
  find("hint").hidden = true;
  find("shown").hidden = false;
  showSpace(surface, given.why);
  draw();
  point(shown.x, shown.y);
  find("shown").dataset.count = mine;
  if (element.getBoundingClientRect().top > 0.7 * innerHeight) {
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    element.scrollIntoView({ behavior: still ? "auto" : "smooth" });
  }
}

// A picture with its name and the word at the place that is read.
function frame(title, meaning, canvas, layer) {
  const figure = make("figure", "map", maps);
  const caption = make("figcaption", "", figure);
  make("span", "name", caption, title);
  const word = layer && make("output", "word", caption);
  make("p", "meaning", figure, meaning);
  const box = make("div", "frame", figure);
  box.append(canvas);
  box.style.aspectRatio = `${shown.width} / ${shown.height}`;
  box.style.maxWidth = `${(90 * shown.width) / shown.height}vh`; // a strip is no higher than the window
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${title}: ${meaning}. Arrow keys move the place that is read.`);
  const across = make("div", "across", box);
  const down = make("div", "down", box);
  const read = (event) => {
    const { left, top, width, height } = canvas.getBoundingClientRect();
    point(
      Math.floor(((event.clientX - left) / width) * shown.width),
      Math.floor(((event.clientY - top) / height) * shown.height),
    );
  };
  canvas.addEventListener("pointermove", read);
  canvas.addEventListener("pointerdown", read);
  canvas.addEventListener("keydown", (event) => {
    const step = Math.max(1, Math.round(Math.max(shown.width, shown.height) / (event.shiftKey ? 10 : 80)));
    const [right, below] =
      { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
    if (!right && !below) return;
    event.preventDefault();
    point(shown.x + right * step, shown.y + below * step);
    reading.textContent = shown.layers.map((one) => `${one.title}: ${one.word(shown.x, shown.y)}`).join("; ");
  });
  shown.frames.push({ across, down, word, layer });
  return figure;
}

function point(x, y) {
  shown.x = Math.min(shown.width - 1, Math.max(0, x));
  shown.y = Math.min(shown.height - 1, Math.max(0, y));
  const [left, top] = [(shown.x + 0.5) / shown.width, (shown.y + 0.5) / shown.height];
  for (const { across, down, word, layer } of shown.frames) {
    across.style.top = `${100 * top}%`;
    down.style.left = `${100 * left}%`;
    if (word) word.value = layer.word(shown.x, shown.y);
  }
  space?.mark(shown.x, shown.y);
}

function drawLegend(layer, figure) {
  const { entries, bar, low, high } = layer.legend;
  const list = make("ul", "legend", figure);
  list.setAttribute("aria-label", `Legend of ${layer.title}`);
  for (const { text, colour, share } of entries) {
    const item = make("li", "", list);
    const told = share === null ? text : `${text} ${share < 0.005 ? "< 1" : Math.round(100 * share)} %`;
    const entry = make(share === null ? "span" : "button", "entry", item);
    make("i", "", entry).style.background = `rgb(${colour})`;
    entry.append(told);
    if (share === null) continue;
    entry.type = "button";
    entry.title = `show ${text} alone`;
    entry.setAttribute("aria-pressed", "false");
    entry.addEventListener("click", () => {
      layer.only = layer.only === text ? null : text;
      for (const button of list.querySelectorAll("button")) button.setAttribute("aria-pressed", "false");
      entry.setAttribute("aria-pressed", String(layer.only === text));
      layer.colour();
      draw();
    });
  }
  if (!bar) return;
  list.remove();
  const scale = make("div", "scale", figure);
  scale.setAttribute("role", "img");
  layer.ends = [make("span", "", scale, low)];
  const stops = bar.filter((_, place) => place % 15 === 0);
  make("i", "", scale).style.background = `linear-gradient(90deg, ${stops.map((c) => `rgb(${c})`).join(", ")})`;
  layer.ends.push(make("span", "", scale, high));
  layer.scale = scale;
  scale.setAttribute("aria-label", `Colours of ${layer.title}: from ${low} to ${high}`);
}

function drawSliders(layer, figure) {
  if (!layer.limits) return;
  const { kind, low, high, texts } = layer.limits;
  const last = texts.length - 1;
  const value = (place) => low + ((high - low) * place) / last;
  const add = (name, place, chosen) => {
    const label = make("label", "slider", figure);
    make("span", "", label, name);
    const input = make("input", "", label);
    Object.assign(input, { type: "range", min: 0, max: last, value: place });
    const told = make("output", "", label, texts[place]);
    input.setAttribute("aria-valuetext", texts[place]);
    input.addEventListener("input", () => {
      chosen(Number(input.value), input);
      told.value = texts[input.value];
      input.setAttribute("aria-valuetext", texts[input.value]);
      layer.colour();
      draw();
    });
    return input;
  };
  if (kind === "threshold") {
    add("hide below", 0, (place) => (layer.from = value(place)));
    return;
  }
  // The two ends stay a step apart.
  const ends = () => {
    const told = [texts[first.value], texts[second.value]];
    layer.ends.forEach((end, place) => (end.textContent = told[place]));
    layer.scale.setAttribute("aria-label", `Colours of ${layer.title}: from ${told[0]} to ${told[1]}`);
  };
  const first = add("colours from", 0, (place, input) => {
    input.value = Math.min(place, Number(second.value) - 1);
    layer.from = value(Number(input.value));
    ends();
  });
  const second = add("to", last, (place, input) => {
    input.value = Math.max(place, Number(first.value) + 1);
    layer.to = value(Number(input.value));
    ends();
  });
  // The steps around what occurs in this picture.
  const fit = make("button", "button", figure, "fit to this picture");
  fit.type = "button";
  fit.addEventListener("click", () => {
    const step = (number) => ((number - low) / (high - low)) * last;
    const least = Math.max(0, Math.min(last - 1, Math.floor(step(layer.values.least))));
    const most = Math.min(last, Math.max(least + 1, Math.ceil(step(layer.values.most))));
    for (const [input, place] of [[first, 0], [second, last], [first, least], [second, most]]) {
      input.value = place;
      input.dispatchEvent(new Event("input"));
    }
  });
}

let asked = false;
function draw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    if (!shown) return;
    for (const layer of shown.layers) layer.draw(shown.photo, opacity.value / 100);
    space?.paint();
  });
}
opacity.addEventListener("input", draw);

// --- the surface ---

const colour = find("colour");
const lens = find("view");
let space = null;

function showSpace(surface, why) {
  const canvas = find("canvas");
  space ??= surface && Space.open(canvas, () => shown && (colour.value === "photo" ? shown.photo : layerNamed().canvas));
  const reason = why || (space ? "" : "This browser has no WebGL 2, which the 3D view needs.");
  find("why").textContent = reason;
  find("why").hidden = !reason;
  find("space-shown").hidden = Boolean(reason);
  if (reason) return;
  const before = colour.value;
  colour.replaceChildren(...["photo", ...shown.layers.map(({ name }) => name)].map((name) => new Option(name.replaceAll("_", " "), name)));
  if ([...colour.options].some(({ value }) => value === before)) colour.value = before;
  space.set(surface, shown.width, shown.height);
  see();
}
const layerNamed = () => shown.layers.find(({ name }) => name === colour.value);
function see() {
  find("view-told").value = `${lens.value}°`;
  if (!space) return;
  space.shading = colour.value === "photo" ? 0 : 0.5;
  space.view = Number(lens.value);
  space.paint();
}
colour.addEventListener("change", see);
lens.addEventListener("input", see);
find("reset").addEventListener("click", () => space?.reset());

watch("value", () => show(props.value));
show(props.value);

// The drawing of a graph: zoom, move, and the facts of the chosen box.
for (const graph of document.querySelectorAll(".graph")) {
  const canvas = graph.querySelector(".canvas"), svg = canvas.querySelector("svg");
  const width = Number(svg.dataset.width), height = Number(svg.dataset.height);
  const boxes = [...graph.querySelectorAll(".box")];
  const facts = [...graph.querySelectorAll(".side .facts")];
  const wires = [...graph.querySelectorAll(".wire")];
  let scale = 1, fitted = false;

  const zoom = (to, x, y) => {
    const old = scale;
    scale = Math.min(3, Math.max(0.1, to));
    svg.setAttribute("width", width * scale);
    svg.setAttribute("height", height * scale);
    if (x === undefined) return;
    canvas.scrollLeft = (canvas.scrollLeft + x) * scale / old - x;
    canvas.scrollTop = (canvas.scrollTop + y) * scale / old - y;
  };
  const middle = () => [canvas.clientWidth / 2, canvas.clientHeight / 2];
  const whole = () => Math.min((canvas.clientWidth - 28) / width, (parseFloat(getComputedStyle(canvas).maxHeight) - 28) / height);
  const fit = () => {
    if (fitted || !canvas.clientWidth) return;
    fitted = true;
    // Text stays readable; what does not fit is reached by moving.
    zoom(Math.min(1, Math.max(whole(), 0.66)));
    canvas.scrollLeft = (width * scale + 28 - canvas.clientWidth) / 2;
  };
  fit();
  document.addEventListener("shown", fit);

  const buttons = {
    in: () => zoom(scale * 1.25, ...middle()),
    out: () => zoom(scale / 1.25, ...middle()),
    all: () => zoom(Math.min(1, whole()), ...middle()),
  };
  for (const [name, act] of Object.entries(buttons)) graph.querySelector(`[data-do="${name}"]`).addEventListener("click", act);
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const at = canvas.getBoundingClientRect();
    zoom(scale * Math.exp(-event.deltaY / 300), event.clientX - at.left, event.clientY - at.top);
  }, { passive: false });

  let from = null;
  canvas.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse" && event.button === 0) from = [event.clientX, event.clientY, canvas.scrollLeft, canvas.scrollTop];
  });
  addEventListener("pointermove", (event) => {
    if (!from) return;
    if (Math.abs(event.clientX - from[0]) + Math.abs(event.clientY - from[1]) > 4) canvas.classList.add("moving");
    canvas.scrollLeft = from[2] - (event.clientX - from[0]);
    canvas.scrollTop = from[3] - (event.clientY - from[1]);
  });
  addEventListener("pointerup", () => { from = null; setTimeout(() => canvas.classList.remove("moving")); });

  const light = (path) => {
    for (const wire of wires) {
      wire.classList.toggle("lit", path !== null && (wire.dataset.source === path || wire.dataset.target === path));
    }
  };
  let chosen = null;
  const choose = (box) => {
    if (canvas.classList.contains("moving")) return;
    chosen = chosen === box ? null : box;
    for (const each of boxes) each.setAttribute("aria-pressed", String(each === chosen));
    for (const each of facts) each.hidden = !chosen || each.dataset.index !== chosen.dataset.index;
    graph.querySelector(".hint").hidden = chosen !== null;
    light(chosen && chosen.dataset.path);
  };
  const hottest = facts.find((each) => each.hasAttribute("data-slowest"));
  if (hottest) choose(boxes.find((box) => box.dataset.index === hottest.dataset.index));
  for (const box of boxes) {
    box.addEventListener("click", () => choose(box));
    box.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      choose(box);
    });
    box.addEventListener("mouseenter", () => light(box.dataset.path));
    box.addEventListener("mouseleave", () => light(chosen && chosen.dataset.path));
  }
}
